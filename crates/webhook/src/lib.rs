//! The nouns of webhook delivery and the decisions made about them.
//!
//! An [`Event`] is published by the lead pipeline. Every [`Endpoint`] whose organization, project and
//! [`Subscription`] match it gets a [`Delivery`]. A delivery is tried by [attempts](AttemptResult), one
//! request each, until [`outcome`] says that it is delivered, dead or cancelled; the [`Schedule`] says when
//! the next one is due.
//!
//! Who manages them over HTTP shows an [`ApiKey`], which is bound to an organization and has [`Scopes`].
//!
//! Everything here is a value or a pure function: no I/O, no async, no clock, no randomness. Time is always
//! an argument. What survives a crash is not decided here but by whoever holds the broker's message: a
//! delivery carries all of its state with it, so that nothing has to be looked up to retry it.
//!
//! Invariants:
//! - [`Event::body`] is the AMQP body, byte for byte; nothing in this crate re-serializes it.
//! - A [`Rejection`] is about the sender's bytes, never about us: it leads to quarantine, not to a retry.
//! - [`outcome`] never returns a delay that is not one of the schedule's [tiers](Schedule::tiers): each tier
//!   is a queue.
//! - What the [`journal`] says merges: in any order, any number of times, to the same books.

mod ids;
mod event_type;
mod event;
mod payload;
mod subscription;
mod endpoint;
mod reason;
mod delivery;
mod attempt;
mod retry_after;
mod schedule;
mod outcome;
mod api_key;
mod request;
pub mod journal;

pub use api_key::{ApiKey, BadApiKey, Scope, Scopes, UnknownScope};
pub use attempt::{Answer, AttemptResult, Failure, FailureKind, Phase, RESPONSE_BODY_BYTES_MAX};
pub use delivery::{Delivery, PutOff, Trigger, UnknownTrigger};
pub use endpoint::{Disabled, DisabledReason, Endpoint, Mismatch, PreviousSecret, UnknownDisabledReason};
pub use event::{
    DEPTH_MAX, EVENT_BYTES_MAX, Envelope, Event, FieldRejection, Rejection, TIMESTAMP_AHEAD_MAX,
    TIMESTAMPS_MS,
};
pub use event_type::{EventKind, EventType, PING, UnknownEventType};
pub use ids::{
    ApiKeyId, AttemptId, DeliveryId, EndpointId, EventId, ID_BYTES_MAX, LeadId, MESSAGE_ID_CHARS_MAX,
    OrganizationId, ProjectId,
};
pub use outcome::{Outcome, outcome};
pub use payload::{About, example, ping_schema, sample, schema};
pub use reason::{CancelReason, DeadReason, DeferReason, UnknownReason};
pub use request::{
    ATTEMPT_HEADER, DELIVERY_HEADER, EVENT_HEADER, Signatures, TIMESTAMP_HEADER, request_headers,
};
pub use retry_after::retry_after;
pub use schedule::{DELAY_MAX, Schedule, ScheduleError};
pub use subscription::{BadSubscription, Pattern, Subscription};
