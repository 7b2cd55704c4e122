//! The reasons why the connection of a relay ended.

use std::{error::Error as StdError, time::Duration};

use tokio_tungstenite::tungstenite::{
    self,
    error::ProtocolError,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::error::printable;

/// The API's close code for a relay that has ended.
const ENDED: u16 = 4000;
/// The API's close code for a key that is no longer valid.
const KEY_INVALID: u16 = 4001;
/// The API's close code for a program that did not read.
const TOO_SLOW: u16 = 4002;

/// The reason why the connection of a relay ended. `reason` is what the API said, without control characters.
///
/// Whatever the reason is, the requests without an answer fail, and the worker repeats them later.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayClosed {
    /// The API shuts down, cannot serve the connection at the moment, or has received nothing from the program.
    #[error("the API closed the connection of the relay: {reason}; connect again")]
    Restart {
        /// What the API said.
        reason: String,
    },
    /// The relay has ended: its endpoint was deleted, or the key has opened another relay.
    #[error("the API closed the connection of the relay: {reason}; open another relay")]
    Ended {
        /// What the API said.
        reason: String,
    },
    /// The API key was revoked, or has expired.
    #[error("the API closed the connection of the relay: {reason}; use another API key")]
    KeyInvalid {
        /// What the API said.
        reason: String,
    },
    /// The program did not take the requests in time.
    #[error(
        "the API closed the connection of the relay: {reason}; connect again, and take the requests as soon as they arrive"
    )]
    TooSlow {
        /// What the API said.
        reason: String,
    },
    /// The API closed the connection for another reason, for example because it does not understand an answer.
    #[error(
        "the API closed the connection of the relay with code {code}: {reason}; check that the versions of this client and of the API fit together"
    )]
    Refused {
        /// The close code of the WebSocket.
        code: u16,
        /// What the API said.
        reason: String,
    },
    /// A message of the API cannot be used.
    #[error(
        "the connection of the relay was closed, because {reason}; check that the versions of this client and of the API fit together"
    )]
    Unreadable {
        /// What is wrong with the message.
        reason: String,
    },
    /// Nothing arrived, or nothing could be sent.
    #[error(
        "the connection of the relay was closed, because the API was silent for {after:?}; connect again"
    )]
    Silent {
        /// How long the client waited.
        after: Duration,
    },
    /// The connection broke.
    #[error("the connection of the relay was lost; connect again")]
    Lost {
        /// The cause.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl RelayClosed {
    /// Returns whether the relay can be connected again without any other change.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Restart { .. } | Self::TooSlow { .. } | Self::Silent { .. } | Self::Lost { .. } => true,
            Self::Ended { .. } | Self::KeyInvalid { .. } | Self::Refused { .. } | Self::Unreadable { .. } => {
                false
            }
        }
    }

    /// Returns what the API's close message means; `None` if the connection was closed normally.
    pub(crate) fn told(frame: Option<CloseFrame>) -> Option<Self> {
        let Some(CloseFrame { code, reason }) = frame else {
            let reason = "it gave no reason".to_owned();
            return Some(Self::Restart { reason });
        };
        let reason = printable(reason.trim_end_matches('.'));
        match (code, u16::from(code)) {
            (CloseCode::Normal, _) => None,
            // The first is also that of a program that was suspended. Proxies send some of the others.
            (
                CloseCode::Protocol
                | CloseCode::Away
                | CloseCode::Error
                | CloseCode::Restart
                | CloseCode::Again,
                _,
            ) => Some(Self::Restart { reason }),
            (_, ENDED) => Some(Self::Ended { reason }),
            (_, KEY_INVALID) => Some(Self::KeyInvalid { reason }),
            (_, TOO_SLOW) => Some(Self::TooSlow { reason }),
            (_, code) => Some(Self::Refused { code, reason }),
        }
    }

    /// Returns the reason for a connection that broke, or that carried something else than WebSocket messages within
    /// the bounds.
    pub(crate) fn broken(error: tungstenite::Error) -> Self {
        use tungstenite::Error::{Capacity, Protocol, Utf8};
        let is_message = match &error {
            Protocol(cause) => *cause != ProtocolError::ResetWithoutClosingHandshake,
            Capacity(_) | Utf8(_) => true,
            _ => false,
        };
        if is_message {
            let cause = printable(&error.to_string());
            let reason = format!("a message of the API cannot be read: {cause}");
            Self::Unreadable { reason }
        } else {
            let source = Box::new(error);
            Self::Lost { source }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: u16, reason: &str) -> Option<RelayClosed> {
        let code = CloseCode::from(code);
        let reason = reason.into();
        RelayClosed::told(Some(CloseFrame { code, reason }))
    }

    #[test]
    fn a_close_code_says_what_to_do_next() {
        assert!(told(1000, "").is_none());
        for (code, is_transient, words) in [
            (1001, true, "connect again"),
            (1002, true, "connect again"),
            (1012, true, "connect again"),
            (1011, true, "connect again"),
            (4000, false, "open another relay"),
            (4001, false, "use another API key"),
            (4002, true, "as soon as they arrive"),
            (1003, false, "with code 1003"),
            (1007, false, "with code 1007"),
            (1009, false, "with code 1009"),
            (4999, false, "with code 4999"),
        ] {
            let closed = told(code, "It is \u{1b}[31mso.").unwrap();
            assert_eq!(closed.is_transient(), is_transient, "{closed}");
            let text = closed.to_string();
            assert!(
                text.contains(words) && text.contains("It is \\u{1b}[31mso;"),
                "{text}"
            );
        }
        let silent = RelayClosed::told(None).unwrap();
        assert!(silent.is_transient(), "{silent}");
    }

    #[test]
    fn a_broken_connection_is_told_from_a_message_that_is_not_understood() {
        let reset = tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake);
        assert!(RelayClosed::broken(reset).is_transient());
        let masked = tungstenite::Error::Protocol(ProtocolError::MaskedFrameFromServer);
        assert!(!RelayClosed::broken(masked).is_transient());
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(RelayClosed::broken(refused.into()).is_transient());
    }
}
