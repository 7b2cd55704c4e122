//! `magnetite audit`: do the books balance?
//!
//! ```text
//! matched = delivered + dead + cancelled + pending, and what is pending stands in a queue
//! ```
//!
//! Two things move while they are compared: the journal, which is behind by what its queue holds, and the queues. What may
//! be right a second later is asked again for [`SETTLE_FOR`] before it is told.

mod verdict;

use std::time::Duration;

use anyhow::{anyhow, bail};
use api::resend::IN_HAND;
use broker::Topology;
use clap::Args;
use store::{AuditLimits, Store};
use tokio::time::{Instant, sleep};

use crate::{broker_link::BrokerLink, clock, configuration::Configuration, database, moment::Moment, output};

use super::topology;
use verdict::{Queues, Verdict};

/// How long the recorder may take with what is waiting.
const SETTLE_FOR: Duration = Duration::from_secs(5);
const SETTLE_POLL: Duration = Duration::from_millis(500);
#[derive(Debug, Args)]
#[command(
    after_help = "Exits 1 when the books do not balance, are not complete, or something that is pending is lost. Gaps, \
                  which workers name themselves, do not count against them."
)]
pub(super) struct Arguments {
    /// Events received from this time on: so long ago, such as 1h or 7d, or a time in UTC such as 2026-11-25T01:00:00Z
    #[arg(long, value_name = "TIME", default_value = "24h")]
    since: Moment,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Compares the books with themselves and with the queues.
pub(super) async fn run(arguments: Arguments, configuration: &Configuration) -> anyhow::Result<()> {
    let store = database::open(&configuration.database).await?;
    let broker = BrokerLink::open(&configuration.broker.config()).await?;
    let auditor = Auditor {
        store: &store,
        broker: &broker,
        topology: topology::of(configuration),
        since_ms: arguments.since.before(clock::now_ms()),
        late: late(configuration),
    };
    let verdict = auditor.settled().await;
    broker.close().await;
    store.close().await;
    let verdict = verdict?;
    if arguments.json {
        output::lines(verdict.json().iter().map(output::json))?;
    } else {
        output::lines(verdict.text())?;
    }
    match verdict.failures() {
        0 => Ok(()),
        failures => bail!("the books do not balance: findings {failures}; each says what to do"),
    }
}

/// After how long a delivery must have ended: all its attempts, the longest delays between them, and waiting for a slot.
pub(super) fn late(configuration: &Configuration) -> Duration {
    let worker = &configuration.worker;
    worker.schedule.run_max()
        + configuration.egress.attempt_timeout * worker.schedule.attempts()
        + worker.defer_age_max
}

struct Auditor<'a> {
    store: &'a Store,
    broker: &'a BrokerLink,
    topology: Topology,
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

    /// The queues are counted before and after: what leaves one for a worker, or comes back, is in one of the counts.
    async fn verdict(&self) -> anyhow::Result<Verdict> {
        let before = self.queues().await?;
        let now_ms = clock::now_ms();
        let limits = AuditLimits {
            now_ms,
            in_hand_ms: IN_HAND.as_millis() as u64,
            late_ms: self.late.as_millis() as u64,
        };
        let audit = self.store.audit(self.since_ms, now_ms, limits).await?;
        let rejected = self.store.count_rejected(self.since_ms, now_ms).await?;
        let queues = before.max(self.queues().await?);
        Ok(Verdict::new(
            audit,
            rejected,
            queues,
            (self.since_ms, now_ms),
            self.late,
        ))
    }

    async fn queues(&self) -> anyhow::Result<Queues> {
        let found = self.topology.check(&self.broker.link).await?;
        let ready = |name: String| {
            let mut states = found.iter().flatten();
            let state = states.find(|state| state.name == name);
            state.map(|state| u64::from(state.ready)).ok_or_else(|| {
                anyhow!("queue {name} is not as it should be: `magnetite topology check` says how to mend it")
            })
        };
        let mut delayed = 0;
        for tier in self.topology.tiers() {
            delayed += ready(self.topology.delay(*tier))?;
        }
        Ok(Queues {
            journal: ready(self.topology.journal())?,
            dead: ready(self.topology.dead())?,
            due: ready(self.topology.due())?,
            delayed,
        })
    }
}
