//! A named pipe that stands in for a terminal or a log collector, which can disconnect and reconnect.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use tokio::net::unix::pipe::{self, Receiver as Reader};

/// The reader of a role's log. A test decides whether and when it reads.
pub struct Collector {
    directory: TempDir,
    /// The reading end of the pipe; `None` while it is closed.
    pub reader: Option<Reader>,
}

impl Collector {
    /// Creates the pipe and opens its reading end. Nothing is read until the test does so.
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

    /// Returns the path of the pipe, for
    /// [`Installation::start_logging_to`](crate::Installation::start_logging_to).
    pub fn path(&self) -> PathBuf {
        pipe_in(&self.directory)
    }

    /// Closes the reading end, so that writes to the pipe fail.
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
