//! The library that the lead pipeline links: publishes typed events and waits for the broker's confirms.
//!
//! The pipeline creates an [`Event`] from a [`Lead`], a timestamp from [`Timestamps`] and the event's
//! [`Data`], and passes it to a [`Producer`]. `Ok` means that the broker has stored the event. From then on
//! it is delivered to every matching endpoint, even if processes crash. Workers consume the published events.
//! `docs/protocol.md` describes the same protocol for publishers that cannot use Rust.
//!
//! If this process crashes, events whose publish returned `Ok` survive. An event that was not confirmed may
//! have reached the broker nevertheless. Publishing it again is always safe: its [`EventId`] is created once,
//! together with the event, and receivers recognize a duplicate by it. A pipeline that must not lose an event
//! in its own crash has to store the event or its id first, then publish it, and delete the stored entry
//! after `Ok`.
//!
//! Invariants:
//! - Workers never quarantine what this crate publishes: every event first passes [`webhook::Envelope`], and
//!   a violation is returned to the caller as [`Error::Invalid`].
//! - Every publish ends in bounded time: a single event within one publish timeout, and a batch within one
//!   publish timeout for each window that succeeds, plus one.
//! - Two events of one lead with timestamps from the same [`Timestamps`] never have the same millisecond.
//!
//! Deliberately absent:
//! - A retry inside of `publish`: the caller knows how long an event may wait. See [`Error::is_transient`].
//! - A queue in memory: a crash would lose its events after the caller received `Ok`.
//! - Any declaration of exchanges or queues: the broker's user for producers needs no permission to
//!   configure.

mod timestamps;
mod event;
mod error;
mod producer;

pub use broker::{BadUrl, Config};
pub use webhook::{EventId, EventType, LeadId, OrganizationId, ProjectId, Rejection};

pub use error::{Error, NotReady};
pub use event::{Data, Event, Failure, Lead, Object, Serialized};
pub use producer::Producer;
pub use timestamps::Timestamps;
