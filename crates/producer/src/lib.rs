//! What the lead pipeline links: typed events in, confirmed publishes out.
//!
//! The pipeline makes an [`Event`] of a [`Lead`], a timestamp from [`Timestamps`] and the event's [`Data`],
//! and gives it to a [`Producer`]. `Ok` means that the broker has written the event down; from then on every
//! matching endpoint gets it, whatever crashes. Workers consume what is published here; `docs/protocol.md`
//! says the same for publishers that cannot link Rust.
//!
//! What survives a crash of this process: events whose publish returned `Ok`. An event that was not confirmed
//! may be with the broker all the same. Publishing it again is always right: its [`EventId`] is made once,
//! with the event, and receivers tell a repetition by it. A pipeline that must not lose an event across its
//! own crash writes the event or its id down first, publishes, and strikes it off on `Ok`.
//!
//! Invariants:
//! - Nothing is published that a worker would quarantine: every event passes [`webhook::Envelope`] first, and
//!   what is wrong with it is the caller's [`Error::Invalid`].
//! - Every call ends: in one publish timeout, and a batch in one for each of its windows that goes through
//!   plus one.
//! - Two events of one lead that one [`Timestamps`] stamped never share a millisecond.
//!
//! Deliberately absent: a retry inside of `publish` (the caller knows how long an event may wait; see
//! [`Error::is_transient`]), a queue in memory (it would be lost in a crash after the caller was told `Ok`),
//! and any declaration of exchanges or queues (the broker's user of a producer needs no right to configure).

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
