//! The worker and the recorder as processes.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, PipeReader},
    thread::{self, JoinHandle},
};

use bench::{
    installation,
    process::{Cost, Process},
};
use e2e::Installation;
use serde_json::Value;
use tokio::sync::oneshot;

/// Starts a worker with the default configuration, except that it uses any free health port. Its log goes to
/// a file.
pub(crate) fn worker(installation: &Installation) -> Process {
    let log = File::create(installation.directory().join("worker.log")).unwrap();
    Process::start(installation::role(installation, "worker").stderr(log))
}

/// A recorder whose log this program reads.
pub(crate) struct Recorder {
    process: Process,
    log: JoinHandle<Vec<f64>>,
    /// Receives the number of rows that a retention run has deleted, once it is complete.
    pub(crate) deleted: oneshot::Receiver<u64>,
}

impl Recorder {
    /// Starts a recorder that logs each of its commits. It keeps rows for `retention_s` seconds, or for the
    /// default time if that is `None`.
    pub(crate) fn start(installation: &Installation, retention_s: Option<u64>) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = installation::role(installation, "recorder");
        command
            .env("MAGNETITE_LOG__FILTER", "info,recorder=debug,lapin=off")
            .env("MAGNETITE_LOG__FORMAT", "json")
            .stderr(writer);
        if let Some(seconds) = retention_s {
            command.env("MAGNETITE_RETENTION__AGE", format!("{seconds}s"));
        }
        let process = Process::start(&mut command);
        let (tell, deleted) = oneshot::channel();
        let log = thread::spawn(|| read(reader, tell));
        Self {
            process,
            log,
            deleted,
        }
    }

    /// Stops the recorder. Returns its cost, and the duration of each of its commits in milliseconds.
    pub(crate) async fn end(self) -> (Cost, Vec<f64>) {
        let cost = self.process.end().await;
        (cost, self.log.join().unwrap())
    }
}

/// Returns the durations of the commits in a recorder's log, in milliseconds. Prints its warnings and errors.
fn read(log: PipeReader, deleted: oneshot::Sender<u64>) -> Vec<f64> {
    let (mut commits_ms, mut deleted) = (Vec::new(), Some(deleted));
    for line in BufReader::new(log).lines() {
        let line = line.unwrap();
        let entry: Value = serde_json::from_str(&line).unwrap();
        if entry["message"] == "recorded" {
            commits_ms.push(entry["duration_us"].as_u64().unwrap() as f64 / 1e3);
        } else if let Some(rows) = entry["deleted"].as_u64() {
            // An error means that the receiver of the count was dropped.
            let _ = deleted.take().map(|deleted| deleted.send(rows));
        } else if entry["level"] == "WARN" || entry["level"] == "ERROR" {
            eprintln!("{line}");
        }
    }
    commits_ms
}
