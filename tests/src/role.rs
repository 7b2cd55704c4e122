//! A running role: its process, its probes, its log.

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

/// A running role; killed when dropped.
pub struct Role {
    child: Child,
    port: u16,
}

impl Role {
    /// Starts `command`, whose probes are at `port`. Its log goes to this process's standard error, which the
    /// test runner shows when the test fails, and to `log`.
    pub(crate) fn start(mut command: Command, port: u16, log: &Path) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        copy(child.stderr.take().expect("it is piped"), log);
        Self { child, port }
    }

    /// Waits until `/readyz` says 200.
    pub async fn wait_until_ready(&self) {
        wait_for("the role is ready", SOON, || async {
            match self.get("/readyz").await {
                Ok(response) if response.starts_with("HTTP/1.1 200") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// A metric's value, the sum over its labels that contain `label`.
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

    /// An HTTP response of the health port, whole.
    pub async fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        Ok(response)
    }

    /// How many messages it holds unacked.
    pub async fn unacked(&self) -> u64 {
        self.metric("magnetite_messages_unacked", "").await as u64
    }

    /// Waits until it holds `count` messages of the queue unacked, `held` being all queues of held
    /// deliveries; of all queues if it is empty.
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

    /// The most memory it has had (resident set), in MiB.
    pub fn memory_max_mib(&self) -> u64 {
        memory_kib(self.pid(), "VmHWM") / 1024
    }

    /// The port of its probes.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it has not ended yet")
    }

    /// SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Sends a signal, such as `STOP` or `CONT`.
    pub async fn signal(&self, name: &str) {
        let (signal, pid) = (format!("-{name}"), self.pid().to_string());
        let sent = Command::new("kill").args([&signal, &pid]).status().await.unwrap();
        assert!(sent.success(), "kill {signal} {pid}");
    }

    /// SIGTERM, and waits for the end; returns whether the exit code was 0.
    pub async fn terminate(self) -> bool {
        self.signal("TERM").await;
        self.ended().await
    }

    /// Waits for the end; returns whether the exit code was 0.
    pub async fn ended(mut self) -> bool {
        self.child.wait().await.unwrap().success()
    }
}

/// A process's memory in KiB, as proc(5) has it: `VmRSS` now, `VmHWM` at most so far.
pub fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).unwrap();
    kib.parse().unwrap()
}

/// A role's command with a port for its probes, and few lines in its log unless the command has that
/// otherwise.
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

/// Writes what comes to this process's standard error and to the end of `log`, until nothing comes any more.
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
