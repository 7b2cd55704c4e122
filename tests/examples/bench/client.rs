//! The two that are compared.

use std::{fmt, fs::File};

use e2e::{Endpoint, Installation};
use tokio::process::Command;

use crate::{
    Options,
    process::{self, Process},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Raw,
    Worker,
    /// The worker without its journal.
    Unrecorded,
}

/// The worker with the default configuration, except that loopback may be reached and the health port is any that is free.
/// Its log goes to a file.
pub(crate) fn worker(installation: &Installation, side: Side, options: &Options) -> Process {
    let directory = options
        .profile
        .clone()
        .unwrap_or_else(|| installation.directory());
    let log = File::create(directory.join("worker.log")).unwrap();
    let mut command = installation.command(&["worker"]);
    command
        .env("MAGNETITE_HEALTH__LISTEN", "127.0.0.1:0")
        .env("MAGNETITE_JOURNAL__ENABLED", (side == Side::Worker).to_string())
        .envs(options.settings.iter().map(|(key, value)| (key, value)))
        .stderr(log);
    Process::start(&mut command)
}

pub(crate) fn raw(installation: &Installation, url: &str, endpoint: &Endpoint, events: usize) -> Process {
    let queue = format!("{}.events", installation.prefix());
    let mut command = Command::new(process::this());
    Process::start(command.args([
        "raw",
        installation.broker_url(),
        &queue,
        url,
        &endpoint.secret,
        &events.to_string(),
    ]))
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Worker => "worker",
            Self::Unrecorded => "unrecorded",
        })
    }
}
