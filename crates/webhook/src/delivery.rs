//! One event's way to one endpoint.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{DeliveryId, Endpoint, EndpointId, Event, EventKind, LeadId, ProjectId, payload};

/// A delivery that has an attempt before it. It travels as a message of its own (see the broker's header codec) and
/// carries all of its state.
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
    /// Since when this attempt has only been refused for want of a slot, in Unix milliseconds; `None` when the last
    /// thing that happened was something else.
    pub no_slot_since_ms: Option<u64>,
    /// When the first attempt of this run began, in Unix milliseconds; `None` before it.
    pub first_attempt_ms: Option<u64>,
    /// What caused this run.
    pub trigger: Trigger,
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
            no_slot_since_ms: None,
            first_attempt_ms: None,
            trigger: Trigger::Event,
        }
    }

    /// A ping of this endpoint: one attempt with all that a real delivery has, also while the endpoint is disabled. `random` makes its
    /// id; no two pings are the same event.
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

    /// The delivery after a charged attempt that began at `attempted_at_ms`: the next attempt, not yet deferred.
    #[must_use]
    pub fn after_attempt(self, attempted_at_ms: u64) -> Self {
        Self {
            attempt: self.attempt + 1,
            deferrals: 0,
            no_slot_since_ms: None,
            first_attempt_ms: self.first_attempt_ms.or(Some(attempted_at_ms)),
            ..self
        }
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
