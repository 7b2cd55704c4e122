//! Channels of a link, and why there is none.

use lapin::Channel;
use tokio::sync::MutexGuard;

/// The link's process is shutting down: there will be no connection any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection to the broker was closed by us")]
pub struct Closed;

/// A channel to declare a topology on; a link has one at a time. RabbitMQ 3.10 calls a quorum queue declared
/// that another channel is still making, and whoever consumes from it that early loses the whole connection.
pub(crate) struct Declaring<'a> {
    pub(crate) channel: Channel,
    /// Held until the topology is declared.
    #[expect(dead_code, reason = "a lock is held, not read")]
    pub(crate) alone: MutexGuard<'a, ()>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    #[error(transparent)]
    Closed(#[from] Closed),
    #[error(transparent)]
    Refused(#[from] lapin::Error),
}
