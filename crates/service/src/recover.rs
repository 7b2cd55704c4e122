//! Sends the events that an endpoint missed, oldest first.
//!
//! An endpoint missed a delivery that is dead. It also missed an event that would match now and has no
//! delivery, because the endpoint was disabled, or because the worker did not know the endpoint's state at
//! that time. Each becomes a run that is requested before it is published: see [`resend`](crate::resend).

use runtime::now_ms;
use store::{EventCursor, RecoverState, Recoverable, Store};
use webhook::Endpoint;

use crate::resend::{Error, Sender, Which};

/// The number of runs that are requested in one transaction.
pub const PAGE: u32 = 256;

/// A search for what an endpoint missed.
#[derive(Clone, Debug)]
pub struct Search {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The earliest time at which an event was received, in Unix milliseconds.
    pub since_ms: u64,
    /// The time before which an event was received, in Unix milliseconds.
    pub until_ms: u64,
    /// Which missed events to find.
    pub state: RecoverState,
}

/// How many deliveries were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Dead deliveries.
    pub dead: u64,
    /// Events without a delivery: the endpoint was disabled, or the worker did not know its state.
    pub missed: u64,
    /// Runs that were requested earlier and not sent, because that operation was interrupted.
    pub left: u64,
}

/// The result of one call: what was found, sent, and left.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recovered {
    /// What was found.
    pub count: Count,
    /// How many runs were published and marked as sent.
    pub sent: u64,
    /// Whether a repeated call would find more.
    pub more: bool,
}

impl Count {
    /// Adds what was found.
    pub fn add(&mut self, found: &[Recoverable]) {
        let dead = found.iter().filter(|found| found.dead.is_some()).count() as u64;
        self.dead += dead;
        self.missed += found.len() as u64 - dead;
    }

    /// Returns the sum of all counts.
    pub fn all(self) -> u64 {
        self.dead + self.missed + self.left
    }
}

impl Search {
    /// Returns at most `limit` results after `after`, oldest first.
    ///
    /// # Errors
    /// Returns an error if the database operation fails.
    pub async fn page(
        &self,
        store: &Store,
        after: Option<&EventCursor>,
        limit: u32,
    ) -> Result<Vec<Recoverable>, store::Error> {
        store
            .recoverable(
                &self.endpoint,
                self.since_ms,
                self.until_ms,
                self.state,
                after,
                limit,
            )
            .await
    }

    /// Returns what the next call of [`Search::send`] with this limit would send.
    ///
    /// # Errors
    /// Returns an error if the database operation fails.
    pub async fn count(&self, store: &Store, limit: u32) -> Result<Recovered, store::Error> {
        let left = store.unsent(Some(&self.endpoint.id), None).await?;
        let place = u64::from(limit).saturating_sub(left) as u32;
        let mut recovered = Recovered::default();
        let (_, more) = self.find(store, place, &mut recovered.count).await?;
        recovered.count.left = left.min(limit.into());
        recovered.more = more || left > u64::from(limit);
        Ok(recovered)
    }

    /// Requests and sends at most `limit` runs: first those that were requested before and not sent, then the
    /// oldest of what is found.
    ///
    /// # Errors
    /// Returns an error if the database operation fails, or the broker does not accept the messages. The next
    /// call sends what was requested.
    pub async fn send(&self, store: &Store, sender: &Sender, limit: u32) -> Result<Recovered, Error> {
        let which = Which::Endpoint(&self.endpoint.id);
        let before = sender.send(which, limit.into()).await?;
        let mut recovered = Recovered {
            sent: before.sent,
            ..Recovered::default()
        };
        recovered.count.left = before.sent;
        let place = limit - before.sent as u32;
        let (found, more) = self.find(store, place, &mut recovered.count).await?;
        for page in found.chunks(PAGE as usize) {
            store
                .request_recoveries(&self.endpoint.id, page, now_ms())
                .await?;
        }
        let mut left = before.left;
        if !found.is_empty() {
            let sent = sender.send(which, place.into()).await?;
            recovered.sent += sent.sent;
            left = sent.left;
        }
        recovered.more = more || left > 0;
        Ok(recovered)
    }

    /// Returns the oldest results, at most `limit`, and whether there are more. Adds the results to `count`.
    async fn find(
        &self,
        store: &Store,
        limit: u32,
        count: &mut Count,
    ) -> Result<(Vec<Recoverable>, bool), store::Error> {
        let mut found = self.page(store, None, limit + 1).await?;
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        count.add(&found);
        Ok((found, more))
    }
}
