//! `magnetite audit`: checks that every delivery is accounted for.
//!
//! ```text
//! matched = delivered + dead + cancelled + pending, and every pending delivery is in a queue
//! ```
//!
//! Two things change while they are compared: the queues, and the journal, which lacks the records that are
//! still in its queue and in the hands of recorders. A finding that may disappear a second later is therefore
//! checked again for [`SETTLE_FOR`] before it is reported. What cannot be determined by then is reported as
//! unknown, separately from what is right and what is wrong.

mod mark;
mod verdict;

use std::time::Duration;

use anyhow::{anyhow, bail};
use broker::{Publisher, Topology};
use clap::Args;
use service::resend::IN_HAND;
use store::{AuditLimits, MINUTE_MS, Store};
use tokio::time::{Instant, sleep};

use crate::{
    broker_link::BrokerLink,
    configuration::Configuration,
    database, output,
    time::{self, Moment},
};

use mark::{Marked, Marker};
use verdict::{Conclusion, Queues, Verdict};

/// How long the recorder may take to write the waiting records, and each mark.
const SETTLE_FOR: Duration = Duration::from_secs(5);
const SETTLE_POLL: Duration = Duration::from_millis(500);
/// The maximum time for the broker to confirm the mark.
const MARK_TAKEN_MAX: Duration = Duration::from_secs(2);

/// The error for an audit that cannot determine yet whether every delivery is accounted for.
#[derive(Debug, thiserror::Error)]
#[error("it cannot be known yet whether the books balance: ask again at {at}")]
pub(crate) struct NotKnownYet {
    /// When to run the audit again, as a time in UTC.
    at: String,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exits 1 when the books do not balance or something that is pending is lost; 3 when that cannot be known \
                  yet, because not everything is recorded, or workers may have in hand what stands in no queue. Gaps, \
                  which workers name themselves, do not count against them.\n\n\
                  It compares what was recorded with itself and with the queues. It does not see an event that vanished before \
                  a worker recorded anything of it: one that a publisher was not confirmed, or that was removed from \
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
        bail!("audit compares what workers recorded, and journal.enabled is false: switch the journal on");
    }
    let mut config = configuration.broker.config();
    let (store, broker) =
        tokio::try_join!(database::open(&configuration.database), BrokerLink::open(&config),)?;
    config.publish_timeout = MARK_TAKEN_MAX;
    let topology = configuration.topology();
    let auditor = Auditor {
        store: &store,
        broker: &broker,
        marker: Marker::new(&store, &topology, Publisher::new(broker.link.clone(), &config)),
        topology: &topology,
        since_ms: arguments.since.before(runtime::now_ms()) / MINUTE_MS * MINUTE_MS,
        late: late(configuration),
    };
    let verdict = auditor.settled().await;
    broker.close().await;
    store.close().await;
    let verdict = verdict?;
    output::unless_left(if arguments.json {
        output::lines(verdict.json().iter().map(output::json))
    } else {
        output::lines(verdict.text())
    })?;
    match verdict.conclusion() {
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

/// Returns the time after which a delivery must have ended: the duration of all its attempts, the longest
/// delays between them, and the longest wait for a slot.
pub(super) fn late(configuration: &Configuration) -> Duration {
    let worker = &configuration.worker;
    worker.schedule.run_max()
        + configuration.egress.attempt_timeout * worker.schedule.attempts()
        + worker.defer_age_max
}

struct Auditor<'a> {
    store: &'a Store,
    broker: &'a BrokerLink,
    marker: Marker<'a>,
    topology: &'a Topology,
    since_ms: u64,
    late: Duration,
}

impl Auditor<'_> {
    async fn settled(&self) -> anyhow::Result<Verdict> {
        let deadline = Instant::now() + SETTLE_FOR;
        loop {
            let verdict = self.verdict().await?;
            if !verdict.may_settle() || Instant::now() >= deadline {
                return Ok(verdict);
            }
            sleep(SETTLE_POLL).await;
        }
    }

    /// Counts the queues before and after reading the journal and uses the greater counts, so that they
    /// include a message that a worker takes out of a queue, or that returns to one, in the meantime.
    async fn verdict(&self) -> anyhow::Result<Verdict> {
        let batches_due = self.store.batches_made().await?;
        let mut before = self.queues().await?;
        let marked = if before.recorders == 0 {
            Marked::Recorded
        } else {
            self.marker.mark(Instant::now() + SETTLE_FOR).await?
        };
        if before.journal > 0 && marked == Marked::Recorded {
            // The records that were waiting have been written in the meantime.
            before = self.queues().await?;
        }
        let now_ms = runtime::now_ms();
        let limits = AuditLimits {
            now_ms,
            in_hand_ms: IN_HAND.as_millis() as u64,
            late_ms: self.late.as_millis() as u64,
            batches_due,
        };
        let until_ms = now_ms.next_multiple_of(MINUTE_MS);
        let (audit, rejected) = tokio::try_join!(
            self.store.audit(self.since_ms, until_ms, limits),
            self.store.count_rejected(self.since_ms, until_ms),
        )?;
        let queues = before.max(self.queues().await?);
        Ok(Verdict::new(
            audit,
            rejected,
            queues,
            &marked,
            (self.since_ms, now_ms),
            self.late,
        ))
    }

    async fn queues(&self) -> anyhow::Result<Queues> {
        let found = self.topology.check(&self.broker.link).await?;
        let state = |name: String| {
            let mut states = found.iter().flatten();
            states.find(|state| state.name == name).ok_or_else(|| {
                anyhow!("queue {name} is not as it should be: `magnetite topology check` says how to mend it")
            })
        };
        let ready = |name| state(name).map(|state| u64::from(state.ready));
        let mut delayed = 0;
        for tier in self.topology.tiers() {
            delayed += ready(self.topology.delay(*tier))?;
        }
        Ok(Queues {
            journal: ready(self.topology.journal())?,
            recorders: u64::from(state(self.topology.journal())?.consumers),
            dead: ready(self.topology.dead())?,
            due: ready(self.topology.due())?,
            delayed,
            earlier: self.earlier().await?,
        })
    }

    /// Returns the number of messages in delay queues of earlier retry schedules.
    async fn earlier(&self) -> anyhow::Result<u64> {
        let mut ready = 0;
        for delay in self.store.delays().await? {
            if !self.topology.tiers().contains(&delay) {
                let delayed = self.topology.delayed(&self.broker.link, delay).await?;
                ready += u64::from(delayed.unwrap_or_default());
            }
        }
        Ok(ready)
    }
}
