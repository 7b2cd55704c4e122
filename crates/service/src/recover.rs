//! Sends the events that an endpoint missed, oldest first.
//!
//! An endpoint missed a delivery that is dead. It also missed an event that would match now and has no
//! delivery, because the endpoint was disabled, or because the worker did not know the endpoint's state at
//! that time. Each becomes a run that is requested before it is published: see [`resend`](crate::resend).
//!
//! A caller that continues each call at the [`Position`] of the previous one finds every event at most once,
//! even if the new run has died in the meantime.

use std::collections::BTreeSet;

use runtime::now_ms;
use store::{EventCursor, RecoverState, Recoverable, Refusal, Requested, Store};
use webhook::{DeliveryId, Endpoint, EventId};

use crate::{
    cursor,
    resend::{Error, Sender, Which},
};

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

/// A position in a search, from which the next call continues. The default is the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The event that was found last; `None` if none was found.
    pub after: Option<EventCursor>,
    /// How many runs that were requested earlier were counted by calls that only count.
    pub left: u64,
}

/// A position as a cursor contains it: the id of the endpoint, the time and the id of the event that was
/// found last, and `left`.
type Place<T> = (T, Option<(u64, T)>, u64);

/// The result of one call: what was found, sent, and left.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// What was found.
    pub count: Count,
    /// How many runs were published and marked as sent.
    pub sent: u64,
    /// Whether a call that continues at `position` would find more.
    pub more: bool,
    /// The position after what was found.
    pub position: Position,
    /// Deliveries that cannot be sent, because their event is no longer in the journal or cannot be read.
    /// Empty after counting, which does not check this.
    pub event_missing: BTreeSet<DeliveryId>,
}

impl Position {
    /// Returns the cursor of this position in a search for this endpoint.
    pub fn cursor(&self, endpoint: &Endpoint) -> String {
        let after = self.after.as_ref();
        let after = after.map(|after| (after.received_ms, after.id.as_str()));
        let place: Place<&str> = (endpoint.id.as_str(), after, self.left);
        cursor::encode(&place)
    }

    /// Returns the position of a cursor; `None` if the text is not the cursor of a search for this endpoint.
    pub fn of_cursor(text: &str, endpoint: &Endpoint) -> Option<Self> {
        let (of, after, left): Place<String> = cursor::decode(text)?;
        let after = after.map(|(received_ms, id)| EventCursor {
            received_ms,
            id: EventId::new(id),
            organization_id: endpoint.organization_id.clone(),
        });
        (of == endpoint.id.as_str()).then_some(Self { after, left })
    }
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

    /// Returns what a call of [`Search::send`] from this position on with this limit would send. If each call
    /// continues at the position of the previous one, runs that were requested earlier are counted once.
    ///
    /// # Errors
    /// Returns an error if the database operation fails.
    pub async fn count(&self, store: &Store, from: Position, limit: u32) -> Result<Recovered, store::Error> {
        let unsent = store.unsent(Some(&self.endpoint.id), None).await?;
        let uncounted = unsent.saturating_sub(from.left);
        let left = uncounted.min(limit.into());
        let mut recovered = Recovered::at(from);
        recovered.count.left = left;
        recovered.position.left = recovered.position.left.saturating_add(left);
        self.find(store, limit - left as u32, &mut recovered).await?;
        recovered.more |= uncounted > left;
        Ok(recovered)
    }

    /// Requests and sends at most `limit` runs: first those that were requested before and not sent, then the
    /// oldest of what is found from this position on.
    ///
    /// # Errors
    /// Returns an error if the database operation fails, or the broker does not accept the messages. The next
    /// call, from the same position on, sends what was requested.
    pub async fn send(
        &self,
        store: &Store,
        sender: &Sender,
        from: Position,
        limit: u32,
    ) -> Result<Recovered, Error> {
        let which = Which::Endpoint(&self.endpoint.id);
        let before = sender.send(which, limit.into()).await?;
        let mut recovered = Recovered::at(from);
        recovered.sent = before.sent;
        recovered.count.left = before.sent;
        let unsendable = before.unsendable.len() as u64;
        recovered.event_missing.extend(before.unsendable);
        let place = limit - before.sent as u32;
        let found = self.find(store, place, &mut recovered).await?;
        for page in found.chunks(PAGE as usize) {
            let requested = store
                .request_recoveries(&self.endpoint.id, page, now_ms())
                .await?;
            recovered.event_missing.extend(event_missing(page, &requested));
        }
        let mut left = before.left;
        if !found.is_empty() {
            let sent = sender.send(which, place.into()).await?;
            recovered.sent += sent.sent;
            // This includes what could not be sent before.
            left = sent.left.saturating_sub(unsendable);
            recovered.event_missing.extend(sent.unsendable);
        }
        recovered.more |= left > 0;
        Ok(recovered)
    }

    /// Finds the oldest results after the position of `recovered`, at most `limit`. Counts them, moves the
    /// position to the last one, and notes whether there are more.
    async fn find(
        &self,
        store: &Store,
        limit: u32,
        recovered: &mut Recovered,
    ) -> Result<Vec<Recoverable>, store::Error> {
        let after = recovered.position.after.as_ref();
        let mut found = self.page(store, after, limit + 1).await?;
        recovered.more = found.len() > limit as usize;
        found.truncate(limit as usize);
        recovered.count.add(&found);
        if let Some(last) = found.last() {
            recovered.position.after = Some(last.into());
        }
        Ok(found)
    }
}

impl Recovered {
    fn at(position: Position) -> Self {
        Self {
            position,
            ..Self::default()
        }
    }
}

/// Returns the dead deliveries that were found and not requested, because their event was deleted in between.
fn event_missing(found: &[Recoverable], requested: &[Requested]) -> impl Iterator<Item = DeliveryId> {
    let missing = Requested::Refused(Refusal::EventMissing);
    let pairs = found.iter().zip(requested);
    let pairs = pairs.filter(move |(_, requested)| **requested == missing);
    pairs.filter_map(|(found, _)| found.dead.clone())
}

#[cfg(test)]
mod tests {
    use signature::Secret;
    use webhook::{EndpointId, EventType, OrganizationId};

    use super::*;

    fn endpoint(id: &str) -> Endpoint {
        Endpoint {
            id: EndpointId::new(id),
            organization_id: OrganizationId::new("org_1"),
            project_id: None,
            url: "https://example.com/webhook".to_owned(),
            subscription: "*".parse().unwrap(),
            secret: Secret::generate([7; 32]),
            previous: None,
            disabled: None,
            version: 1,
            created_at_ms: 1,
            updated_at_ms: 1,
        }
    }

    fn missed(number: u64, dead: Option<&str>) -> Recoverable {
        Recoverable {
            organization_id: OrganizationId::new("org_1"),
            event_id: EventId::new(format!("evt_{number}")),
            event_type: EventType::LeadCompleted,
            received_ms: number,
            dead: dead.map(DeliveryId::new),
        }
    }

    #[test]
    fn a_cursor_is_for_one_endpoint() {
        let (own, other) = (endpoint("ep_1"), endpoint("ep_2"));
        let found = Position {
            after: Some(EventCursor::from(&missed(7, None))),
            left: 3,
        };
        for position in [Position::default(), found] {
            let cursor = position.cursor(&own);
            assert_eq!(Position::of_cursor(&cursor, &own), Some(position));
            assert_eq!(Position::of_cursor(&cursor, &other), None);
        }
    }

    #[test]
    fn a_cursor_of_something_else_is_none_of_a_search() {
        let own = endpoint("ep_1");
        for text in [
            String::new(),
            "x".to_owned(),
            cursor::encode(&"ep_1"),
            cursor::encode(&(7, "evt_7")),
            cursor::encode(&(7, "evt_7", "org_1")),
            cursor::encode(&("ep_1", (7, "evt_7"))),
            cursor::encode(&("ep_1", (7, "evt_7"), -1)),
            cursor::encode(&("ep_1", (7, "evt_7"), 0, 0)),
            cursor::encode(&("ep_1", 7, 0)),
        ] {
            assert_eq!(Position::of_cursor(&text, &own), None, "{text}");
        }
    }

    #[test]
    fn a_dead_delivery_whose_event_was_deleted_in_between_is_named() {
        let found = [(1, Some("dlv_1")), (2, Some("dlv_2")), (3, None)];
        let found = found.map(|(number, dead)| missed(number, dead));
        let missing = || Requested::Refused(Refusal::EventMissing);
        let requested = [Requested::New(DeliveryId::new("dlv_3")), missing(), missing()];
        let named: Vec<_> = event_missing(&found, &requested).collect();
        assert_eq!(named, [DeliveryId::new("dlv_2")]);
    }
}
