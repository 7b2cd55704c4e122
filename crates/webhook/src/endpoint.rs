//! The endpoints that events are delivered to.

use signature::Secret;
use strum::{Display, EnumString, IntoStaticStr, VariantNames};

use crate::{EndpointId, Event, OrganizationId, ProjectId, Subscription, UnknownName};

/// The URL of a relay: an endpoint whose requests are passed to a program that is connected to the API, instead of
/// being sent to a URL.
///
/// Its scheme is none that a customer can register. A worker of a version without relays treats it as a URL that is
/// not valid, so its attempts fail and are made again.
pub const RELAY_URL: &str = "relay:listen";

/// A URL that a customer has registered, and the events that are delivered to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The endpoint's id, unique across all organizations.
    pub id: EndpointId,
    /// The organization whose events are delivered to this endpoint.
    pub organization_id: OrganizationId,
    /// The project whose events are delivered; `None` for the events of all projects.
    pub project_id: Option<ProjectId>,
    /// The URL, `http` or `https`, as the customer wrote it, or [`RELAY_URL`]. Whether its address is allowed is
    /// checked at registration and again at every attempt.
    pub url: String,
    /// The event types that the endpoint subscribes to.
    pub subscription: Subscription,
    /// The secret that signs every request to this endpoint.
    pub secret: Secret,
    /// The `secret` before the last rotation; `None` if there was no rotation. It is kept after it has
    /// expired: compare its `until_ms`, or use [`previous_at`](Self::previous_at).
    pub previous: Option<PreviousSecret>,
    /// When and why deliveries are suspended; `None` while the endpoint is enabled.
    pub disabled: Option<Disabled>,
    /// The registry's counter at the last change of this endpoint. It increases with every change.
    pub version: i64,
    /// When the endpoint was created, in Unix milliseconds.
    pub created_at_ms: i64,
    /// When the endpoint was last changed, in Unix milliseconds.
    pub updated_at_ms: i64,
}

/// A secret that was replaced, and that the receiver may still use for a while to verify signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviousSecret {
    /// The replaced secret.
    pub secret: Secret,
    /// When the secret expires, in Unix milliseconds.
    pub until_ms: i64,
}

/// When and why an endpoint was disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disabled {
    /// Why the endpoint was disabled.
    pub reason: DisabledReason,
    /// When the endpoint was disabled, in Unix milliseconds.
    pub at_ms: i64,
}

/// The reason why an endpoint is disabled.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumString, IntoStaticStr, VariantNames,
)]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownName, parse_err_fn = unknown)]
pub enum DisabledReason {
    /// A user disabled it.
    Manual,
    /// The endpoint answered 410.
    Gone,
    /// All attempts failed for several days.
    Failing,
}

/// The reason why an endpoint of the event's organization does not get the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The endpoint belongs to another project.
    Project,
    /// The endpoint does not subscribe to the event type.
    EventType,
    /// The endpoint is disabled; it would have matched otherwise.
    Disabled,
}

impl Endpoint {
    /// Returns the secret before the last rotation if it is still valid at `now_ms`, in Unix milliseconds.
    pub fn previous_at(&self, now_ms: i64) -> Option<&PreviousSecret> {
        self.previous
            .as_ref()
            .filter(|previous| now_ms < previous.until_ms)
    }

    /// Returns whether the endpoint is a relay; see [`RELAY_URL`].
    pub fn is_relay(&self) -> bool {
        self.url == RELAY_URL
    }

    /// Returns why this endpoint does not get the event; `None` if it does.
    ///
    /// Does not compare the organization: the caller must have looked the endpoint up by the event's
    /// organization.
    pub fn mismatch(&self, event: &Event) -> Option<Mismatch> {
        let project_id = self.project_id.as_ref();
        Mismatch::of(project_id, &self.subscription, self.disabled.as_ref(), event)
    }
}

impl Mismatch {
    /// Returns why an endpoint with this project and subscription does not get the event; `None` if it does.
    ///
    /// An endpoint without a project gets the events of all projects.
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
    /// Returns the name in the database and in listings.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown(name: &str) -> UnknownName {
    UnknownName::of::<DisabledReason>("reason of a disabled endpoint", name)
}
