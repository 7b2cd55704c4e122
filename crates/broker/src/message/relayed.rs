//! Requests of relays, and their answers.
//!
//! | message | goes to | body | properties and headers |
//! |---|---|---|---|
//! | request | queue `P.relay.ENDPOINT` | the event's bytes | `reply_to`, `expiration`; the request's headers, as they are |
//! | answer | queue `P.answers.N` | the response's body | `message_id` = the request's `reply_to`; answer headers |
//!
//! Answer headers: `magnetite-endpoint`, `magnetite-status` (absent if there is no response), `magnetite-retry-after` if
//! the response has `Retry-After`, and `magnetite-interrupted` if there is no response because the API ended the
//! connection of the relay's program.
//!
//! `magnetite-answer-within-ms` of a request is how long the worker waits for the answer, from when it published the
//! request. It is a number, unlike the headers of the request itself. `expiration` is half of it, so that a program that
//! gets a request has at least the other half to answer it.

use std::{fmt, str::FromStr, time::Duration};

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use webhook::{Answer, EndpointId};

use crate::Topology;

use super::{ENDPOINT, Message, Outgoing, number, text};

const STATUS: &str = "magnetite-status";
const RETRY_AFTER: &str = "magnetite-retry-after";
const ANSWER_WITHIN_MS: &str = "magnetite-answer-within-ms";
const INTERRUPTED: &str = "magnetite-interrupted";

/// The number of digits of a [`ReplyTo`] as text: two numbers of 128 bits, in hexadecimal.
const REPLY_TO_DIGITS: usize = 64;

/// Identifies a request of a relay, and the queue that its answer goes to. Both numbers are random, so that a
/// receiver knows only those of its own requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The number of the queue of answers.
    pub answers: u128,
    /// The number of the request.
    pub request: u128,
}

/// The text does not identify a request of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {REPLY_TO_DIGITS} hexadecimal digits in lower case")]
pub struct BadReplyTo;

/// A request of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayedRequest {
    /// Where the answer goes to.
    pub reply_to: ReplyTo,
    /// How long the worker waits for the answer, from when it published the request.
    pub answer_within: Duration,
    /// The request's headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The request's body.
    pub body: Bytes,
}

/// The answer to a request of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayedAnswer {
    /// The request that is answered.
    pub reply_to: ReplyTo,
    /// The endpoint that answers.
    pub endpoint_id: EndpointId,
    /// The response; `None` if the receiver closed the connection without one, or the API ended it.
    pub answer: Option<Answer>,
    /// Whether the API ended the connection, so that the endpoint may have answered.
    pub interrupted: bool,
}

impl fmt::Display for ReplyTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}{:032x}", self.answers, self.request)
    }
}

impl FromStr for ReplyTo {
    type Err = BadReplyTo;

    fn from_str(text: &str) -> Result<Self, BadReplyTo> {
        // `from_str_radix` also accepts a sign, and capitals.
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != REPLY_TO_DIGITS || !text.bytes().all(is_digit) {
            return Err(BadReplyTo);
        }
        let (answers, request) = text.split_at(REPLY_TO_DIGITS / 2);
        let number = |digits| u128::from_str_radix(digits, 16).map_err(|_| BadReplyTo);
        Ok(Self {
            answers: number(answers)?,
            request: number(request)?,
        })
    }
}

impl Outgoing {
    /// Returns a request for the program that is connected as this relay. The broker drops it if the program does not
    /// get it in time.
    pub fn relayed(topology: &Topology, endpoint_id: &EndpointId, request: RelayedRequest) -> Self {
        let mut headers = FieldTable::default();
        for (name, value) in &request.headers {
            headers.insert(name.as_str().into(), text(value));
        }
        let within_ms = u32::try_from(request.answer_within.as_millis()).unwrap_or(u32::MAX);
        headers.insert(ANSWER_WITHIN_MS.into(), number(within_ms));
        Self {
            exchange: String::new(),
            routing_key: topology.relay(endpoint_id),
            properties: BasicProperties::default()
                .with_reply_to(request.reply_to.to_string().into())
                .with_expiration((within_ms / 2).to_string().into())
                .with_headers(headers),
            body: request.body,
        }
    }

    /// Returns the answer to a request of a relay, for the worker that waits for it.
    pub fn answer(topology: &Topology, answered: RelayedAnswer) -> Self {
        let RelayedAnswer {
            reply_to,
            endpoint_id,
            answer,
            interrupted,
        } = answered;
        let mut headers = FieldTable::default();
        headers.insert(ENDPOINT.into(), text(endpoint_id.as_str()));
        if interrupted {
            headers.insert(INTERRUPTED.into(), number(1_u16));
        }
        if let Some(answer) = &answer {
            headers.insert(STATUS.into(), number(answer.status));
            if let Some(retry_after) = &answer.retry_after {
                headers.insert(RETRY_AFTER.into(), text(retry_after));
            }
        }
        Self {
            exchange: String::new(),
            routing_key: topology.answers(reply_to.answers),
            properties: BasicProperties::default()
                .with_message_id(reply_to.to_string().into())
                .with_headers(headers),
            body: answer.map(|answer| answer.body).unwrap_or_default(),
        }
    }
}

impl Message {
    /// Decodes a message of a relay's queue; `None` if it is not a request of a relay.
    pub(crate) fn relayed_request(&self) -> Option<RelayedRequest> {
        let reply_to = self.properties.reply_to().as_ref()?.as_str().parse().ok()?;
        let within_ms = u32::try_from(self.number(ANSWER_WITHIN_MS)?).ok()?;
        let header = |(name, value): (&lapin::types::ShortString, &AMQPValue)| {
            let AMQPValue::LongString(value) = value else {
                return None;
            };
            let value = std::str::from_utf8(value.as_bytes()).ok()?;
            Some((name.as_str().to_owned(), value.to_owned()))
        };
        Some(RelayedRequest {
            reply_to,
            answer_within: Duration::from_millis(within_ms.into()),
            headers: self.headers().filter_map(header).collect(),
            body: self.body.clone(),
        })
    }

    /// Decodes a message of a queue of answers; `None` if it is not the answer to a request of a relay.
    pub(crate) fn relayed_answer(&self) -> Option<RelayedAnswer> {
        let answer = match self.number(STATUS) {
            None => None,
            Some(status) => Some(Answer {
                status: u16::try_from(status).ok()?,
                retry_after: self.text(RETRY_AFTER),
                body: self.body.clone(),
            }),
        };
        Some(RelayedAnswer {
            reply_to: self.message_id()?.parse().ok()?,
            endpoint_id: EndpointId::new(self.text(ENDPOINT)?),
            answer,
            interrupted: self.number(INTERRUPTED).is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology() -> Topology {
        Topology::new("m", &[])
    }

    const REPLY_TO: ReplyTo = ReplyTo {
        answers: 7,
        request: u128::MAX,
    };

    #[test]
    fn a_request_arrives_with_its_headers_and_bytes() {
        let headers = [("webhook-id", "evt_1"), ("x-a", "ü")];
        let given = RelayedRequest {
            reply_to: REPLY_TO,
            answer_within: Duration::from_millis(29_999),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            body: Bytes::from("{ }"),
        };
        let sent = Outgoing::relayed(&topology(), &EndpointId::new("ep_1"), given.clone());
        assert_eq!(
            (sent.exchange.as_str(), sent.routing_key.as_str()),
            ("", "m.relay.ep_1")
        );
        let mut received = sent.message().relayed_request().unwrap();
        received.headers.sort();
        assert_eq!(received, given);
    }

    #[test]
    fn an_answer_arrives_as_it_was_given_and_so_does_none() {
        let answer = Answer {
            status: 503,
            retry_after: Some("7".to_owned()),
            body: Bytes::from("later"),
        };
        for (answer, interrupted) in [(Some(answer), false), (None, false), (None, true)] {
            let given = RelayedAnswer {
                reply_to: REPLY_TO,
                endpoint_id: EndpointId::new("ep_1"),
                answer,
                interrupted,
            };
            let sent = Outgoing::answer(&topology(), given.clone());
            assert_eq!(sent.routing_key, "m.answers.00000000000000000000000000000007");
            assert_eq!(sent.message().relayed_answer(), Some(given));
        }
    }

    #[test]
    fn only_the_text_of_a_request_identifies_it() {
        let text = REPLY_TO.to_string();
        assert_eq!(text.parse::<ReplyTo>(), Ok(REPLY_TO));
        for bad in [
            String::new(),
            text[1..].to_owned(),
            format!("{text}0"),
            format!("+{}", &text[1..]),
            format!("{}é", &text[2..]),
            text.to_uppercase(),
        ] {
            assert_eq!(bad.parse::<ReplyTo>(), Err(BadReplyTo), "{bad}");
        }
    }

    #[test]
    fn another_message_is_neither() {
        let other = Outgoing::operation(&topology(), "op_1", "kind", Bytes::new()).message();
        assert_eq!(other.relayed_request(), None);
        assert_eq!(other.relayed_answer(), None);
    }
}
