//! The commands and their arguments.

mod role;
mod up;
mod worker;
mod recorder;
mod publish;
mod endpoint;
mod event;
mod delivery;
mod rejected;
mod audit;
mod listen;
mod topology;
mod migrate;
mod secrets;
mod doctor;
mod advice;
mod given;
mod listing;
mod resend;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{
    configuration::{Configuration, Log, LogFormat},
    telemetry,
};

/// Delivers the events of the lead pipeline to the webhook endpoints of customers.
#[derive(Debug, Parser)]
#[command(
    name = "magnetite",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 64 bad configuration.\n\
                  Configuration: magnetite.toml or --config FILE, then variables such as MAGNETITE_BROKER__URL."
)]
pub(crate) struct Arguments {
    /// Configuration file, instead of magnetite.toml in the current directory
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run all roles in one process; creates and migrates its database
    Up,
    /// Run a delivery worker; scale by running more of them
    Worker,
    /// Run a recorder: what workers report, dead letters and rejected messages go into the database
    Recorder,
    /// Publish events, one JSON object per line, and print their ids
    Publish(publish::Arguments),
    /// Manage the endpoints that events are delivered to
    Endpoint(endpoint::Arguments),
    /// What became of events: who got them, who did not, and why
    Event(event::Arguments),
    /// What became of deliveries, one event to one endpoint each, and sending them again
    Delivery(delivery::Arguments),
    /// Messages that nobody could work on, and giving them another chance
    Rejected(rejected::Arguments),
    /// Check that the books balance: what matched was delivered, is dead, cancelled or still on its way
    Audit(audit::Arguments),
    /// Receive webhooks on this machine: verify and print them, or fail on purpose
    Listen(listen::Arguments),
    /// Print the broker's exchanges, queues and bindings, or declare or check them
    Topology(topology::Arguments),
    /// Bring the database's tables up to date
    Migrate,
    /// The keys that endpoints' secrets are sealed with in the database
    Secrets(secrets::Arguments),
    /// Check configuration, broker, database and limits, and say how to fix what is wrong
    Doctor(doctor::Arguments),
}

/// What roles log unless configured otherwise. lapin logs every closed channel as an error of its own, before whoever
/// used the channel has said what it means.
const ROLE_FILTER: &str = "info,lapin=off";
/// What commands log: only what is wrong.
const COMMAND_FILTER: &str = "warn,lapin=off";

/// Runs one command to its end.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { config, command } = arguments;
    // The receiver stands in for a customer's server, which has no configuration of ours.
    if let Command::Listen(arguments) = command {
        telemetry::start(
            &Log {
                format: LogFormat::Text,
                filter: None,
            },
            COMMAND_FILTER,
        );
        return listen::run(arguments).await;
    }
    // Its key is to go into the configuration.
    if let Command::Secrets(arguments) = &command
        && arguments.makes_key()
    {
        return secrets::new_key();
    }
    let configuration = Configuration::load(config.as_deref())?;
    let is_role = matches!(command, Command::Up | Command::Worker | Command::Recorder);
    telemetry::start(
        &configuration.log,
        if is_role { ROLE_FILTER } else { COMMAND_FILTER },
    );
    match command {
        Command::Up => up::run(&configuration).await,
        Command::Worker => worker::run(&configuration).await,
        Command::Recorder => recorder::run(&configuration).await,
        Command::Publish(arguments) => publish::run(arguments, &configuration).await,
        Command::Endpoint(arguments) => endpoint::run(arguments, &configuration).await,
        Command::Event(arguments) => event::run(arguments, &configuration).await,
        Command::Delivery(arguments) => delivery::run(arguments, &configuration).await,
        Command::Rejected(arguments) => rejected::run(arguments, &configuration).await,
        Command::Audit(arguments) => audit::run(arguments, &configuration).await,
        Command::Topology(arguments) => topology::run(arguments, &configuration).await,
        Command::Migrate => migrate::run(&configuration).await,
        Command::Secrets(_) => secrets::reseal(&configuration).await,
        Command::Doctor(arguments) => doctor::run(arguments, &configuration).await,
        Command::Listen(_) => unreachable!("it was run above"),
    }
}

#[cfg(test)]
mod tests;
