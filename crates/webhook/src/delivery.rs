//! One event's way to one endpoint.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{DeferReason, DeliveryId, Endpoint, EndpointId, Event, EventKind, LeadId, ProjectId, payload};

/// A delivery that has an attempt before it. It travels as a message of its own (see the broker's header
/// codec) and carries all of its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// What is delivered.
    pub event: Arc<Event>,
    /// Where to.
    pub endpoint_id: EndpointId,
    /// 0 for the event itself; each resend is a new run with a fresh set of attempts.
    pub run: u32,
    /// The attempt that comes next, 1-based.
    pub attempt: u32,
    /// How often this attempt was put off without being made.
    pub deferrals: u32,
    /// How long this attempt has been put off so far.
    pub put_off: PutOff,
    /// When the first attempt of this run began, in Unix milliseconds; `None` before it.
    pub first_attempt_ms: Option<u64>,
    /// What caused this run.
    pub trigger: Trigger,
}

/// How long an attempt has been put off, by whose doing. Durations, because a moment of one host's clock
/// means another on the next host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutOff {
    /// For want of a slot, in milliseconds.
    pub no_slot_ms: u64,
    /// For faults of ours, in milliseconds.
    pub fault_ms: u64,
}

/// What caused a run of attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// The event was published.
    Event,
    /// Someone asked for it again.
    Resend,
    /// Someone asked whether the endpoint answers.
    Ping,
}

/// A trigger that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown trigger {0:?}; known are event, resend and ping")]
pub struct UnknownTrigger(pub String);

impl Delivery {
    /// The first attempt of the event's own run.
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

    /// A ping of this endpoint: one attempt with all that a real delivery has, also while the endpoint is
    /// disabled. `random` makes its id; no two pings are the same event.
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

    /// The delivery's id: the same on every attempt of a run.
    pub fn id(&self) -> DeliveryId {
        DeliveryId::derive(
            &self.event.organization_id,
            &self.event.id,
            &self.endpoint_id,
            self.run,
        )
    }

    /// The delivery after a charged attempt that began at `attempted_at_ms`: the next attempt, not yet
    /// deferred.
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
    /// With as much more.
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

    /// How long it has been put off for this reason and those of the same kind.
    pub fn sum(&self, why: DeferReason) -> Duration {
        Duration::from_millis(match why {
            DeferReason::NoSlot => self.no_slot_ms,
            DeferReason::Fault | DeferReason::Database => self.fault_ms,
        })
    }
}

impl Trigger {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Resend => "resend",
            Self::Ping => "ping",
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Trigger {
    type Err = UnknownTrigger;

    fn from_str(name: &str) -> Result<Self, UnknownTrigger> {
        match name {
            "event" => Ok(Self::Event),
            "resend" => Ok(Self::Resend),
            "ping" => Ok(Self::Ping),
            _ => Err(UnknownTrigger(name.to_owned())),
        }
    }
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
