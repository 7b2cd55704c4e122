//! What arrives from a program.

use axum::{Error, extract::ws::Message};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use super::{
    answer::Answered,
    end::{End, NOT_UTF8},
};

/// What a program has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Answer {
        answered: Answered,
        /// The length of the frame.
        bytes: usize,
    },
    /// A ping, which is answered by the library, or a pong.
    Control,
}

/// Reads what has arrived; `None` is the end of the connection.
///
/// # Errors
/// Returns why the connection ends.
pub(super) fn read(arrived: Option<Result<Message, Error>>) -> Result<Frame, End> {
    match arrived {
        Some(Ok(Message::Text(text))) => Ok(Frame::Answer {
            answered: Answered::parse(&text)?,
            bytes: text.len(),
        }),
        Some(Ok(Message::Binary(_))) => Err(End::Binary),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(Frame::Control),
        Some(Ok(Message::Close(_))) | None => Err(End::Gone),
        Some(Err(error)) => Err(fault(error)),
    }
}

fn fault(error: Error) -> End {
    let Ok(error) = error.into_inner().downcast::<tungstenite::Error>() else {
        return End::Gone;
    };
    match *error {
        tungstenite::Error::Capacity(_) => End::TooLarge,
        tungstenite::Error::Utf8(_) => End::NotAnswer(NOT_UTF8),
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
        tungstenite::Error::Protocol(_) => End::Protocol,
        _ => End::Gone,
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Bytes, extract::ws::CloseFrame};
    use tokio_tungstenite::tungstenite::error::CapacityError;

    use super::{super::end::NOT_AN_OBJECT, *};

    #[test]
    fn what_is_not_an_answer_ends_the_connection() {
        let close = CloseFrame {
            code: 1000,
            reason: "".into(),
        };
        for (message, end) in [
            (Message::text("{}"), End::NotAnswer(NOT_AN_OBJECT)),
            (Message::binary(Bytes::from("{}")), End::Binary),
            (Message::Close(Some(close)), End::Gone),
            (Message::Close(None), End::Gone),
        ] {
            assert_eq!(read(Some(Ok(message))), Err(end));
        }
        assert_eq!(read(None), Err(End::Gone));
        assert_eq!(read(Some(Ok(Message::Pong(Bytes::new())))), Ok(Frame::Control));
    }

    #[test]
    fn a_fault_of_the_program_is_told_from_a_lost_connection() {
        let too_long = CapacityError::MessageTooLong {
            size: 300_000,
            max_size: 262_144,
        };
        let lost = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        for (error, end) in [
            (tungstenite::Error::Capacity(too_long), End::TooLarge),
            (
                tungstenite::Error::Protocol(ProtocolError::UnmaskedFrameFromClient),
                End::Protocol,
            ),
            (
                tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
                End::Gone,
            ),
            (tungstenite::Error::Io(lost), End::Gone),
        ] {
            assert_eq!(read(Some(Err(Error::new(error)))), Err(end));
        }
        assert_eq!(read(Some(Err(Error::new("another error")))), Err(End::Gone));
    }
}
