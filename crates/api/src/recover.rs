//! What an endpoint missed is sent again, oldest first, over HTTP and from the command line.
//!
//! Missed are deliveries that died, and events that would match now but met a disabled endpoint. Each becomes a run of its own that is
//! requested before it is published: see [`resend`](crate::resend).

use store::{EventCursor, RecoverState, Recoverable, Store};
use webhook::Endpoint;

use crate::{
    context::now_ms,
    resend::{Error, Sender, Which},
};

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

    /// What the next call of [`Search::send`] with this limit would find, and whether that is all.
    ///
    /// # Errors
    /// Only the database's.
    pub(crate) async fn count(&self, store: &Store, limit: u32) -> Result<(Count, bool), store::Error> {
        let left = store.unsent(Some(&self.endpoint.id), None).await?;
        let place = u64::from(limit).saturating_sub(left) as u32;
        let mut found = self.page(store, None, place + 1).await?;
        let more = left > u64::from(limit) || found.len() > place as usize;
        found.truncate(place as usize);
        let mut count = Count {
            left: left.min(limit.into()),
            ..Count::default()
        };
        count.add(&found);
        Ok((count, more))
    }

    /// Requests and sends at most `limit`: first what was requested before and not sent, then the oldest of what was found. Returns what
    /// was found, how many were sent, and whether there are more.
    ///
    /// # Errors
    /// The database's, and the broker's. What was requested is sent by the next call.
    pub(crate) async fn send(
        &self,
        store: &Store,
        sender: &Sender,
        limit: u32,
    ) -> Result<(Count, u64, bool), Error> {
        let which = Which::Endpoint(&self.endpoint.id);
        let (sent, held) = sender.send(which, limit.into()).await?;
        let mut count = Count {
            left: sent,
            ..Count::default()
        };
        let place = limit - sent as u32;
        let mut found = self.page(store, None, place + 1).await?;
        let more = found.len() > place as usize;
        found.truncate(place as usize);
        count.add(&found);
        for page in found.chunks(PAGE as usize) {
            store
                .request_recoveries(&self.endpoint.id, page, now_ms())
                .await?;
        }
        if found.is_empty() {
            return Ok((count, sent, more || held > 0));
        }
        let (then, held) = sender.send(which, place.into()).await?;
        Ok((count, sent + then, more || held > 0))
    }
}
