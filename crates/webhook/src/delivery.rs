//! The delivery of one event to one endpoint.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantNames};

use crate::{
    DeferReason, DeliveryId, Endpoint, EndpointId, Event, EventKind, LeadId, ProjectId, UnknownName, payload,
};

/// A delivery with its next attempt still to be made.
///
/// Between attempts it is a message of its own (see the broker's header codec), which carries all of its
/// state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The event that is delivered.
    pub event: Arc<Event>,
    /// The endpoint that the event is delivered to.
    pub endpoint_id: EndpointId,
    /// The number of the run: 0 for the run that the event itself caused. Each resend is a new run with all
    /// attempts of the schedule.
    pub run: u32,
    /// The number of the next attempt, 1-based.
    pub attempt: u32,
    /// How many times this attempt was deferred.
    pub deferrals: u32,
    /// How long this attempt was deferred in total.
    pub put_off: PutOff,
    /// When the first attempt of this run began, in Unix milliseconds; `None` if none was made.
    pub first_attempt_ms: Option<u64>,
    /// What caused this run.
    pub trigger: Trigger,
}

/// How long an attempt was deferred in total, by cause.
///
/// These are durations and not points in time, because the clocks of hosts differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutOff {
    /// The time for which no slot was free, in milliseconds.
    pub no_slot_ms: u64,
    /// The time for which a fault of this system prevented the attempt, in milliseconds.
    pub fault_ms: u64,
}

/// What caused a run of attempts.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantNames,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownName, parse_err_fn = unknown)]
pub enum Trigger {
    /// The publication of the event.
    Event,
    /// A request to send the event again.
    Resend,
    /// A request to test whether the endpoint answers.
    Ping,
}

impl Delivery {
    /// Returns the first attempt of the run that the event itself caused.
    pub fn first(event: Arc<Event>, endpoint_id: EndpointId) -> Self {
        Self {
            event,
            endpoint_id,
            run: 0,
            attempt: 1,
            deferrals: 0,
            put_off: PutOff::default(),
            first_attempt_ms: None,
            trigger: Trigger::Event,
        }
    }

    /// Returns a ping of this endpoint: a delivery with a single attempt and everything that a real delivery
    /// has. It is attempted even while the endpoint is disabled.
    ///
    /// The ping's id is made from `random`, so that every ping is a different event.
    pub fn ping(endpoint: &Endpoint, now_ms: u64, random: [u8; 16]) -> Self {
        let none = payload::NONE;
        let project_id = endpoint.project_id.clone();
        let about = payload::About {
            organization_id: endpoint.organization_id.clone(),
            project_id: project_id.unwrap_or_else(|| ProjectId::new(none)),
            lead_id: LeadId::new(none),
            timestamp_ms: now_ms,
        };
        let event = Event {
            id: payload::ping_id(random),
            event_type: EventKind::Ping,
            timestamp_ms: now_ms,
            body: about.ping(&endpoint.id),
            organization_id: about.organization_id,
            project_id: about.project_id,
            lead_id: about.lead_id,
            traceparent: None,
        };
        Self {
            trigger: Trigger::Ping,
            ..Self::first(Arc::new(event), endpoint.id.clone())
        }
    }

    /// Returns the delivery's id, which is the same on every attempt of a run.
    pub fn id(&self) -> DeliveryId {
        DeliveryId::derive(
            &self.event.organization_id,
            &self.event.id,
            &self.endpoint_id,
            self.run,
        )
    }

    /// Returns the delivery after an attempt that counts against the endpoint and began at `attempted_at_ms`,
    /// in Unix milliseconds.
    ///
    /// The result has the number of the next attempt and no deferrals.
    #[must_use]
    pub fn after_attempt(self, attempted_at_ms: u64) -> Self {
        Self {
            attempt: self.attempt + 1,
            deferrals: 0,
            put_off: PutOff::default(),
            first_attempt_ms: self.first_attempt_ms.or(Some(attempted_at_ms)),
            ..self
        }
    }
}

impl PutOff {
    /// Returns the times with `by` added for this reason.
    #[must_use]
    pub fn longer(mut self, why: DeferReason, by: Duration) -> Self {
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        let sum_ms = match why {
            DeferReason::NoSlot => &mut self.no_slot_ms,
            DeferReason::Fault | DeferReason::Database => &mut self.fault_ms,
        };
        *sum_ms = sum_ms.saturating_add(by_ms);
        self
    }

    /// Returns how long the attempt was deferred for this reason. [`DeferReason::Fault`] and
    /// [`DeferReason::Database`] share one sum.
    pub fn sum(&self, why: DeferReason) -> Duration {
        Duration::from_millis(match why {
            DeferReason::NoSlot => self.no_slot_ms,
            DeferReason::Fault | DeferReason::Database => self.fault_ms,
        })
    }
}

impl Trigger {
    /// Returns the name on the wire.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown(name: &str) -> UnknownName {
    UnknownName::of::<Trigger>("trigger", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_add_up_by_their_kind_and_none_clears_another() {
        let second = Duration::from_secs(1);
        let put_off = PutOff::default()
            .longer(DeferReason::NoSlot, second)
            .longer(DeferReason::Fault, 2 * second)
            .longer(DeferReason::NoSlot, 4 * second)
            .longer(DeferReason::Database, 8 * second);
        assert_eq!(put_off.sum(DeferReason::NoSlot), 5 * second);
        for ours in [DeferReason::Fault, DeferReason::Database] {
            assert_eq!(put_off.sum(ours), 10 * second);
        }
        let endless = put_off
            .longer(DeferReason::Fault, Duration::MAX)
            .longer(DeferReason::Fault, second);
        assert_eq!(endless.fault_ms, u64::MAX);
    }
}
