//! A named pipe in place of a terminal or a log collector, which goes away and comes back.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use tokio::net::unix::pipe::{self, Receiver as Reader};

/// What reads the log of roles, or does not.
pub struct Collector {
    directory: TempDir,
    /// The reading end, unless it has gone away.
    pub reader: Option<Reader>,
}

impl Collector {
    /// Makes the pipe and opens its reading end, which reads nothing by itself.
    #[expect(clippy::new_without_default, reason = "it opens a pipe")]
    pub fn new() -> Self {
        let directory = TempDir::with_prefix("magnetite-log-").unwrap();
        let pipe = pipe_in(&directory);
        let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        Self {
            reader: Some(open(&pipe)),
            directory,
        }
    }

    /// The pipe, as [`Installation::start_logging_to`](crate::Installation::start_logging_to) takes it.
    pub fn path(&self) -> PathBuf {
        pipe_in(&self.directory)
    }

    /// Closes the reading end: what is written fails.
    pub fn leave(&mut self) {
        self.reader = None;
    }

    /// Opens the reading end again.
    pub fn come_back(&mut self) {
        self.reader = Some(open(&self.path()));
    }
}

fn pipe_in(directory: &TempDir) -> PathBuf {
    directory.path().join("log")
}

fn open(pipe: &Path) -> Reader {
    pipe::OpenOptions::new().open_receiver(pipe).unwrap()
}
