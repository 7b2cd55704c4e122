//! The commands and their arguments.

mod role;
mod up;
mod worker;
mod recorder;
mod api;
mod publish;
mod validate;
mod endpoint;
mod api_key;
mod changes;
mod event;
mod delivery;
mod rejected;
mod audit;
mod status;
mod listen;
mod trigger;
mod check;
mod topology;
mod migrate;
mod retention;
mod secrets;
mod config;
mod health;
mod shell;
mod doctor;
mod remedies;
mod claim;
mod troubles;
mod checks;
mod arguments;
mod listing;
mod lines;
mod resend;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use runtime::logs;

pub(crate) use audit::NotKnownYet;

use crate::{
    configuration::{Configuration, Log},
    output::{self, ColorChoice},
};

/// Delivers the events of the lead pipeline to the webhook endpoints of customers.
#[derive(Debug, Parser)]
#[command(
    name = "magnetite",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 not known yet (audit), 64 bad configuration.\n\
                  Configuration: --config FILE, else magnetite.toml, else /etc/magnetite/magnetite.toml; then variables such as \
                  MAGNETITE_BROKER__URL. `magnetite config` shows what is in force."
)]
pub(crate) struct Arguments {
    /// Configuration file, instead of magnetite.toml in the current directory or in /etc/magnetite
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// When to use colours; by default on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = ColorChoice::Auto)]
    color: ColorChoice,

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
    /// Run the HTTP API: manage endpoints, publish events, see what became of them
    Api,
    /// Publish events, one JSON object per line, and print their ids
    Publish(publish::Arguments),
    /// Check events, one JSON object per line, by the rules and by the JSON Schemas of their types, without a
    /// broker
    Validate(validate::Arguments),
    /// Manage the endpoints that events are delivered to
    Endpoint(endpoint::Arguments),
    /// Manage the keys that let clients in to the HTTP API
    ApiKey(api_key::Arguments),
    /// Who changed which endpoint or API key, newest first
    Changes(changes::Arguments),
    /// What became of events: who got them, who did not, and why
    Event(event::Arguments),
    /// What became of deliveries, one event to one endpoint each, and sending them again
    Delivery(delivery::Arguments),
    /// Show messages that could not be processed, and publish them again
    Rejected(rejected::Arguments),
    /// Check that the books balance: what matched was delivered, is dead, cancelled or still on its way
    Audit(audit::Arguments),
    /// Show the state of the system on one screen, and exit 1 if something needs a person
    Status(status::Arguments),
    /// Receive webhooks on this machine: verify and print them, or fail on purpose
    Listen(listen::Arguments),
    /// Send a signed sample of any event to a URL, with nothing set up
    Trigger(trigger::Arguments),
    /// Check an endpoint as a worker would see it: way, certificate, answers to good and bad requests
    Check(check::Arguments),
    /// Print the broker's exchanges, queues and bindings, or declare or check them
    Topology(topology::Arguments),
    /// Bring the database's tables up to date
    Migrate,
    /// Say that the time is right when recorders have stopped deleting because clocks disagree
    Retention(retention::Arguments),
    /// The keys that endpoints' secrets are sealed with in the database
    Secrets(secrets::Arguments),
    /// Print what the HTTP API can be asked for, as OpenAPI 3.1
    Openapi,
    /// Print the configuration in force: every key, its value, and which file or variable it is from; secrets
    /// are masked
    Config(config::Arguments),
    /// Ask roles whether they are ready, and exit 1 if one is not
    Health(health::Arguments),
    /// Print a script that has a shell complete commands and options
    Completions(shell::Completions),
    /// Print the manual page, or write the pages of all commands to a directory
    Man(shell::Man),
    /// Check configuration, broker, database and limits, and say how to fix what is wrong
    Doctor(doctor::Arguments),
}

/// What roles log unless configured otherwise. lapin logs every closed channel as an error of its own, before
/// whoever used the channel has said what it means.
const ROLE_FILTER: &str = "info,lapin=off";
/// What commands log: only what is wrong.
const COMMAND_FILTER: &str = "warn,lapin=off";

/// Logs from now on; `filter` is for a configuration that names none.
fn start_logs(log: &Log, filter: &str) -> anyhow::Result<()> {
    let filter = log.filter.as_deref().unwrap_or(filter);
    logs::start(filter, log.format, output::is_stderr_colored())
        .context("cannot open standard error once more: is `ulimit -n` too low?")
}

/// Logs as a command without a configuration does.
fn start_default_logs() -> anyhow::Result<()> {
    let (format, filter) = (logs::Format::Text, None);
    start_logs(&Log { format, filter }, COMMAND_FILTER)
}

/// Runs one command to its end.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        config,
        color,
        command,
    } = arguments;
    color.apply();
    let config = config.as_deref();
    match command {
        // These are for machines that have no configuration of ours.
        Command::Listen(arguments) => {
            start_default_logs()?;
            listen::run(arguments).await
        }
        Command::Trigger(arguments) => {
            start_default_logs()?;
            trigger::run(arguments).await
        }
        Command::Validate(arguments) => {
            start_default_logs()?;
            validate::run(arguments).await
        }
        // Its key is to go into the configuration.
        Command::Secrets(secrets::Arguments {
            action: secrets::Action::NewKey,
        }) => secrets::new_key(),
        Command::Openapi => api::document(),
        Command::Completions(arguments) => shell::completions(&arguments),
        Command::Man(arguments) => shell::man(&arguments),
        Command::Config(arguments) => config::run(&arguments, config),
        command => run_configured(command, Configuration::load(config)?).await,
    }
}

async fn run_configured(command: Command, configuration: Configuration) -> anyhow::Result<()> {
    let is_role = matches!(
        command,
        Command::Up | Command::Worker | Command::Recorder | Command::Api
    );
    start_logs(
        &configuration.log,
        if is_role { ROLE_FILTER } else { COMMAND_FILTER },
    )?;
    match command {
        Command::Up => up::run(&configuration).await,
        Command::Worker => worker::run(&configuration).await,
        Command::Recorder => recorder::run(&configuration).await,
        Command::Api => api::run(&configuration).await,
        Command::Publish(arguments) => publish::run(arguments, &configuration).await,
        Command::Endpoint(arguments) => endpoint::run(arguments, &configuration).await,
        Command::ApiKey(arguments) => api_key::run(arguments, &configuration).await,
        Command::Changes(arguments) => changes::run(arguments, &configuration).await,
        Command::Event(arguments) => event::run(arguments, &configuration).await,
        Command::Delivery(arguments) => delivery::run(arguments, &configuration).await,
        Command::Rejected(arguments) => rejected::run(arguments, &configuration).await,
        Command::Audit(arguments) => audit::run(arguments, &configuration).await,
        Command::Status(arguments) => status::run(arguments, &configuration).await,
        Command::Check(arguments) => check::run(arguments, configuration).await,
        Command::Topology(arguments) => topology::run(arguments, &configuration).await,
        Command::Migrate => migrate::run(&configuration).await,
        Command::Retention(arguments) => retention::run(arguments, &configuration).await,
        Command::Secrets(secrets::Arguments { .. }) => secrets::reseal(&configuration).await,
        Command::Health(arguments) => health::run(arguments, &configuration).await,
        Command::Doctor(arguments) => doctor::run(arguments, &configuration).await,
        Command::Listen(_)
        | Command::Trigger(_)
        | Command::Validate(_)
        | Command::Openapi
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Config(_) => unreachable!("they need no configuration"),
    }
}

#[cfg(test)]
mod tests;
