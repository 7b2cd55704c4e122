//! The two roles as processes.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, PipeReader},
    thread::{self, JoinHandle},
};

use e2e::Installation;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::process::{Cost, Process};

/// With the default configuration, except that the health port is any that is free. Its log goes to a file.
pub(crate) fn worker(installation: &Installation) -> Process {
    let log = File::create(installation.directory().join("worker.log")).unwrap();
    let mut command = installation.command(&["worker"]);
    command.env("MAGNETITE_HEALTH__LISTEN", "127.0.0.1:0").stderr(log);
    Process::start(&mut command)
}

/// A recorder whose log is read.
pub(crate) struct Recorder {
    process: Process,
    log: JoinHandle<Vec<f64>>,
    /// How many rows a retention has deleted, once it is done.
    pub(crate) deleted: oneshot::Receiver<u64>,
}

impl Recorder {
    /// Logs each of its commits, and keeps rows for so many seconds if that is not the default.
    pub(crate) fn start(installation: &Installation, retention_s: Option<u64>) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = installation.command(&["recorder"]);
        command
            .env("MAGNETITE_HEALTH__LISTEN", "127.0.0.1:0")
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

    /// What it cost, and how long each of its commits took, in milliseconds.
    pub(crate) async fn end(self) -> (Cost, Vec<f64>) {
        let cost = self.process.end().await;
        (cost, self.log.join().unwrap())
    }
}

/// The commits of a recorder's log; warnings are passed on.
fn read(log: PipeReader, deleted: oneshot::Sender<u64>) -> Vec<f64> {
    let (mut commits_ms, mut deleted) = (Vec::new(), Some(deleted));
    for line in BufReader::new(log).lines() {
        let line = line.unwrap();
        let entry: Value = serde_json::from_str(&line).unwrap();
        if entry["message"] == "recorded" {
            commits_ms.push(entry["duration_us"].as_u64().unwrap() as f64 / 1e3);
        } else if let Some(rows) = entry["deleted"].as_u64() {
            // An error is nobody's waiting for it.
            let _ = deleted.take().map(|deleted| deleted.send(rows));
        } else if entry["level"] == "WARN" || entry["level"] == "ERROR" {
            eprintln!("{line}");
        }
    }
    commits_ms
}
