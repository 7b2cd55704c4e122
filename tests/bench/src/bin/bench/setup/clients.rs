//! The client processes that are compared, and the recorder.

use std::{fs::File, path::Path};

use bench::{
    installation,
    process::{self, Process},
};
use e2e::Endpoint;
use tokio::process::{Child, Command};

use crate::{
    cases::{Client, Journal},
    raw,
};

use super::Setup;

/// Starts the client processes of the side.
pub(super) fn start(setup: &Setup<'_>) -> Vec<Process> {
    match setup.side.client {
        Client::Raw => vec![raw(setup)],
        Client::Workers(count) => (0..count).map(|number| worker(setup, number)).collect(),
    }
}

/// Starts a worker with the default configuration, except that it may reach loopback addresses and uses any
/// free health port. Its log goes to a file.
fn worker(setup: &Setup<'_>, number: usize) -> Process {
    let mut command = role(setup, "worker", number);
    let is_journaled = setup.side.journal != Journal::Off;
    command.env("MAGNETITE_JOURNAL__ENABLED", is_journaled.to_string());
    if let Some(authority) = &setup.expected.authority {
        command.env("MAGNETITE_EGRESS__ROOT_CERTIFICATES", authority);
    }
    command.envs(setup.options.settings.iter().map(|(key, value)| (key, value)));
    Process::start(&mut command)
}

/// Starts a recorder in the same way, which stores what the workers have recorded.
pub(super) fn recorder(setup: &Setup<'_>) -> Process {
    Process::start(&mut role(setup, "recorder", 0))
}

fn role(setup: &Setup<'_>, role: &str, number: usize) -> Command {
    let directory = setup.options.profile.clone();
    let directory = directory.unwrap_or_else(|| setup.installation.directory());
    let log = File::create(directory.join(format!("{}-{role}-{number}.log", setup.name))).unwrap();
    let mut command = installation::role(&setup.installation, role);
    command.stderr(log);
    command
}

fn raw(setup: &Setup<'_>) -> Process {
    let endpoint =
        |(place, endpoint): (usize, &Endpoint)| (setup.receiver.url(0, place), endpoint.secret.clone());
    let job = raw::Job {
        broker: setup.installation.broker_url().to_owned(),
        queue: format!("{}.events", setup.installation.prefix()),
        events: setup.expected.events as u64,
        endpoints: setup.endpoints.iter().enumerate().map(endpoint).collect(),
        authority: setup.expected.authority.clone(),
    };
    let mut command = Command::new(process::this());
    Process::start(command.args(["raw", &serde_json::to_string(&job).unwrap()]))
}

/// Starts a profiler that records where the client spends its processor time. It exits with the client.
pub(super) fn profile(client: &Process, name: &str, directory: &Path) -> Child {
    let (pid, output) = (client.pid().to_string(), directory.join(format!("{name}.data")));
    Command::new("perf")
        .args(["record", "--quiet", "--freq", "997", "--pid", &pid, "--output"])
        .arg(output)
        .spawn()
        .expect("--profile needs perf: apt-get install linux-perf")
}
