//! `magnetite audit`: prints whether every delivery is accounted for.

mod report;

use anyhow::bail;
use broker::Publisher;
use clap::Args;
use runtime::time::{self, Moment};
use service::audit::{Auditor, Conclusion, MARK_TAKEN_MAX};
use store::MINUTE_MS;

use crate::{broker_link::BrokerLink, configuration::Configuration, database, output};

/// The error for an audit that cannot determine yet whether every delivery is accounted for.
#[derive(Debug, thiserror::Error)]
#[error("it is not known yet whether the books balance: run the audit again at {at}")]
pub(crate) struct NotKnownYet {
    /// When to run the audit again, as a time in UTC.
    at: String,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exits 1 if the books do not balance or a pending delivery is lost; 3 if that is not known yet, because not \
                  everything is recorded, or because workers may hold deliveries that are in no queue. Gaps that workers \
                  report themselves do not count as failures.\n\n\
                  The audit compares the records with each other and with the queues. It does not notice the loss of an event \
                  of which no worker recorded anything: one whose publisher received no confirm, or one that was removed from \
                  magnetite.events. `magnetite doctor` looks for policies that remove messages."
)]
pub(super) struct Arguments {
    /// Events received from this time on, rounded down to the minute: how long ago, such as 1h or 7d, or a
    /// time in UTC such as 2026-11-25T01:00:00Z
    #[arg(long, value_name = "TIME", default_value = "24h")]
    since: Moment,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Compares the journal with itself and with the queues.
pub(super) async fn run(arguments: Arguments, configuration: &Configuration) -> anyhow::Result<()> {
    if !configuration.worker.journal {
        bail!("the audit compares what workers recorded, but journal.enabled is false: enable the journal");
    }
    let mut config = configuration.broker.config();
    let (store, broker) =
        tokio::try_join!(database::open(&configuration.database), BrokerLink::open(&config),)?;
    config.publish_timeout = MARK_TAKEN_MAX;
    let topology = configuration.topology();
    let auditor = Auditor {
        store: &store,
        link: &broker.link,
        publisher: Publisher::new(broker.link.clone(), &config),
        topology: &topology,
        since_ms: arguments.since.before(runtime::now_ms()) / MINUTE_MS * MINUTE_MS,
        late: configuration.late(),
    };
    let assessment = auditor.settled().await;
    broker.close().await;
    store.close().await;
    let assessment = assessment?;
    output::unless_left(if arguments.json {
        output::lines(report::json(&assessment).iter().map(output::json))
    } else {
        output::lines(report::text(&assessment))
    })?;
    match assessment.conclusion() {
        Conclusion::Balance => Ok(()),
        Conclusion::NotKnown { ask_again_ms } => Err(NotKnownYet {
            at: time::second(ask_again_ms),
        }
        .into()),
        Conclusion::Wrong { failures } => {
            bail!("the books do not balance: findings {failures}; each says what to do")
        }
    }
}
