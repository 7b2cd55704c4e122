//! The answers that `--fail` defines.

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicUsize, Ordering},
};

use hyper::StatusCode;

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Answer with this status.
    Status(StatusCode),
    /// Do not answer, and leave the connection open.
    Hang,
    /// Do not answer, and close the connection.
    Drop,
}

#[derive(Debug, thiserror::Error)]
#[error("expected a status from 200 to 599, ok, hang or drop")]
pub(super) struct BadAnswer;

/// The sequence of answers, and the position in it.
#[derive(Debug)]
pub(super) struct Plan {
    answers: Vec<Answer>,
    each: bool,
    given: AtomicUsize,
}

impl Plan {
    /// Creates a plan that gives `answers` in turn: once for all requests or, if `each`, once for each event.
    pub(super) fn new(answers: Vec<Answer>, each: bool) -> Self {
        Self {
            answers,
            each,
            given: AtomicUsize::new(0),
        }
    }

    /// Returns the answer to the next request. `before` is the number of earlier requests about the same
    /// event.
    pub(super) fn next(&self, before: usize) -> Answer {
        let given = if self.each {
            before
        } else {
            self.given.fetch_add(1, Ordering::Relaxed)
        };
        let answer = self.answers.get(given).copied();
        answer.unwrap_or(Answer::Status(StatusCode::OK))
    }
}

impl Answer {
    /// Returns the status; `None` if no answer is given.
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
