//! The state of every event, delivery and attempt, merged from records.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use strum::{Display, EnumString, IntoStaticStr, VariantArray, VariantNames};

use crate::{
    AttemptId, DeliveryId, Event, EventId, OrganizationId, Trigger, UnknownName,
    journal::{
        AttemptRecord, BatchStamp, Considered, DeliveryRef, EventRecord, Gap, Numbers, Record, Seen, Span,
        StepRecord, Then,
    },
};

/// The state that follows from a set of records. It does not depend on the order of the records, nor on
/// duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// The events. Their ids are unique within an organization.
    pub events: BTreeMap<(OrganizationId, EventId), EventEntry>,
    /// The deliveries, each from the time when its endpoint matched the event.
    pub deliveries: BTreeMap<DeliveryId, DeliveryEntry>,
    /// The attempts as they were recorded.
    pub attempts: BTreeMap<AttemptId, AttemptRecord>,
    /// The gaps, by worker and by the time when they began.
    pub gaps: BTreeMap<(String, u64), Gap>,
    /// The batches that are accounted for, by worker.
    pub batches: BTreeMap<String, Numbers>,
}

/// The merged state of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventEntry {
    /// The event as it was published.
    pub event: Arc<Event>,
    /// When a worker first took the event from its queue, in Unix milliseconds.
    pub received_ms: u64,
    /// The endpoints that the records of the event name. Empty if no endpoint got the event, or if a dead
    /// letter is the only source.
    pub considered: Considered,
    /// The position of the registry that was used for the fan-out. `None` if `considered` names every
    /// endpoint of the organization, if the event is a ping, or if a dead letter is the only source.
    pub seen: Option<Seen>,
}

/// The merged state of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryEntry {
    /// The delivery.
    pub delivery: DeliveryRef,
    /// The earliest recorded time of the delivery, in Unix milliseconds.
    pub created_ms: u64,
    /// The latest standing in the order of [`Standing`].
    pub standing: Standing,
}

/// The progress of a delivery. Of two standings, the greater one is later: they are compared by state, then
/// by attempts, then by time.
///
/// The remaining fields make the order total, so that all readers choose the same standing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// The state of the delivery.
    pub state: DeliveryState,
    /// The number of attempts made.
    pub attempts: u32,
    /// When the delivery reached this standing, in Unix milliseconds.
    pub updated_ms: u64,
    /// When the next attempt is due, in Unix milliseconds; 0 if none is.
    pub next_ms: u64,
    /// Why the delivery is dead, cancelled or deferred; empty otherwise.
    pub reason: String,
    /// The HTTP status of the last attempt; 0 if there was no response or it is not known.
    pub last_status: u16,
    /// A description of the last attempt's failure; empty if there was none or it is not known.
    pub last_error: String,
}

/// The state of a delivery. Of two states, the greater one takes precedence: a delivered delivery never goes
/// back to another state.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
    VariantNames,
)]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownName, parse_err_fn = unknown)]
pub enum DeliveryState {
    /// More attempts are to be made.
    Pending,
    /// The endpoint was deleted, or the delivery was a ping that failed.
    Cancelled,
    /// The delivery is a dead letter.
    Dead,
    /// The endpoint answered with a 2xx.
    Delivered,
}

impl Books {
    /// Merges a record.
    pub fn add(&mut self, record: Record) {
        match record {
            Record::Event(record) => self.event(record),
            Record::Attempt(record) => self.attempt(record),
            Record::Step(record) => self.step(record),
            Record::Gap(gap) => self.gap(gap),
        }
    }

    /// Merges the number of a batch that arrived.
    pub fn stamp(&mut self, stamp: &BatchStamp) {
        self.batches.entry(stamp.worker.clone()).or_default().stamp(stamp);
    }

    /// Returns whether nothing was merged yet.
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

/// Returns the smallest range of batch numbers that contains both.
fn united(one: Option<(u64, u64)>, other: Option<(u64, u64)>) -> Option<(u64, u64)> {
    match (one, other) {
        (Some(one), Some(other)) => Some((one.0.min(other.0), one.1.max(other.1))),
        (one, other) => one.or(other),
    }
}

impl EventEntry {
    /// Returns whether the record that says which endpoints the event matched is missing: it was lost, or has
    /// not arrived yet.
    pub fn verdicts_missing(&self) -> bool {
        self.seen.is_none() && self.considered.iter().next().is_none()
    }

    /// Merges what two sets of records contain about one event.
    ///
    /// The protocol forbids two different bodies with one id. If they occur nevertheless, the lesser one is
    /// kept, so that the order of arrival does not matter. The same applies to two trace contexts.
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
    /// Merges what two sets of records contain about one delivery.
    pub fn merge(&mut self, other: Self) {
        self.created_ms = self.created_ms.min(other.created_ms);
        if other.standing > self.standing {
            self.standing = other.standing;
        }
    }
}

impl Standing {
    /// Returns the standing after this many attempts at this time, in Unix milliseconds.
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

    /// Returns the standing of a delivery whose endpoint matched at this time, in Unix milliseconds, with the
    /// first attempt due immediately.
    pub fn matched(at_ms: u64) -> Self {
        Self::new(0, at_ms, Then::Retry { at_ms })
    }
}

impl DeliveryState {
    /// All states, in ascending order.
    pub const ALL: &'static [Self] = <Self as VariantArray>::VARIANTS;

    /// Returns the name in listings.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Returns the number in the database; a later state has a greater number.
    pub const fn rank(self) -> i64 {
        match self {
            Self::Pending => 0,
            Self::Cancelled => 1,
            Self::Dead => 2,
            Self::Delivered => 3,
        }
    }
}

fn unknown(name: &str) -> UnknownName {
    UnknownName::of::<DeliveryState>("state", name)
}
