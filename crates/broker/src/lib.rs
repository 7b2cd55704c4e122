//! RabbitMQ: what is declared there, how our messages are written and read, and connections that come back.
//!
//! The only crate that speaks AMQP. A [`Link`] keeps one connection alive for as long as the process wants it
//! and rebuilds it after any fault. A [`Publisher`] publishes over a link, `mandatory` and confirmed, on
//! channels from a pool: `Ok` means that a queue holds the message and has written it down. [`consume`] reads
//! a queue over a link and hands each message to a callback as an [`Incoming`], whose [`AckHandle`] is the
//! duty to settle it.
//!
//! What survives a crash: everything that was confirmed, and every message that was not acked. Nothing in
//! this process does.
//!
//! Invariants:
//! - A publish is `Ok` only after a confirm without a return. lapin may pair a return with another publish of
//!   the same channel, so returns are matched by a `correlation_id` of our own.
//! - A channel on which anything went wrong is never used again.
//! - Publishing and consuming use separate links: a broker under a memory or disk alarm blocks the former and
//!   not the latter.
//! - Everything in flight has a bound: a window of publishes, the pool of channels, the prefetch of a
//!   consumer.
//!
//! Deliberately absent: lapin's own recovery (it replays a topology it remembers and can give up for good),
//! and any decision about what a message means.

mod tls;
mod config;
mod meters;
mod topology;
mod held;
mod reply;
mod message;
mod screen;
mod connect;
mod channel;
mod publish_error;
mod refusals;
mod link;
mod permissions;
mod patience;
mod publisher;
mod ack;
mod watched;
mod consumer;
mod private;
mod changes;
mod tail;
mod depth;
mod canary;
mod mark;
mod inspect;
mod policy;
mod management;
#[cfg(fuzzing)]
pub mod fuzzing;

pub use ack::{AckHandle, Origin};
pub use changes::{Changes, follow_changes};
pub use channel::Closed;
pub use config::{BadManagementUrl, BadUrl, Config};
pub use consumer::{Incoming, Unsettled, consume};
pub use inspect::{InspectError, QueueState, Server, TopologyFault};
pub use link::{Link, backoff};
pub use management::{Inspection, Management, ManagementError};
pub use mark::Mark;
pub use message::{BadMessage, DeadLetter, Message, Outgoing, Rejected, Source};
pub use meters::{BINDING_METRICS, CONNECTION_METRICS, CONSUMER_METRICS, bindings_missing};
pub use policy::Harm;
pub use publish_error::{PublishError, PublishResult};
pub use publisher::{Late, Publisher, WINDOW_MAX};
pub use refusals::{BLOCKED, Refusal, RefusalKind};
pub use tail::{Copies, Tailed, WATCHED, tail};
pub use tls::{BadTls, Tls};
pub use topology::{Argument, Binding, DeclareError, Exchange, Queue, Topology};
