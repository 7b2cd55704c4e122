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
mod login;
mod logout;
mod shell;
mod doctor;
mod remedies;
mod claim;
mod troubles;
mod checks;
mod arguments;
mod listing;
mod lines;

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::{Arg, Parser, Subcommand, value_parser};
use runtime::logs;

pub(crate) use audit::NotKnownYet;

use crate::{
    NoConnection,
    backend::Backend,
    configuration::{self, Configuration, Log},
    output::{self, ColorChoice},
    remote::{self, Chooser, Remote},
};

/// Delivers the events of the lead pipeline to the webhook endpoints of customers.
#[derive(Debug, Parser)]
#[command(
    name = "magnetite",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 not known yet (audit), 64 bad configuration.\n\
                  Configuration: --config FILE, else magnetite.toml, else /etc/magnetite/magnetite.toml; then variables such as \
                  MAGNETITE_BROKER__URL. `magnetite config` shows what is in force.\n\
                  Over the HTTP API: `magnetite login`; or MAGNETITE_API_URL or --api, and the key in MAGNETITE_API_KEY. docs/remote.md has \
                  the details."
)]
pub(crate) struct Arguments {
    /// Configuration file, instead of magnetite.toml in the current directory or in /etc/magnetite
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// When to use colours; by default on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = ColorChoice::Auto)]
    color: ColorChoice,

    #[command(flatten)]
    remote: remote::Options,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run all roles in one process; creates and migrates its database
    Up,
    /// Run a delivery worker; run more of them to scale
    Worker,
    /// Run a recorder, which writes the workers' reports, dead letters and rejected messages to the database
    Recorder,
    /// Run the HTTP API: manage endpoints, publish events, see the state of their deliveries
    Api,
    /// Publish events, one JSON object per line, and print their ids
    Publish(publish::Arguments),
    /// Check events, one JSON object per line, against the rules and the JSON Schemas of their types, without
    /// a broker
    #[command(arg(refused_config()))]
    Validate(validate::Arguments),
    /// Manage the endpoints that events are delivered to
    Endpoint(endpoint::Arguments),
    /// Manage the API keys of the HTTP API's clients
    ApiKey(api_key::Arguments),
    /// List changes to endpoints and API keys and who made them, newest first
    Changes(changes::Arguments),
    /// Show what happened to events: which endpoints received them, which did not, and why
    Event(event::Arguments),
    /// Show what happened to deliveries (one event to one endpoint each), and send them again
    Delivery(delivery::Arguments),
    /// Show messages that could not be processed, and publish them again
    Rejected(rejected::Arguments),
    /// Check that every delivery is accounted for: delivered, dead, cancelled or still pending
    Audit(audit::Arguments),
    /// Show the state of the system on one screen, and exit 1 if something needs attention
    Status(status::Arguments),
    /// Receive webhooks on this machine: verify and print them, or fail on purpose
    #[command(arg(refused_config()))]
    Listen(listen::Arguments),
    /// Send a signed sample of any event to a URL; needs no configuration
    #[command(arg(refused_config()))]
    Trigger(trigger::Arguments),
    /// Check an endpoint as a worker sees it: network path, certificate, answers to good and bad requests
    Check(check::Arguments),
    /// Print the broker's exchanges, queues and bindings, or declare or check them
    Topology(topology::Arguments),
    /// Bring the database's tables up to date
    Migrate,
    /// Confirm the time, after recorders have stopped deleting old records because clocks disagree
    Retention(retention::Arguments),
    /// Manage the keys that encrypt the endpoints' secrets in the database
    Secrets(secrets::Arguments),
    /// Print the OpenAPI 3.1 document of the HTTP API
    #[command(arg(refused_config()))]
    Openapi,
    /// Print the configuration in force: every key, its value, and the file or variable that sets it; secrets
    /// are masked
    Config(config::Arguments),
    /// Check an API key, which is asked for, and store it on this machine for commands over the HTTP API
    Login(login::Arguments),
    /// Remove the API key that `magnetite login` has stored
    #[command(arg(refused_config()))]
    Logout,
    /// Ask roles whether they are ready, and exit 1 if one is not
    Health(health::Arguments),
    /// Print a shell completion script for commands and options
    #[command(arg(refused_config()))]
    Completions(shell::Completions),
    /// Print the manual page, or write the pages of all commands to a directory
    #[command(arg(refused_config()))]
    Man(shell::Man),
    /// Check configuration, broker, database and limits, and say how to fix what is wrong
    Doctor(doctor::Arguments),
}

/// The way to an installation of a command that opens its connections itself.
#[derive(Clone, Copy)]
enum Way<'a> {
    Direct(&'a Configuration),
    Api(&'a Remote),
}

/// The log filter of roles, unless another is configured. lapin logs every closed channel as an error, before
/// the code that used the channel has interpreted it.
const ROLE_FILTER: &str = "info,lapin=off";
/// The log filter of commands, unless another is configured: warnings and errors only. A command that cannot
/// connect to the broker says so in its own output.
const COMMAND_FILTER: &str = "warn,lapin=off,broker::connecting=off";

/// Starts logging. `filter` applies if the configuration sets none.
fn start_logs(log: &Log, filter: &str) -> anyhow::Result<()> {
    let filter = log.filter.as_deref().unwrap_or(filter);
    logs::start(filter, log.format, output::is_stderr_colored())
        .context("cannot duplicate standard error for the log; check whether `ulimit -n` is too low")
}

/// Starts the logs of a command that reads no configuration.
fn start_default_logs() -> anyhow::Result<()> {
    let (format, filter) = (logs::Format::Text, None);
    start_logs(&Log { format, filter }, COMMAND_FILTER)
}

/// Runs one command until it completes.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        config,
        color,
        remote,
        command,
    } = arguments;
    color.apply();
    let config = config.as_deref();
    if config.is_some()
        && let Some(name) = without_configuration(&command)
    {
        let told = format!("`{name}` reads no configuration: leave out --config");
        return Err(crate::Usage(told).into());
    }
    match command {
        // These commands run on machines that have no magnetite configuration.
        Command::Listen(arguments) => {
            start_default_logs()?;
            Box::pin(listen::run(arguments, &remote, config)).await
        }
        Command::Trigger(arguments) => {
            start_default_logs()?;
            trigger::run(arguments).await
        }
        Command::Validate(arguments) => {
            start_default_logs()?;
            validate::run(arguments).await
        }
        // The key that it prints is still to be added to the configuration.
        Command::Secrets(secrets::Arguments {
            action: secrets::Action::NewKey,
        }) => secrets::new_key(),
        Command::Openapi => api::document(),
        Command::Completions(arguments) => shell::completions(&arguments),
        Command::Man(arguments) => shell::man(&arguments),
        Command::Config(arguments) => config::run(&arguments, config, &remote),
        Command::Login(arguments) => {
            start_default_logs()?;
            Box::pin(login::run(arguments, remote, config)).await
        }
        Command::Logout => logout::run(remote),
        command => match Remote::chosen(&remote, chooser(&command, config), |name| env::var_os(name))? {
            None => Box::pin(run_directly(command, config)).await,
            Some(remote) => Box::pin(run_remote(command, remote)).await,
        },
    }
}

/// Returns the option `--config` of a command that refuses it. The help of the command does not show it.
fn refused_config() -> Arg {
    let config = Arg::new("config").long("config").value_name("FILE");
    config.value_parser(value_parser!(PathBuf)).hide(true)
}

/// Returns the name of a command that reads no configuration, even if one is given; `None` for all others.
fn without_configuration(command: &Command) -> Option<&'static str> {
    match command {
        Command::Listen(_) => Some("listen"),
        Command::Trigger(_) => Some("trigger"),
        Command::Validate(_) => Some("validate"),
        Command::Secrets(secrets::Arguments {
            action: secrets::Action::NewKey,
        }) => Some("secrets new-key"),
        Command::Openapi => Some("openapi"),
        Command::Logout => Some("logout"),
        Command::Completions(_) => Some("completions"),
        Command::Man(_) => Some("man"),
        _ => None,
    }
}

/// Runs a command on the database and the broker. If it does not reach them, although the user is logged in to an
/// API, the error says why the API was not used.
async fn run_directly(command: Command, config: Option<&Path>) -> anyhow::Result<()> {
    let configuration = Configuration::load(config)?;
    let (needed, given_by) = (needs(&command), configuration::given_by(config));
    let profile = Remote::of_default_profile(|name| env::var_os(name));
    // Without a configuration and without a database, this is no host of an installation.
    let is_elsewhere = given_by.is_none() && configuration.database.missing_file().is_some();
    if let (Some(profile), Some((name, needed))) = (&profile, needed)
        && is_elsewhere
        && needs_system(&command)
    {
        return Err(profile.refusal(name, needed).into());
    }
    let done = Box::pin(run_configured(command, configuration)).await;
    done.map_err(|error| match (profile, given_by) {
        (Some(profile), Some(place)) if needed.is_none() && error.is::<NoConnection>() => {
            anyhow!("{error:#}\n{}", profile.unused(&place))
        }
        _ => error,
    })
}

async fn run_remote(command: Command, remote: Remote) -> anyhow::Result<()> {
    start_default_logs()?;
    if let Some((name, needed)) = needs(&command) {
        return Err(remote.refusal(name, needed).into());
    }
    match command {
        Command::Publish(arguments) => publish::run(arguments, Way::Api(&remote)).await,
        Command::Status(arguments) => status::run(arguments, Way::Api(&remote)).await,
        Command::Event(event::Arguments {
            json,
            action: event::Action::Tail(tail),
        }) => event::tail::run(tail, json, Way::Api(&remote)).await,
        command => run_on(command, Backend::over(remote)?).await,
    }
}

/// Runs a command that works in both ways.
async fn run_on(command: Command, backend: Backend) -> anyhow::Result<()> {
    let done = match command {
        Command::Endpoint(arguments) => endpoint::run(arguments, &backend).await,
        Command::ApiKey(arguments) => api_key::run(arguments, &backend).await,
        Command::Changes(arguments) => changes::run(arguments, &backend).await,
        Command::Event(arguments) => event::run(arguments, &backend).await,
        Command::Delivery(arguments) => delivery::run(arguments, &backend).await,
        _ => unreachable!("`needs` names the other commands"),
    };
    backend.close().await;
    done
}

/// Returns what may choose the HTTP API for a command. The default profile never replaces a configuration, and never
/// prevents a local command. A variable never prevents a role, or a command that runs in the environment of a role.
fn chooser(command: &Command, config: Option<&Path>) -> Chooser {
    if is_of_roles(command) {
        Chooser::Options
    } else if needs(command).is_some() || configuration::given_by(config).is_some() {
        Chooser::Variables
    } else {
        Chooser::DefaultProfile
    }
}

/// Returns whether a command is a role, or runs in the environment of one.
fn is_of_roles(command: &Command) -> bool {
    matches!(
        command,
        Command::Up
            | Command::Worker
            | Command::Recorder
            | Command::Api
            | Command::Migrate
            | Command::Health(_)
    )
}

/// Returns whether a local command needs an existing database or a broker. The others work with the default
/// configuration alone, or create the database.
fn needs_system(command: &Command) -> bool {
    match command {
        Command::Check(_) => false,
        Command::Topology(arguments) => arguments.needs_broker(),
        command => !is_of_roles(command),
    }
}

/// Returns the name of a command and what it needs that the HTTP API does not give access to; `None` if it needs
/// nothing else.
fn needs(command: &Command) -> Option<(&'static str, &'static str)> {
    const DATABASE: &str = "the database";
    const BROKER: &str = "the broker";
    const BOTH: &str = "the database and the broker";
    const CONFIGURATION: &str = "the installation's configuration";
    match command {
        Command::Up => Some(("up", BOTH)),
        Command::Worker => Some(("worker", BOTH)),
        Command::Recorder => Some(("recorder", BOTH)),
        Command::Api => Some(("api", BOTH)),
        Command::Rejected(_) => Some(("rejected", BOTH)),
        Command::Audit(_) => Some(("audit", BOTH)),
        Command::Topology(_) => Some(("topology", BROKER)),
        Command::Migrate => Some(("migrate", DATABASE)),
        Command::Retention(_) => Some(("retention", DATABASE)),
        Command::Secrets(_) => Some(("secrets reseal", DATABASE)),
        Command::Doctor(_) => Some(("doctor", BOTH)),
        Command::Check(_) => Some(("check", CONFIGURATION)),
        Command::Health(_) => Some(("health", CONFIGURATION)),
        Command::ApiKey(api_key::Arguments {
            action: api_key::Action::Create(new),
            ..
        }) if new.is_platform() => Some(("api-key create --platform", DATABASE)),
        Command::Publish(_)
        | Command::Status(_)
        | Command::Endpoint(_)
        | Command::ApiKey(_)
        | Command::Changes(_)
        | Command::Event(_)
        | Command::Delivery(_)
        | Command::Listen(_)
        | Command::Trigger(_)
        | Command::Validate(_)
        | Command::Openapi
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Config(_)
        | Command::Login(_)
        | Command::Logout => None,
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
    // A container runs `health` every few seconds.
    if !matches!(command, Command::Health(_))
        && let Some(variable) = remote::choosing_variable(|name| env::var_os(name))
    {
        tracing::warn!(
            variable,
            "ignoring the variable, because this command does not use the HTTP API"
        );
    }
    match command {
        Command::Up => up::run(&configuration).await,
        Command::Worker => worker::run(&configuration).await,
        Command::Recorder => recorder::run(&configuration).await,
        Command::Api => api::run(&configuration).await,
        Command::Publish(arguments) => publish::run(arguments, Way::Direct(&configuration)).await,
        Command::Event(event::Arguments {
            json,
            action: event::Action::Tail(tail),
        }) => event::tail::run(tail, json, Way::Direct(&configuration)).await,
        command @ (Command::Endpoint(_)
        | Command::ApiKey(_)
        | Command::Changes(_)
        | Command::Event(_)
        | Command::Delivery(_)) => run_on(command, Backend::direct(configuration).await?).await,
        Command::Rejected(arguments) => rejected::run(arguments, &configuration).await,
        Command::Audit(arguments) => audit::run(arguments, &configuration).await,
        Command::Status(arguments) => status::run(arguments, Way::Direct(&configuration)).await,
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
        | Command::Config(_)
        | Command::Login(_)
        | Command::Logout => unreachable!("`run` handles these commands"),
    }
}

#[cfg(test)]
mod tests;
