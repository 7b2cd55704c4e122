//! A running role: its process, its probes and its log.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::Path,
    process::Stdio,
    thread,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
};

use crate::{SOON, free_port, wait_for};

/// A running role. It is killed when the value is dropped.
pub struct Role {
    child: Child,
    port: u16,
}

impl Role {
    /// Starts `command`, whose probes are served at `port`. The log goes to `log` and to this process's
    /// standard error, which the test runner shows if the test fails.
    pub(crate) fn start(mut command: Command, port: u16, log: &Path) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        copy(child.stderr.take().expect("it is piped"), log);
        Self { child, port }
    }

    /// Waits until `/readyz` answers with 200.
    pub async fn wait_until_ready(&self) {
        wait_for("the role is ready", SOON, || async {
            match self.get("/readyz").await {
                Ok(response) if response.starts_with("HTTP/1.1 200") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Returns the value of a metric, summed over all series whose line contains `label`.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let metrics = self.get("/metrics").await.unwrap();
        let lines = metrics.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
                && line.contains(label)
        });
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Sends a GET request to the health port, and returns the whole HTTP response.
    pub async fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        Ok(response)
    }

    /// Returns the number of messages that the role holds unacked.
    pub async fn unacked(&self) -> u64 {
        self.metric("magnetite_messages_unacked", "").await as u64
    }

    /// Waits until the role holds exactly `count` messages of the queue unacked. The queue `held` stands for
    /// all queues of held deliveries. An empty name stands for all queues.
    pub async fn wait_for_unacked(&self, queue: &str, count: u64, limit: Duration) {
        wait_for(&format!("{count} unacked of {queue:?}"), limit, || async {
            let label = if queue.is_empty() {
                String::new()
            } else {
                format!("queue=\"{queue}\"")
            };
            let unacked = self.metric("magnetite_messages_unacked", &label).await as u64;
            if unacked == count {
                Ok(())
            } else {
                Err(format!("{unacked}"))
            }
        })
        .await;
    }

    /// Returns the peak memory (resident set) of the process so far, in MiB.
    pub fn memory_max_mib(&self) -> u64 {
        memory_kib(self.pid(), "VmHWM") / 1024
    }

    /// Returns the port of its probes.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it has not ended yet")
    }

    /// Kills the process with SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Sends a signal, such as `STOP` or `CONT`.
    pub async fn signal(&self, name: &str) {
        let (signal, pid) = (format!("-{name}"), self.pid().to_string());
        let sent = Command::new("kill").args([&signal, &pid]).status().await.unwrap();
        assert!(sent.success(), "kill {signal} {pid}");
    }

    /// Sends SIGTERM and waits until the process has exited. Returns whether the exit code was 0.
    pub async fn terminate(self) -> bool {
        self.signal("TERM").await;
        self.ended().await
    }

    /// Waits until the process has exited. Returns whether the exit code was 0.
    pub async fn ended(mut self) -> bool {
        self.child.wait().await.unwrap().success()
    }
}

/// Returns a process's memory in KiB, from a field of proc(5): `VmRSS` is the current value, `VmHWM` the
/// peak.
pub fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).unwrap();
    kib.parse().unwrap()
}

/// Adds a free port for probes to a role's command, and returns both. Sets the log filter to `E2E_LOG`, or to
/// `warn` if that is not set, unless the command has a filter.
pub(crate) fn probed(mut command: Command) -> (Command, u16) {
    const FILTER: &str = "MAGNETITE_LOG__FILTER";
    let port = free_port();
    command.env("MAGNETITE_HEALTH__LISTEN", format!("127.0.0.1:{port}"));
    if !command.as_std().get_envs().any(|(name, _)| name == FILTER) {
        command.env(
            FILTER,
            std::env::var("E2E_LOG").unwrap_or_else(|_| "warn".to_owned()),
        );
    }
    (command, port)
}

/// Starts a thread that copies a role's standard error to this process's standard error and to the end of
/// `log`, until the role closes it.
fn copy(from: ChildStderr, log: &Path) {
    let mut from = File::from(from.into_owned_fd().unwrap());
    let mut log = File::options().append(true).create(true).open(log).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => {
                    io::stderr().write_all(&buffer[..read]).unwrap();
                    log.write_all(&buffer[..read]).unwrap();
                }
                Err(error) => panic!("a role's standard error cannot be read: {error}"),
            }
        }
    });
}
