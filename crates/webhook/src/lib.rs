//! The types of webhook delivery, and the decisions about them as pure functions.
//!
//! The lead pipeline publishes an [`Event`]. Every [`Endpoint`] whose organization, project and
//! [`Subscription`] match the event gets a [`Delivery`]. A worker makes [attempts](AttemptResult) at a
//! delivery, one request each, until [`outcome`] decides that it is delivered, dead or cancelled. The
//! [`Schedule`] defines the delay before each further attempt.
//!
//! Clients of the HTTP API authenticate with an [`ApiKey`], which has [`Scopes`] and belongs to one
//! organization, or to the platform.
//!
//! This crate contains only values and pure functions: no I/O, no async code, no clock and no randomness.
//! Time is always an argument. This crate does not decide what survives a crash; that is up to the code that
//! holds the broker's message. A delivery carries all of its state, so that a retry needs no lookup.
//!
//! Invariants:
//! - [`Event::body`] is the AMQP body, byte for byte; nothing in this crate serializes it again.
//! - A [`Rejection`] describes a fault in the sender's bytes, never a fault of this system. It leads to
//!   quarantine, not to a retry.
//! - [`outcome`] only returns delays that are [tiers](Schedule::tiers) of the schedule, because each tier is
//!   a queue.
//! - Records of the [`journal`] can be merged in any order and any number of times; the resulting books are
//!   the same.

mod ids;
mod event_type;
mod event;
mod payload;
mod subscription;
mod endpoint;
mod names;
mod reason;
mod delivery;
mod attempt;
mod retry_after;
mod schedule;
mod outcome;
mod api_key;
mod request;
pub mod journal;

pub use api_key::{ApiKey, BadApiKey, Scope, Scopes};
pub use attempt::{Answer, AttemptResult, Failure, FailureKind, Phase, RESPONSE_BODY_BYTES_MAX};
pub use delivery::{Delivery, PutOff, Trigger};
pub use endpoint::{Disabled, DisabledReason, Endpoint, Mismatch, PreviousSecret, RELAY_URL};
pub use event::{
    DEPTH_MAX, EVENT_BYTES_MAX, Envelope, Event, FieldRejection, Rejection, TIMESTAMP_AHEAD_MAX,
    TIMESTAMPS_MS,
};
pub use event_type::{EventKind, EventType, PING, UnknownEventType};
pub use ids::{
    ApiKeyId, AttemptId, BadId, DeliveryId, EndpointId, EventId, ID_BYTES_MAX, LeadId, MESSAGE_ID_CHARS_MAX,
    OrganizationId, ProjectId, valid_id,
};
pub use names::UnknownName;
pub use outcome::{Outcome, outcome};
pub use payload::{About, example, ping_schema, sample, schema};
pub use reason::{CancelReason, DeadReason, DeferReason};
pub use request::{
    ATTEMPT_HEADER, DELIVERY_HEADER, EVENT_HEADER, Signatures, TIMESTAMP_HEADER, request_headers,
};
pub use retry_after::retry_after;
pub use schedule::{DELAY_MAX, Schedule, ScheduleError};
pub use subscription::{BadSubscription, Pattern, Subscription};
