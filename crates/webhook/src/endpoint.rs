//! Where events are delivered to.

use std::fmt;

use signature::Secret;

use crate::{EndpointId, Event, OrganizationId, ProjectId, Subscription};

/// A customer's registered URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Unique over all organizations.
    pub id: EndpointId,
    /// Only events of this organization are delivered here.
    pub organization_id: OrganizationId,
    /// When set, only events of this project are.
    pub project_id: Option<ProjectId>,
    /// `http` or `https`, as the customer wrote it; whether it may be reached is checked when it is
    /// registered and again at every attempt.
    pub url: String,
    /// The event types wanted.
    pub subscription: Subscription,
    /// Signs every request to this endpoint.
    pub secret: Secret,
    /// What `secret` was before the last rotation. Kept after its time, which is for the reader to compare.
    pub previous: Option<PreviousSecret>,
    /// When and why deliveries are suspended; `None` while the endpoint is enabled.
    pub disabled: Option<Disabled>,
    /// The registry's counter at the last change of this endpoint: grows with every change.
    pub version: i64,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// Unix milliseconds.
    pub updated_at_ms: i64,
}

/// A secret that was replaced, and that the receiver may still verify with for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviousSecret {
    /// The secret.
    pub secret: Secret,
    /// When it ends to be valid, in Unix milliseconds.
    pub until_ms: i64,
}

/// Since when and why an endpoint gets no deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disabled {
    /// Who or what disabled it.
    pub reason: DisabledReason,
    /// Unix milliseconds.
    pub at_ms: i64,
}

/// Why an endpoint is disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DisabledReason {
    /// Someone disabled it by hand.
    Manual,
    /// It answered 410.
    Gone,
    /// Every attempt failed for days.
    Failing,
}

/// A reason that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown reason {0:?} for a disabled endpoint; known are manual, gone and failing")]
pub struct UnknownDisabledReason(pub String);

/// Why an endpoint of the event's organization gets no delivery of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The endpoint belongs to another project.
    Project,
    /// The endpoint does not subscribe to the type.
    EventType,
    /// The endpoint is disabled; it would have matched.
    Disabled,
}

impl Endpoint {
    /// The secret before the last rotation, if it is still valid at this time.
    pub fn previous_at(&self, now_ms: i64) -> Option<&PreviousSecret> {
        self.previous
            .as_ref()
            .filter(|previous| now_ms < previous.until_ms)
    }

    /// Whether this endpoint gets the event, and if not, why. The organization is not compared: whoever asks
    /// has looked the endpoint up by it.
    pub fn mismatch(&self, event: &Event) -> Option<Mismatch> {
        let project_id = self.project_id.as_ref();
        Mismatch::of(project_id, &self.subscription, self.disabled.as_ref(), event)
    }
}

impl Mismatch {
    /// Returns why an endpoint with this project and subscription does not get the event; `None` if it does.
    /// Without a project it takes the events of all.
    pub(crate) fn of(
        project_id: Option<&ProjectId>,
        subscription: &Subscription,
        disabled: Option<&Disabled>,
        event: &Event,
    ) -> Option<Self> {
        let event_type = event.event_type.event_type();
        if project_id.is_some_and(|project| *project != event.project_id) {
            Some(Self::Project)
        } else if !event_type.is_some_and(|event_type| subscription.matches(event_type)) {
            Some(Self::EventType)
        } else {
            disabled.map(|_| Self::Disabled)
        }
    }
}

impl DisabledReason {
    /// The name in the database and in listings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }
}

impl fmt::Display for DisabledReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for DisabledReason {
    type Err = UnknownDisabledReason;

    fn from_str(name: &str) -> Result<Self, UnknownDisabledReason> {
        match name {
            "manual" => Ok(Self::Manual),
            "gone" => Ok(Self::Gone),
            "failing" => Ok(Self::Failing),
            _ => Err(UnknownDisabledReason(name.to_owned())),
        }
    }
}
