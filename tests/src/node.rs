//! A private RabbitMQ node, for tests that break it.

use std::{fs, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tempfile::TempDir;

use crate::{
    Certificates,
    certificates::Issued,
    script::{Script, free_port},
    wait_for,
};

const SCRIPT: Script = Script("deploy/local/broker.sh");

/// Erlang code that starts a process, which suspends the write-ahead log of the quorum queues until it
/// receives a message. The process has to stay alive: when a process ends, Erlang resumes everything that it
/// has suspended.
const STALL: &str = "Main = self(), \
    spawn(fun() -> \
        register(magnetite_stall, self()), \
        erlang:suspend_process(whereis(ra_log_wal)), \
        Main ! stalled, \
        receive go -> ok end \
    end), \
    receive stalled -> stalled after 5000 -> failed end.";

/// A private node. It is stopped and deleted when the value is dropped.
pub struct Node {
    directory: TempDir,
    url: String,
    name: String,
}

impl Node {
    /// Starts a node on free ports.
    pub async fn start() -> Self {
        let directory = new_directory();
        let url = SCRIPT.run("start", directory.path(), &[]).await;
        Self::of(directory, url)
    }

    /// Starts a new node in the same cluster as this one.
    pub(crate) async fn start_beside(&self) -> Self {
        let (directory, other) = (new_directory(), self.directory.path().to_str().unwrap());
        let url = SCRIPT.run("join", directory.path(), &[other]).await;
        Self::of(directory, url)
    }

    fn of(directory: TempDir, url: String) -> Self {
        let name = name(directory.path());
        Self { directory, url, name }
    }

    /// Returns the node's name in its cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the node's URL, which stays the same after a restart.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the node's directory, which is also the argument of `deploy/local/broker.sh ctl`.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Kills the node with SIGKILL.
    pub async fn kill(&self) {
        SCRIPT.run("kill", self.directory.path(), &[]).await;
    }

    /// Suspends the node with SIGSTOP. Its connections stay open, but it does not answer.
    pub async fn pause(&self) {
        SCRIPT.run("pause", self.directory.path(), &[]).await;
    }

    /// Resumes the node with SIGCONT.
    pub async fn resume(&self) {
        SCRIPT.run("resume", self.directory.path(), &[]).await;
    }

    /// Starts the node again with its existing data.
    pub async fn start_again(&self) {
        let url = SCRIPT.run("start", self.directory.path(), &[]).await;
        assert_eq!(url, self.url, "the node keeps its port");
    }

    /// Waits until the queue holds no message: neither ready, nor unacked, nor waiting to be dead-lettered.
    /// RabbitMQ updates these counts every 5 s.
    pub async fn wait_for_empty(&self, queue: &str, limit: Duration) {
        wait_for(&format!("{queue} is empty"), limit, || async {
            let queues = self.ctl(&["list_queues", "-q", "name", "messages"]).await;
            let line = queues.lines().find(|line| line.split('\t').next() == Some(queue));
            match line {
                Some(line) if line.ends_with("\t0") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Raises a memory alarm, so that the node blocks all publishers.
    pub async fn raise_memory_alarm(&self, limit: Duration) {
        self.ctl(&["set_vm_memory_high_watermark", "0.00001"]).await;
        wait_for("the alarm is raised", limit, || async {
            let alarms = self.ctl(&["-q", "eval", "rabbit_alarm:get_alarms()."]).await;
            if alarms.contains("memory") {
                Ok(())
            } else {
                Err(alarms)
            }
        })
        .await;
    }

    /// Ends the memory alarm, so that the node accepts publishes again.
    pub async fn end_memory_alarm(&self) {
        self.ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
    }

    /// Makes the node's disk hang: the node neither stores nor confirms what quorum queues write. Everything
    /// else continues to work.
    pub async fn stall_disk(&self) {
        let answer = self.ctl(&["-q", "eval", STALL]).await;
        assert_eq!(answer.trim(), "stalled");
    }

    /// Ends the hang that [`Node::stall_disk`] began.
    pub async fn end_stall(&self) {
        self.ctl(&["-q", "eval", "magnetite_stall ! go."]).await;
    }

    /// Makes the node listen for AMQP over TLS as well, and returns the port. Clients have to present a
    /// certificate of the authority. They may log in with the certificate alone, as the user in its common
    /// name.
    pub async fn listen_with_tls(&self, server: &Issued, authority: &Certificates) -> u16 {
        let (port, options) = (free_port(), tls_options(server, authority));
        let start = format!(
            "application:set_env(rabbit, auth_mechanisms, ['PLAIN', 'AMQPLAIN', 'EXTERNAL']), \
             application:set_env(rabbit, ssl_cert_login_from, common_name), \
             Options = [{options}], \
             application:set_env(rabbit, ssl_options, Options), \
             Arguments = [{{\"127.0.0.1\", {port}}}, Options, 2], \
             Newer = erlang:function_exported(rabbit_networking, start_ssl_listener, 4), \
             apply(rabbit_networking, start_ssl_listener, case Newer of true -> Arguments ++ [1]; false -> Arguments end)."
        );
        let answer = self.ctl(&["-q", "eval", &start]).await;
        assert_eq!(answer.trim(), "ok");
        port
    }

    /// Makes the node's management API listen with TLS as well, and returns the port. Clients have to present
    /// a certificate of the authority.
    pub async fn manage_with_tls(&self, server: &Issued, authority: &Certificates) -> u16 {
        let (port, options) = (free_port(), tls_options(server, authority));
        let start = format!(
            "application:set_env(rabbitmq_management, ssl_config, [{{ip, \"127.0.0.1\"}}, {{port, {port}}}, {options}]), \
             rabbit_mgmt_app:reset_dispatcher([])."
        );
        let answer = self.ctl(&["-q", "eval", &start]).await;
        assert_eq!(answer.trim(), "ok");
        port
    }

    /// Runs `rabbitmqctl` on this node, and returns its output.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        SCRIPT.run("ctl", self.directory.path(), arguments).await
    }

    /// Prints the last lines of the node's own log, which may show why a test failed.
    #[allow(clippy::print_stderr, reason = "it is shown with what the test has logged")]
    fn print_log(&self) {
        const LINES_MAX: usize = 40;
        let log = SCRIPT.run_last("log", self.directory.path());
        let lines: Vec<_> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LINES_MAX)..];
        eprintln!("the last log lines of node {}:\n{}", self.name, last.join("\n"));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_log();
        }
        SCRIPT.run_last("remove", self.directory.path());
    }
}

/// Returns TLS options for a server, as the entries of an Erlang list.
fn tls_options(server: &Issued, authority: &Certificates) -> String {
    let der = |bytes: &[u8]| format!("base64:decode(\"{}\")", STANDARD.encode(bytes));
    format!(
        "{{cacerts, [{}]}}, {{cert, {}}}, {{key, {{'PrivateKeyInfo', {}}}}}, {{verify, verify_peer}}, {{fail_if_no_peer_cert, true}}",
        der(authority.der()),
        der(server.certificate_der()),
        der(server.key_der())
    )
}

fn new_directory() -> TempDir {
    TempDir::with_prefix("magnetite-node-").unwrap()
}

/// Reads the node's name from the file that the script has written.
fn name(directory: &Path) -> String {
    let noted = fs::read_to_string(directory.join("node")).unwrap();
    let name = noted.lines().find_map(|line| line.strip_prefix("node="));
    name.unwrap().to_owned()
}
