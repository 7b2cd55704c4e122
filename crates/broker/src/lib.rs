//! The RabbitMQ client: the topology, the encoding and decoding of our messages, and connections that are
//! re-established after a failure.
//!
//! This is the only crate that speaks AMQP. A [`Link`] keeps one connection open until the process stops it,
//! and re-establishes it after any fault. A [`Publisher`] publishes over a link, `mandatory` and with
//! publisher confirms, on channels from a pool: `Ok` means that a queue holds the message and has written it
//! to disk. [`consume`] consumes a queue over a link and passes each message to a callback as an
//! [`Incoming`]. The caller then settles the message with the [`AckHandle`] in it.
//!
//! Confirmed messages and messages that were not acknowledged survive a crash. No state of this process does.
//!
//! Invariants:
//! - A publish is `Ok` only after a confirm without a return. lapin may attach a return to another publish on
//!   the same channel, so this crate matches returns by its own `correlation_id`.
//! - A channel on which anything failed is never reused.
//! - Publishing and consuming use separate links: during a memory or disk alarm the broker blocks connections
//!   that publish, but not those that only consume.
//! - Everything in flight has an upper bound: the window of publishes, the pool of channels, the prefetch of
//!   a consumer.
//!
//! Deliberately absent: lapin's own recovery (it replays the topology that it has recorded, and can give up
//! permanently), and any decision about what a message means.

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
mod relay;
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
pub use message::{
    BadMessage, BadReplyTo, DeadLetter, Message, Outgoing, Rejected, RelayedAnswer, RelayedRequest, ReplyTo,
    Source,
};
pub use meters::{BINDING_METRICS, CONNECTION_METRICS, CONSUMER_METRICS, bindings_missing};
pub use policy::Harm;
pub use publish_error::{PublishError, PublishResult};
pub use publisher::{Late, Publisher, WINDOW_MAX};
pub use refusals::{BLOCKED, Refusal, RefusalKind};
pub use relay::{RelayError, Requests, follow_answers};
pub use tail::{Copies, Tailed, WATCHED, tail};
pub use tls::{BadTls, Tls};
pub use topology::{Argument, Binding, DeclareError, Exchange, Queue, Topology};
