//! `event tail`: prints events, attempts and outcomes as workers record them.

mod line;

use clap::{Args, ValueEnum};
use service::tail::Filter;
use webhook::{EndpointId, EventKind, OrganizationId, journal::ThenKind};
use wire::TailLine;

use crate::{
    backend::Records,
    command::{Way, arguments},
    output, signals,
};

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

impl Tail {
    /// Returns the criteria for records to print.
    fn filter(self) -> Filter {
        Filter {
            organization: self.org.map(OrganizationId::new),
            event_type: self.event_type,
            endpoint: self.endpoint.map(EndpointId::new),
            outcome: self.outcome.map(ThenKind::from),
        }
    }
}

impl From<OutcomeFilter> for ThenKind {
    fn from(filter: OutcomeFilter) -> Self {
        match filter {
            OutcomeFilter::Delivered => Self::Delivered,
            OutcomeFilter::Retry => Self::Retry,
            OutcomeFilter::Deferred => Self::Deferred,
            OutcomeFilter::Dead => Self::Dead,
            OutcomeFilter::Cancelled => Self::Cancelled,
        }
    }
}

/// Prints records until a signal arrives.
pub(in crate::command) async fn run(tail: Tail, json: bool, way: Way<'_>) -> anyhow::Result<()> {
    let stop = signals::stop_on_signal()?;
    let mut records = match way {
        Way::Direct(configuration) => Records::of_broker(configuration, tail.filter()).await?,
        Way::Api(remote) => Records::of_api(remote, tail.filter())?,
    };
    let printed = stop.run_until_cancelled(print_all(&mut records, json)).await;
    records.close().await;
    printed.unwrap_or(Ok(()))
}

async fn print_all(records: &mut Records, json: bool) -> anyhow::Result<()> {
    loop {
        let lines = records.next().await?;
        output::lines(lines.iter().filter_map(|line| shown(line, json)))?;
    }
}

/// Returns how a line is printed. What is not about records goes to standard error.
fn shown(line: &TailLine, json: bool) -> Option<String> {
    let note = match line {
        TailLine::Watching { .. } => "watching; press Ctrl-C to stop",
        TailLine::Interrupted { .. } => {
            "the API has lost its connection to the broker; what workers record in the meantime is not shown"
        }
        line if json => return Some(output::json(line)),
        line => return Some(line::text(line)),
    };
    output::note(note);
    None
}
