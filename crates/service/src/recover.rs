//! Sends again what an endpoint missed, oldest first.
//!
//! Missed are deliveries that died, and events that would match now but met a disabled endpoint. Each becomes
//! a run of its own that is requested before it is published: see [`resend`](crate::resend).

use runtime::now_ms;
use store::{EventCursor, RecoverState, Recoverable, Store};
use webhook::Endpoint;

use crate::resend::{Error, Sender, Which};

/// How many are requested in one transaction.
pub const PAGE: u32 = 256;

/// What is to be sent, within its bounds.
#[derive(Clone, Debug)]
pub struct Search {
    /// To whom.
    pub endpoint: Endpoint,
    /// Of events received from this time on, in Unix milliseconds.
    pub since_ms: u64,
    /// Of events received before this time.
    pub until_ms: u64,
    /// Of what kind.
    pub state: RecoverState,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Deliveries that died.
    pub dead: u64,
    /// Events that met a disabled endpoint.
    pub missed: u64,
    /// Left by an earlier run that was interrupted.
    pub left: u64,
}

/// What was found, sent and left of it by one call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recovered {
    /// What was found.
    pub count: Count,
    /// How many were published, and marked.
    pub sent: u64,
    /// Whether the same call finds more.
    pub more: bool,
}

impl Count {
    /// Adds what was found.
    pub fn add(&mut self, found: &[Recoverable]) {
        let dead = found.iter().filter(|found| found.dead.is_some()).count() as u64;
        self.dead += dead;
        self.missed += found.len() as u64 - dead;
    }

    /// All of it.
    pub fn all(self) -> u64 {
        self.dead + self.missed + self.left
    }
}

impl Search {
    /// The next at most `limit` after `after`, oldest first.
    ///
    /// # Errors
    /// Only the database's.
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

    /// What the next call of [`Search::send`] with this limit would send.
    ///
    /// # Errors
    /// Only the database's.
    pub async fn count(&self, store: &Store, limit: u32) -> Result<Recovered, store::Error> {
        let left = store.unsent(Some(&self.endpoint.id), None).await?;
        let place = u64::from(limit).saturating_sub(left) as u32;
        let mut recovered = Recovered::default();
        let (_, more) = self.find(store, place, &mut recovered.count).await?;
        recovered.count.left = left.min(limit.into());
        recovered.more = more || left > u64::from(limit);
        Ok(recovered)
    }

    /// Requests and sends at most `limit`: first what was requested before and not sent, then the oldest of
    /// what is found.
    ///
    /// # Errors
    /// The database's, and the broker's. What was requested is sent by the next call.
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

    /// The oldest at most `limit`, which are counted, and whether there are more.
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
