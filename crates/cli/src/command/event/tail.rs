//! `event tail`: prints events, attempts and outcomes as workers record them.

mod line;

use anyhow::Context as _;
use broker::Tailed;
use clap::{Args, ValueEnum};
use tokio::sync::mpsc;
use webhook::{EndpointId, EventKind, OrganizationId, journal::Batch};

use crate::{broker_link::BrokerLink, command::arguments, configuration::Configuration, output, signals};

use line::Narrator;

/// The maximum number of batches that wait to be printed. When that many wait, further batches are dropped.
const WAITING_MAX: usize = 1_024;

#[derive(Debug, Args)]
pub(in crate::command) struct Tail {
    /// Print only records of this organization
    #[arg(long, value_name = "ORGANIZATION", value_parser = arguments::id)]
    org: Option<String>,
    /// Print only events of this type, such as lead.completed, and their attempts; leaves out attempts of
    /// events that were received before the command started
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<EventKind>,
    /// Print only records of this endpoint, and events that matched it
    #[arg(long, value_name = "ENDPOINT")]
    endpoint: Option<String>,
    /// Print only attempts and outcomes with this result
    #[arg(long)]
    outcome: Option<OutcomeFilter>,
}

/// The result of an attempt, or of a decision without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutcomeFilter {
    /// The endpoint answered with a 2xx
    Delivered,
    /// Another attempt follows
    Retry,
    /// Deferred; no attempt is charged
    Deferred,
    /// Given up; kept as a dead letter
    Dead,
    /// The endpoint was deleted, or a ping failed
    Cancelled,
}

/// The criteria for records to print.
#[derive(Debug, Default)]
struct Filter {
    organization: Option<OrganizationId>,
    event_type: Option<EventKind>,
    endpoint: Option<EndpointId>,
    outcome: Option<OutcomeFilter>,
}

/// Prints records until a signal arrives.
pub(in crate::command) async fn run(
    tail: Tail,
    configuration: &Configuration,
    json: bool,
) -> anyhow::Result<()> {
    let stop = signals::stop_on_signal()?;
    let broker = BrokerLink::open(&configuration.broker.config()).await?;
    let topology = configuration.topology();
    let filter = Filter {
        organization: tail.org.map(OrganizationId::new),
        event_type: tail.event_type,
        endpoint: tail.endpoint.map(EndpointId::new),
        outcome: tail.outcome,
    };
    let (sender, mut waiting) = mpsc::channel(WAITING_MAX);
    let following = broker::tail(&broker.link, &topology, &stop, |tailed| {
        // A full channel means that the terminal is slow. The batch is dropped, as the queue on the broker
        // does when it is full.
        let _ = sender.try_send(tailed);
    });
    let printing = async {
        let mut narrator = Narrator::new(filter, json);
        while let Some(tailed) = waiting.recv().await {
            print(&mut narrator, tailed)?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let printed = tokio::select! {
        printed = printing => printed,
        () = following => Ok(()),
    };
    broker.close().await;
    printed
}

fn print(narrator: &mut Narrator, tailed: Tailed) -> anyhow::Result<()> {
    let batch = match tailed {
        Tailed::Batch(batch) => batch,
        Tailed::Connected => {
            output::note("watching; press Ctrl-C to stop");
            return Ok(());
        }
        // The log says so.
        Tailed::Lost => return Ok(()),
    };
    let records = Batch::decode(&batch).context("cannot read a batch of a worker")?;
    let lines: Vec<_> = records
        .iter()
        .filter_map(|record| narrator.tell(record))
        .collect();
    Ok(output::lines(lines)?)
}
