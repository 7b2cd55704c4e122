//! Records, folded into what is known of every event, delivery and attempt.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    str::FromStr,
    sync::Arc,
};

use crate::{
    AttemptId, DeliveryId, Event, EventId, OrganizationId, Trigger,
    journal::{
        AttemptRecord, BatchStamp, Considered, DeliveryRef, EventRecord, Gap, Numbers, Record, Seen, Span,
        StepRecord, Then,
    },
};

/// What a set of records says. Whatever their order, and however often each of them came, the books are the
/// same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Ids are unique within an organization.
    pub events: BTreeMap<(OrganizationId, EventId), EventEntry>,
    /// A delivery is here from the moment its endpoint matched.
    pub deliveries: BTreeMap<DeliveryId, DeliveryEntry>,
    /// Each as it was recorded.
    pub attempts: BTreeMap<AttemptId, AttemptRecord>,
    /// By the worker and by when they began.
    pub gaps: BTreeMap<(String, u64), Gap>,
    /// Which batches are accounted for, by the worker.
    pub batches: BTreeMap<String, Numbers>,
}

/// What is known of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventEntry {
    /// What was published.
    pub event: Arc<Event>,
    /// When a worker first took it, in Unix milliseconds.
    pub received_ms: u64,
    /// The endpoints that the event's records name. Empty when no endpoint got the event, and when only a
    /// dead letter tells of it.
    pub considered: Considered,
    /// The position of the registry that the event was fanned out with; `None` when `considered` names every
    /// endpoint of the organization, and when only a dead letter tells of the event.
    pub seen: Option<Seen>,
}

/// What is known of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryEntry {
    /// Which one.
    pub delivery: DeliveryRef,
    /// The earliest that is known of it, in Unix milliseconds.
    pub created_ms: u64,
    /// The furthest that is known of it.
    pub standing: Standing,
}

/// How far a delivery has come. Of two, the greater one is the later: by state, then by attempts, then by
/// time. What follows makes the order total, so that any two readers choose the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// Where it ended, or that it has not.
    pub state: DeliveryState,
    /// How many attempts were made.
    pub attempts: u32,
    /// When it got here, in Unix milliseconds.
    pub updated_ms: u64,
    /// When the next attempt is due, in Unix milliseconds; 0 when none is.
    pub next_ms: u64,
    /// Why it is dead, cancelled or deferred; empty otherwise.
    pub reason: String,
    /// The status of the last attempt; 0 when there was none.
    pub last_status: u16,
    /// The last attempt's failure in words; empty when there was none.
    pub last_error: String,
}

/// Where a delivery stands. Ordered by what prevails: delivered is never taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeliveryState {
    /// On its way.
    Pending,
    /// Nobody was left to deliver it to.
    Cancelled,
    /// In the dead letters.
    Dead,
    /// Answered with a 2xx.
    Delivered,
}

/// A word that is no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown state {0:?}; known are pending, cancelled, dead and delivered")]
pub struct UnknownDeliveryState(pub String);

impl Books {
    /// Takes a record in.
    pub fn add(&mut self, record: Record) {
        match record {
            Record::Event(record) => self.event(record),
            Record::Attempt(record) => self.attempt(record),
            Record::Step(record) => self.step(record),
            Record::Gap(gap) => self.gap(gap),
        }
    }

    /// Takes in that a batch arrived.
    pub fn stamp(&mut self, stamp: &BatchStamp) {
        self.batches.entry(stamp.worker.clone()).or_default().stamp(stamp);
    }

    /// Whether nothing was taken in.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.deliveries.is_empty()
            && self.attempts.is_empty()
            && self.gaps.is_empty()
            && self.batches.is_empty()
    }

    fn event(&mut self, record: EventRecord) {
        let EventRecord {
            event,
            received_ms,
            considered,
            seen,
        } = record;
        for endpoint_id in considered.matched() {
            let delivery = DeliveryRef {
                organization_id: event.organization_id.clone(),
                event_id: event.id.clone(),
                endpoint_id: endpoint_id.clone(),
                run: 0,
                trigger: if event.is_ping() {
                    Trigger::Ping
                } else {
                    Trigger::Event
                },
            };
            self.delivery(delivery, received_ms, Standing::matched(received_ms));
        }
        let entry = EventEntry {
            event,
            received_ms,
            considered,
            seen,
        };
        let key = (entry.event.organization_id.clone(), entry.event.id.clone());
        match self.events.entry(key) {
            Entry::Vacant(vacant) => drop(vacant.insert(entry)),
            Entry::Occupied(mut known) => known.get_mut().merge(entry),
        }
    }

    fn attempt(&mut self, record: AttemptRecord) {
        let standing = Standing {
            last_status: record.status.unwrap_or_default(),
            last_error: record.error.clone(),
            ..Standing::new(
                record.number,
                record.began_ms.saturating_add(record.duration_ms),
                record.then,
            )
        };
        self.delivery(record.delivery.clone(), record.began_ms, standing);
        self.attempts.insert(record.id.clone(), record);
    }

    fn step(&mut self, record: StepRecord) {
        let standing = Standing {
            last_status: record.last_status.unwrap_or_default(),
            last_error: record.last_error,
            ..Standing::new(record.attempts, record.at_ms, record.then)
        };
        self.delivery(record.delivery, record.at_ms, standing);
    }

    fn delivery(&mut self, delivery: DeliveryRef, created_ms: u64, standing: Standing) {
        let entry = DeliveryEntry {
            delivery,
            created_ms,
            standing,
        };
        match self.deliveries.entry(entry.delivery.id()) {
            Entry::Vacant(vacant) => drop(vacant.insert(entry)),
            Entry::Occupied(mut known) => known.get_mut().merge(entry),
        }
    }

    fn gap(&mut self, gap: Gap) {
        if let Some((first, last)) = gap.batches {
            let (from_ms, until_ms) = (gap.from_ms, gap.until_ms);
            self.batches.entry(gap.worker.clone()).or_default().add(Span {
                first,
                last,
                from_ms,
                until_ms,
            });
        }
        match self.gaps.entry((gap.worker.clone(), gap.from_ms)) {
            Entry::Vacant(vacant) => drop(vacant.insert(gap)),
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.until_ms = known.until_ms.max(gap.until_ms);
                known.count = known.count.max(gap.count);
                known.batches = united(known.batches, gap.batches);
            }
        }
    }
}

/// The numbers from the first to the last of both.
fn united(one: Option<(u64, u64)>, other: Option<(u64, u64)>) -> Option<(u64, u64)> {
    match (one, other) {
        (Some(one), Some(other)) => Some((one.0.min(other.0), one.1.max(other.1))),
        (one, other) => one.or(other),
    }
}

impl EventEntry {
    /// Unites what two sets of records say of one event. Of two bodies under one id, which the protocol
    /// forbids, the lesser stays, so that the order in which they came does not matter; and of two trace
    /// contexts likewise.
    pub fn merge(&mut self, other: Self) {
        let rank = |event: &Event| (event.body.clone(), event.traceparent.clone());
        if rank(&other.event) < rank(&self.event) {
            self.event = other.event;
        }
        self.received_ms = self.received_ms.min(other.received_ms);
        self.considered.merge(other.considered);
        self.seen = self.seen.max(other.seen);
    }
}

impl DeliveryEntry {
    /// Unites what two sets of records say of one delivery.
    pub fn merge(&mut self, other: Self) {
        self.created_ms = self.created_ms.min(other.created_ms);
        if other.standing > self.standing {
            self.standing = other.standing;
        }
    }
}

impl Standing {
    /// After this many attempts, at this time.
    fn new(attempts: u32, at_ms: u64, then: Then) -> Self {
        let (state, next_ms, reason) = match then {
            Then::Delivered => (DeliveryState::Delivered, 0, ""),
            Then::Retry { at_ms } => (DeliveryState::Pending, at_ms, ""),
            Then::Deferred { at_ms, reason } => (DeliveryState::Pending, at_ms, reason.as_str()),
            Then::Dead { reason } => (DeliveryState::Dead, 0, reason.as_str()),
            Then::Cancelled { reason } => (DeliveryState::Cancelled, 0, reason.as_str()),
        };
        Self {
            state,
            attempts,
            updated_ms: at_ms,
            next_ms,
            reason: reason.to_owned(),
            last_status: 0,
            last_error: String::new(),
        }
    }

    /// Of a delivery of which nothing is known but that it was to be attempted at once.
    pub fn matched(at_ms: u64) -> Self {
        Self::new(0, at_ms, Then::Retry { at_ms })
    }
}

impl DeliveryState {
    /// Every state, in its order.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Cancelled, Self::Dead, Self::Delivered];

    /// The name in listings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Cancelled => "cancelled",
            Self::Dead => "dead",
            Self::Delivered => "delivered",
        }
    }

    /// The number in the database: greater is further.
    pub const fn rank(self) -> i64 {
        match self {
            Self::Pending => 0,
            Self::Cancelled => 1,
            Self::Dead => 2,
            Self::Delivered => 3,
        }
    }
}

impl fmt::Display for DeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeliveryState {
    type Err = UnknownDeliveryState;

    fn from_str(name: &str) -> Result<Self, UnknownDeliveryState> {
        let known = Self::ALL.into_iter().find(|state| state.as_str() == name);
        known.ok_or_else(|| UnknownDeliveryState(name.to_owned()))
    }
}
