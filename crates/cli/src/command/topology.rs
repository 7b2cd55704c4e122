//! `magnetite topology`: prints, declares or checks the exchanges, queues and bindings on the broker.

use anyhow::{Context as _, bail};
use broker::{Harm, Inspection, Management, ManagementError, QueueState, Topology, TopologyFault};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use crate::{broker_link::BrokerLink, configuration::Configuration, output};

use super::claim;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print one JSON object per line
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Declare everything; whatever exists and is equal stays as it is
    Declare,
    /// Compare with the broker and change nothing; exits 1 if anything is missing or different
    ///
    /// Policies and bindings are read from RabbitMQ's management API. If it does not answer, a line says so
    /// and how to change that.
    Check,
    /// Assign the exchanges and queues to this database, after it has permanently replaced another one
    ///
    /// Roles of an installation with another database do not start while the exchanges and queues are
    /// assigned to this one.
    Adopt,
}

/// An exchange, queue or binding, with its state on the broker.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// `ok`, `missing`, `different`, or `unchecked` if it could not be read.
    state: &'static str,
    ready: Option<u32>,
    consumers: Option<u32>,
    detail: Option<String>,
    fix: Option<String>,
}

/// What to do about a missing binding.
pub(super) const BIND: &str = "run `magnetite topology declare`; then find out who removed it";
const UNCHECKED: &str = "unchecked";

impl Arguments {
    /// Returns whether the command does more than to print the topology.
    pub(super) fn needs_broker(&self) -> bool {
        self.action.is_some()
    }
}

/// Prints the topology, declares it, or compares it with the broker.
pub(super) async fn run(arguments: Arguments, configuration: &Configuration) -> anyhow::Result<()> {
    let topology = configuration.topology();
    match arguments.action {
        None => Ok(print(&topology, arguments.json)?),
        Some(Action::Declare) => declare(&topology, configuration).await,
        Some(Action::Adopt) => claim::adopt(configuration).await,
        Some(Action::Check) => check(&topology, configuration, arguments.json).await,
    }
}

/// Returns what to do about an exchange or queue.
pub(super) fn fix(problem: &TopologyFault) -> &'static str {
    if problem.detail.contains("ACCESS_REFUSED") {
        "grant the user configure, write and read: rabbitmqctl set_permissions"
    } else if is_missing(problem) {
        "run `magnetite topology declare`, or start a worker"
    } else if problem.detail.contains("for exchange") {
        "delete it (in the management UI) and run `magnetite topology declare`, or set another broker.prefix"
    } else {
        "empty and delete it (rabbitmqctl delete_queue) and run `magnetite topology declare`, or set another \
         broker.prefix"
    }
}

/// Returns the broker's message, without the client library's text around it.
pub(super) fn words(problem: &TopologyFault) -> &str {
    let detail = problem.detail.as_str();
    let begins = ["NOT_FOUND - ", "PRECONDITION_FAILED - ", "ACCESS_REFUSED - "]
        .iter()
        .filter_map(|word| detail.find(word));
    begins.min().map_or(detail, |at| &detail[at..])
}

fn is_missing(problem: &TopologyFault) -> bool {
    problem.detail.contains("NOT_FOUND")
}

fn print(topology: &Topology, as_json: bool) -> Result<(), output::Closed> {
    if !as_json {
        return output::line(topology.to_string().trim_end());
    }
    let exchanges = topology
        .exchanges()
        .into_iter()
        .map(|exchange| json!({ "kind": "exchange", "name": exchange.name, "type": exchange.kind }));
    let queues = topology.queues().into_iter().map(|queue| {
        let arguments: serde_json::Map<_, _> = queue
            .arguments
            .into_iter()
            .map(|(key, value)| match value {
                broker::Argument::Text(text) => (key.to_owned(), json!(text)),
                broker::Argument::Number(number) => (key.to_owned(), json!(number)),
            })
            .collect();
        json!({ "kind": "queue", "name": queue.name, "arguments": arguments })
    });
    let bindings = topology.bindings().into_iter().map(|binding| {
        let broker::Binding {
            exchange,
            queue,
            routing_key,
        } = binding;
        json!({ "kind": "binding", "exchange": exchange, "queue": queue, "routing_key": routing_key })
    });
    output::lines(
        exchanges
            .chain(queues)
            .chain(bindings)
            .map(|value| output::json(&value)),
    )
}

async fn declare(topology: &Topology, configuration: &Configuration) -> anyhow::Result<()> {
    let broker = BrokerLink::open(&configuration.broker.config()).await?;
    topology
        .declare(&broker.link)
        .await
        .context("cannot declare the topology (`magnetite topology check` says what is missing or different, and what to do)")?;
    broker.close().await;
    output::note("declared the exchanges, queues and bindings; `magnetite topology` prints them");
    Ok(())
}

async fn check(topology: &Topology, configuration: &Configuration, as_json: bool) -> anyhow::Result<()> {
    let config = configuration.broker.config();
    let broker = BrokerLink::open(&config).await?;
    let mut findings: Vec<Row> = topology
        .check(&broker.link)
        .await?
        .into_iter()
        .map(finding)
        .collect();
    broker.close().await;
    match inspect(&config, topology).await {
        Ok(inspection) => findings.extend(inspected(inspection)),
        Err(error) => findings.push(unchecked(&error)),
    }
    let is_bad = |finding: &&Row| finding.fix.is_some() && finding.state != UNCHECKED;
    let bad = findings.iter().filter(is_bad).count();
    let line = |finding: &Row| {
        if as_json {
            output::json(finding)
        } else {
            text(finding)
        }
    };
    output::unless_left(output::lines(findings.iter().map(line)))?;
    if bad > 0 {
        bail!("missing or different on the broker: {bad}; each has a line that says how to fix it");
    }
    Ok(())
}

/// Reads the effects of policies, and the missing bindings, from the management API.
pub(super) async fn inspect(
    config: &broker::Config,
    topology: &Topology,
) -> Result<Inspection, ManagementError> {
    Management::new(config)?.inspect(topology).await
}

fn inspected(inspection: Inspection) -> impl Iterator<Item = Row> {
    let harmed = inspection.harms.into_iter().map(|harm: Harm| {
        let (detail, fix) = (harm.to_string(), harm.fix());
        Row::bad(harm.queue, "different", detail, fix)
    });
    let unbound = inspection.unbound.into_iter().map(|binding| {
        Row::bad(
            binding.queue.clone(),
            "missing",
            binding.to_string(),
            BIND.to_owned(),
        )
    });
    harmed.chain(unbound)
}

fn unchecked(error: &ManagementError) -> Row {
    let detail = format!(
        "policies and bindings cannot be read: {}",
        runtime::display_chain(error)
    );
    Row::bad(
        "management".to_owned(),
        UNCHECKED,
        detail,
        error.advice().to_owned(),
    )
}

impl Row {
    fn bad(name: String, state: &'static str, detail: String, fix: String) -> Self {
        Self {
            name,
            state,
            ready: None,
            consumers: None,
            detail: Some(detail),
            fix: Some(fix),
        }
    }
}

fn finding(found: Result<QueueState, TopologyFault>) -> Row {
    match found {
        Ok(QueueState {
            name,
            ready,
            consumers,
        }) => {
            let (ready, consumers) = (Some(ready), Some(consumers));
            Row {
                name,
                state: "ok",
                ready,
                consumers,
                detail: None,
                fix: None,
            }
        }
        Err(problem) => {
            let state = if is_missing(&problem) {
                "missing"
            } else {
                "different"
            };
            let (detail, fix) = (words(&problem).to_owned(), fix(&problem).to_owned());
            Row::bad(problem.name, state, detail, fix)
        }
    }
}

fn text(finding: &Row) -> String {
    let Row {
        name,
        state,
        ready,
        consumers,
        detail,
        fix,
    } = finding;
    match (ready, consumers, detail, fix) {
        (Some(ready), Some(consumers), ..) => {
            format!("{state:9}  {name}  {ready} ready, {consumers} consumers")
        }
        (.., Some(detail), Some(fix)) => format!("{state:9}  {name}  {detail}\n           fix: {fix}"),
        _ => format!("{state:9}  {name}"),
    }
}
