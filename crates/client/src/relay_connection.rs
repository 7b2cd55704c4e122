//! The connection of a relay: requests arrive, answers are sent.
//!
//! A task of its own reads and writes, so that the API's pings are answered while the program works on requests. It
//! ends with the [`RelayConnection`]. All channels have the size of what the API sends before it waits for answers.

use std::{future::pending, pin::pin, time::Duration};

use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use reqwest::Upgraded;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message, Utf8Bytes,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use webhook::RESPONSE_BODY_BYTES_MAX;
use wire::{RelayAnswer, RelayRequest};

use crate::relay_closed::RelayClosed;

/// The maximum number of requests that the program has not taken yet, and of answers that are not sent yet. The API
/// sends no further request while 64 have no answer.
const WAITING_MAX: usize = 64;
/// The maximum size of a message from the API, in bytes. An event has at most 256 KiB, which JSON may enlarge to six
/// times that.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The maximum time without a message. The API sends a ping every 10 s.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The maximum time for sending one message.
const WRITE_MAX: Duration = Duration::from_secs(20);
/// The maximum time for the last messages of a connection that ends.
const END_MAX: Duration = Duration::from_secs(1);
/// The maximum time for an orderly end, in which the answers are sent.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// The maximum size of the header `Retry-After` in an answer, in bytes.
const RETRY_AFTER_BYTES_MAX: usize = 128;

type Socket = WebSocketStream<Upgraded>;

/// An open connection of a relay. Dropping it closes the connection at once; [`close`](Self::close) sends the answers
/// before.
#[derive(Debug)]
pub struct RelayConnection {
    requests: mpsc::Receiver<Result<RelayRequest, RelayClosed>>,
    answers: RelayAnswers,
    /// The task that reads and writes, which is aborted when this is dropped.
    task: JoinSet<()>,
}

/// Sends the answers to a relay's requests. Clones send over the same connection, from any task.
#[derive(Clone, Debug)]
pub struct RelayAnswers {
    writes: mpsc::Sender<Write>,
}

/// The reason why an answer was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotAnswered {
    /// The answer cannot be sent. The connection goes on.
    #[error("the request {request} was not answered: {reason}")]
    Invalid {
        /// The request.
        request: String,
        /// Which field is not valid, and what was expected.
        reason: String,
    },
    /// The connection has ended; [`RelayConnection::next`] says why. The worker repeats the request.
    #[error("the request {request} was not answered, because the connection of the relay has ended")]
    Closed {
        /// The request.
        request: String,
    },
}

/// A message to send.
#[derive(Debug)]
enum Write {
    /// The JSON of an answer.
    Answer(String),
    /// The end of the connection.
    Close,
}

impl RelayConnection {
    /// Begins to read and write messages.
    pub(crate) async fn over(upgraded: Upgraded) -> Self {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await;
        let (requests_in, requests) = mpsc::channel(WAITING_MAX);
        let (writes, writes_out) = mpsc::channel(WAITING_MAX);
        let mut task = JoinSet::new();
        task.spawn(converse(socket, requests_in, writes_out));
        Self {
            requests,
            answers: RelayAnswers { writes },
            task,
        }
    }

    /// Returns the next request; `None` if the connection was closed normally, or after its end was returned.
    ///
    /// The future can be dropped without losing a request.
    ///
    /// # Errors
    /// Returns the reason why the connection ended.
    pub async fn next(&mut self) -> Result<Option<RelayRequest>, RelayClosed> {
        self.requests.recv().await.transpose()
    }

    /// Returns what sends answers, for the tasks that work on the requests.
    pub fn answers(&self) -> RelayAnswers {
        self.answers.clone()
    }

    /// Answers a request, as [`RelayAnswers::answer`] does.
    ///
    /// # Errors
    /// Returns an error if the answer is not valid, or the connection has ended.
    pub async fn answer(&self, answer: &RelayAnswer) -> Result<(), NotAnswered> {
        self.answers.answer(answer).await
    }

    /// Sends the answers that were given so far, and closes the connection. Takes at most 5 s. Requests without an
    /// answer fail.
    pub async fn close(mut self) {
        self.requests.close();
        let (writes, task) = (&self.answers.writes, &mut self.task);
        let closing = async move {
            if writes.send(Write::Close).await.is_ok() {
                task.join_next().await;
            }
        };
        // After this time, the connection is dropped.
        let _ = timeout(CLOSE_MAX, closing).await;
    }
}

impl RelayAnswers {
    /// Answers a request. Of the body, the first 16 KiB are sent. The API ignores an answer that comes too late, or
    /// that is the second one to the same request.
    ///
    /// `Ok` says that the answer will be sent. If the connection ends before, the worker repeats the request.
    ///
    /// # Errors
    /// Returns an error if the status is not one from 200 to 599, if `retry_after` has more than 128 bytes or control
    /// characters, or if the connection has ended.
    pub async fn answer(&self, answer: &RelayAnswer) -> Result<(), NotAnswered> {
        let text = text_of(answer)?;
        let sent = self.writes.send(Write::Answer(text)).await;
        sent.map_err(|_| NotAnswered::Closed {
            request: answer.request.clone(),
        })
    }
}

/// Returns the message with this answer.
fn text_of(answer: &RelayAnswer) -> Result<String, NotAnswered> {
    let invalid = |reason: String| NotAnswered::Invalid {
        request: answer.request.clone(),
        reason,
    };
    if let Some(status) = answer.status
        && !(200..=599).contains(&status)
    {
        return Err(invalid(format!(
            "its status is {status}: expected one from 200 to 599"
        )));
    }
    let fits = |text: &str| text.len() <= RETRY_AFTER_BYTES_MAX && !text.contains(char::is_control);
    if answer.retry_after.as_deref().is_some_and(|text| !fits(text)) {
        let reason = format!(
            "its retry_after is not valid: expected at most {RETRY_AFTER_BYTES_MAX} bytes without control characters"
        );
        return Err(invalid(reason));
    }
    let end = answer.body.floor_char_boundary(RESPONSE_BODY_BYTES_MAX);
    let cut = RelayAnswer {
        request: answer.request.clone(),
        status: answer.status,
        retry_after: answer.retry_after.clone(),
        body: answer.body[..end].to_owned(),
    };
    Ok(serde_json::to_string(&cut).expect("it has text keys and no failing fields"))
}

/// Reads and writes until the connection ends. The last item is the reason, unless the connection was closed normally.
async fn converse(
    socket: Socket,
    requests: mpsc::Sender<Result<RelayRequest, RelayClosed>>,
    writes: mpsc::Receiver<Write>,
) {
    let (sink, stream) = socket.split();
    let mut reading = pin!(read(stream, &requests));
    let closed = tokio::select! {
        biased;
        closed = reading.as_mut() => closed,
        broken = write(sink, writes) => {
            // The API may have said why before the connection broke.
            let told = timeout(END_MAX, reading.as_mut()).await;
            told.unwrap_or(Some(broken))
        }
    };
    if let Some(closed) = closed {
        // An error means that the program takes no more items.
        let _ = requests.send(Err(closed)).await;
    }
}

/// Passes requests on until the connection ends. Returns the reason; `None` if it was closed normally. The pongs are
/// sent by the library.
async fn read(
    mut stream: SplitStream<Socket>,
    requests: &mpsc::Sender<Result<RelayRequest, RelayClosed>>,
) -> Option<RelayClosed> {
    loop {
        let message = match timeout(SILENCE_MAX, stream.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return Some(RelayClosed::broken(error)),
            Ok(None) => return RelayClosed::told(None),
            Err(_) => return Some(RelayClosed::Silent { after: SILENCE_MAX }),
        };
        match message {
            Message::Text(text) => match serde_json::from_str(&text) {
                // An error means that the program takes no more requests, and closes the connection.
                Ok(request) => drop(requests.send(Ok(request)).await),
                Err(error) => {
                    return Some(unreadable(format!(
                        "a message of the API is not understood: {error}"
                    )));
                }
            },
            Message::Binary(_) => return Some(unreadable("a message of the API is binary".to_owned())),
            Message::Close(frame) => {
                // The library sends the reply meanwhile.
                let ending = async { while let Some(Ok(_)) = stream.next().await {} };
                let _ = timeout(END_MAX, ending).await;
                return RelayClosed::told(frame);
            }
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}

fn unreadable(reason: String) -> RelayClosed {
    RelayClosed::Unreadable { reason }
}

/// Sends messages. Returns only if that fails.
async fn write(mut sink: SplitSink<Socket, Message>, mut writes: mpsc::Receiver<Write>) -> RelayClosed {
    while let Some(write) = writes.recv().await {
        let message = match write {
            Write::Answer(text) => Message::text(text),
            Write::Close => Message::Close(Some(CloseFrame {
                code: CloseCode::Normal,
                reason: Utf8Bytes::default(),
            })),
        };
        match timeout(WRITE_MAX, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return RelayClosed::broken(error),
            Err(_) => return RelayClosed::Silent { after: WRITE_MAX },
        }
    }
    pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: Option<u16>, body: &str) -> RelayAnswer {
        RelayAnswer {
            request: "7".to_owned(),
            status,
            retry_after: None,
            body: body.to_owned(),
        }
    }

    #[test]
    fn a_body_is_cut_between_two_characters() {
        let long = format!("x{}", "ä".repeat(RESPONSE_BODY_BYTES_MAX));
        let sent: RelayAnswer = serde_json::from_str(&text_of(&answer(Some(200), &long)).unwrap()).unwrap();
        assert_eq!(sent.body.len(), RESPONSE_BODY_BYTES_MAX - 1);
        assert!(long.starts_with(&sent.body));
        // The largest message has far less than the 256 KiB that the API accepts.
        let escaped = text_of(&answer(None, &"\0".repeat(2 * RESPONSE_BODY_BYTES_MAX))).unwrap();
        assert!(escaped.len() < 100 * 1024, "{}", escaped.len());
    }

    #[test]
    fn what_the_api_would_refuse_is_not_sent() {
        for status in [0, 100, 199, 600, 999] {
            let error = text_of(&answer(Some(status), "")).unwrap_err();
            assert!(matches!(error, NotAnswered::Invalid { .. }), "{error}");
        }
        let mut long = answer(Some(503), "");
        long.retry_after = Some("1".repeat(128));
        assert!(text_of(&long).is_ok());
        for bad in ["1".repeat(129), "1\n2".to_owned()] {
            long.retry_after = Some(bad);
            let error = text_of(&long).unwrap_err().to_string();
            assert!(
                error.contains("request 7") && error.contains("128 bytes"),
                "{error}"
            );
        }
    }
}
