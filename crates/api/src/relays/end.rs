//! Why a connection ends, and what its program is told.

use axum::extract::ws::CloseFrame;

use crate::config::RELAY_MESSAGE_BYTES_MAX;

/// The reasons why a text frame is not an answer.
pub(super) const NOT_AN_OBJECT: &str = "A message is not a JSON object with the fields of an answer.";
pub(super) const NOT_UTF8: &str = "A text frame is not UTF-8.";
pub(super) const STATUS: &str = "`status` is neither an integer from 200 to 599 nor null.";
pub(super) const RETRY_AFTER: &str = "`retry_after` is longer than 128 bytes, or has control characters.";

/// The reason why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// This process shuts down, or has lost its connection to the broker.
    Restart,
    /// The relay was deleted or replaced, or its lease has expired.
    Ended,
    /// The key was revoked or has expired.
    KeyInvalid,
    /// The program reads too slowly.
    TooSlow,
    /// Nothing has arrived from the program, not even an answer to a ping.
    Silent,
    /// A text frame is not an answer; the text says why.
    NotAnswer(&'static str),
    /// The program sent a binary frame.
    Binary,
    /// A frame is too large.
    TooLarge,
    /// The program does not follow the protocol of WebSockets.
    Protocol,
    /// The program has ended the connection, or the connection was lost.
    Gone,
}

impl End {
    /// Returns the frame that tells the program why the connection ends; `None` if it would not arrive.
    pub(super) fn frame(self) -> Option<CloseFrame> {
        let (code, reason) = self.told()?;
        Some(CloseFrame {
            code,
            reason: reason.into(),
        })
    }

    /// Returns the close code and the reason. A reason has at most 123 bytes (RFC 6455 section 5.5).
    fn told(self) -> Option<(u16, String)> {
        let (code, reason) = match self {
            Self::Restart => (1012, "The service restarts. Connect again."),
            Self::Ended => (4000, "The relay has ended."),
            Self::KeyInvalid => (4001, "The API key is no longer valid."),
            Self::TooSlow => (4002, "The program did not read for 20 s."),
            Self::Silent => (1002, "Nothing has arrived for 25 s. Answer pings."),
            Self::NotAnswer(why) => (1007, why),
            Self::Binary => (1003, "Send text frames, not binary ones."),
            Self::TooLarge => {
                let reason = format!("A message has at most {RELAY_MESSAGE_BYTES_MAX} bytes.");
                return Some((1009, reason));
            }
            Self::Protocol => (1002, "The frame is not valid (RFC 6455)."),
            Self::Gone => return None,
        };
        Some((code, reason.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_fits_into_a_close_frame() {
        let all = [
            End::Restart,
            End::Ended,
            End::KeyInvalid,
            End::TooSlow,
            End::Silent,
            End::NotAnswer(NOT_AN_OBJECT),
            End::NotAnswer(NOT_UTF8),
            End::NotAnswer(STATUS),
            End::NotAnswer(RETRY_AFTER),
            End::Binary,
            End::TooLarge,
            End::Protocol,
        ];
        for end in all {
            let frame = end.frame().expect("the program is told");
            assert!((1..=123).contains(&frame.reason.len()), "{end:?}");
            assert!(frame.reason.ends_with('.'), "{end:?}");
        }
        assert_eq!(End::Gone.frame(), None);
    }
}
