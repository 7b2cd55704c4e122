//! Audits an installation: checks that every delivery is accounted for.
//!
//! ```text
//! matched = delivered + dead + cancelled + pending, and every pending delivery is in a queue
//! ```
//!
//! Two things change while they are compared: the queues, and the journal, which lacks the records that are
//! still in its queue and in the hands of recorders. A finding that may disappear a second later is therefore
//! checked again for five seconds before it is reported. What cannot be determined by then is reported as
//! unknown, separately from what is right and what is wrong.

mod mark;
mod queues;
mod finding;
mod assessment;

use std::time::Duration;

use broker::{InspectError, Link, Publisher, Topology};
use store::{AuditLimits, MINUTE_MS, Store};
use tokio::time::{Instant, sleep};

use crate::resend::IN_HAND;

pub use assessment::{Assessment, Conclusion};
pub use finding::Finding;
pub use mark::Marked;
use mark::Marker;
pub use queues::Queues;

/// How long the recorder may take to write the waiting records, and each mark.
const SETTLE_FOR: Duration = Duration::from_secs(5);
const SETTLE_POLL: Duration = Duration::from_millis(500);
/// The maximum time for the broker to confirm a mark: the publish timeout that [`Auditor::publisher`] should
/// have.
pub const MARK_TAKEN_MAX: Duration = Duration::from_secs(2);

/// The reason why an audit could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database operation failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The broker could not be asked.
    #[error(transparent)]
    Broker(#[from] InspectError),
    /// A queue does not exist, or has other arguments.
    #[error(
        "queue {name} is missing or has unexpected arguments: `magnetite topology check` says how to correct this"
    )]
    Queue {
        /// The full name of the queue.
        name: String,
    },
}

/// Audits an installation.
pub struct Auditor<'a> {
    /// The journal.
    pub store: &'a Store,
    /// The connection over which the queues are read.
    pub link: &'a Link,
    /// Publishes the marks.
    pub publisher: Publisher,
    /// The queues.
    pub topology: &'a Topology,
    /// The start of the audited range, in Unix milliseconds, rounded down to the minute.
    pub since_ms: u64,
    /// The time after which a delivery must have ended.
    pub late: Duration,
}

impl Auditor<'_> {
    /// Returns the assessment. Repeats the audit for up to five seconds while findings may still disappear.
    ///
    /// # Errors
    /// Returns an error if the database or the broker fails, or a queue does not exist.
    pub async fn settled(&self) -> Result<Assessment, Error> {
        let deadline = Instant::now() + SETTLE_FOR;
        loop {
            let assessment = self.assess().await?;
            if !assessment.may_settle() || Instant::now() >= deadline {
                return Ok(assessment);
            }
            sleep(SETTLE_POLL).await;
        }
    }

    /// Counts the queues before and after reading the journal and uses the greater counts, so that they
    /// include a message that a worker takes out of a queue, or that returns to one, in the meantime.
    async fn assess(&self) -> Result<Assessment, Error> {
        let marker = Marker::new(self.store, self.topology, self.publisher.clone());
        let batches_due = self.store.batches_made().await?;
        let mut before = self.queues().await?;
        let marked = if before.recorders == 0 {
            Marked::Recorded
        } else {
            marker.mark(Instant::now() + SETTLE_FOR).await?
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
        Ok(Assessment::new(
            audit,
            rejected,
            queues,
            &marked,
            (self.since_ms, now_ms),
            self.late,
        ))
    }

    async fn queues(&self) -> Result<Queues, Error> {
        let found = self.topology.check(self.link).await?;
        let state = |name: String| {
            let mut states = found.iter().flatten();
            states
                .find(|state| state.name == name)
                .ok_or(Error::Queue { name })
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
    async fn earlier(&self) -> Result<u64, Error> {
        let mut ready = 0;
        for delay in self.store.delays().await? {
            if !self.topology.tiers().contains(&delay) {
                let delayed = self.topology.delayed(self.link, delay).await?;
                ready += u64::from(delayed.unwrap_or_default());
            }
        }
        Ok(ready)
    }
}
