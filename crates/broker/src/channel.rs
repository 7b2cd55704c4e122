//! Channels of a link, and the errors of opening one.

use lapin::Channel;
use tokio::sync::MutexGuard;

/// The error of a link that was stopped: it never connects again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process closed its connection to the broker")]
pub struct Closed;

/// A channel to declare a topology on. A link has at most one at a time: RabbitMQ 3.10 reports a quorum queue
/// as declared while another channel is still creating it, and a consumer that starts that early loses its
/// whole connection.
pub(crate) struct Declaring<'a> {
    pub(crate) channel: Channel,
    _alone: MutexGuard<'a, ()>,
}

impl<'a> Declaring<'a> {
    /// Keeps `alone` locked for as long as the channel is used.
    pub(crate) fn new(channel: Channel, alone: MutexGuard<'a, ()>) -> Self {
        Self {
            channel,
            _alone: alone,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    #[error(transparent)]
    Closed(#[from] Closed),
    #[error(transparent)]
    Refused(#[from] lapin::Error),
}
