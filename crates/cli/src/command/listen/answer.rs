//! How to answer: `--fail`.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use hyper::StatusCode;

/// How many events `--fail-each` remembers; the oldest is forgotten first, and begins anew if it comes again.
const EVENTS_MAX: usize = 100_000;

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// This status.
    Status(StatusCode),
    /// None, with the connection left open.
    Hang,
    /// None, with the connection closed.
    Drop,
}

#[derive(Debug, thiserror::Error)]
#[error("expected a status from 200 to 599, ok, hang or drop")]
pub(super) struct BadAnswer;

/// The answers to give, and how far that has come.
#[derive(Debug)]
pub(super) struct Plan {
    answers: VecDeque<Answer>,
    each: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    given: usize,
    given_to: HashMap<String, usize>,
    events: VecDeque<String>,
}

impl Plan {
    /// `answers` in turn, once for all requests or once for each event.
    pub(super) fn new(answers: VecDeque<Answer>, each: bool) -> Self {
        Self {
            answers,
            each,
            state: Mutex::default(),
        }
    }

    /// The answer to the next request about this event.
    pub(super) fn next(&self, event_id: &str) -> Answer {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let given = if self.each {
            state.of_event(event_id)
        } else {
            &mut state.given
        };
        let answer = self.answers.get(*given).copied();
        *given += 1;
        answer.unwrap_or(Answer::Status(StatusCode::OK))
    }
}

impl State {
    fn of_event(&mut self, event_id: &str) -> &mut usize {
        if !self.given_to.contains_key(event_id) {
            if self.events.len() == EVENTS_MAX
                && let Some(oldest) = self.events.pop_front()
            {
                self.given_to.remove(&oldest);
            }
            self.events.push_back(event_id.to_owned());
        }
        self.given_to.entry(event_id.to_owned()).or_default()
    }
}

impl Answer {
    /// The status, if it answers at all.
    pub(super) fn status(self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(status.as_u16()),
            Self::Hang | Self::Drop => None,
        }
    }
}

impl FromStr for Answer {
    type Err = BadAnswer;

    fn from_str(text: &str) -> Result<Self, BadAnswer> {
        match text {
            "ok" => Ok(Self::Status(StatusCode::OK)),
            "hang" => Ok(Self::Hang),
            "drop" => Ok(Self::Drop),
            status => {
                let status = status.parse().ok().filter(|status| (200..=599).contains(status));
                let status = status.and_then(|status: u16| StatusCode::from_u16(status).ok());
                status.map(Self::Status).ok_or(BadAnswer)
            }
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "answered {}", status.as_u16()),
            Self::Hang => f.write_str("left hanging"),
            Self::Drop => f.write_str("dropped"),
        }
    }
}
