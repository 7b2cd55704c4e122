//! One line of the report, with the figures behind it.

use std::{fmt, time::Duration};

use runtime::time;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::command::checks::{Check, Status};

/// Additional fields of the `--json` output.
pub(super) type Figures = Map<String, Value>;

#[derive(Debug, Serialize)]
pub(super) struct Remark {
    #[serde(flatten)]
    check: Check,
    #[serde(flatten)]
    figures: Figures,
}

impl Remark {
    pub(super) fn ok(what: &str, detail: impl Into<String>) -> Self {
        Check::ok(what, detail).into()
    }

    /// Creates a remark about something that works but could be improved.
    pub(super) fn advice(what: &str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Check::warn(what, detail, advice).into()
    }

    /// Creates a remark about something that makes deliveries fail or is a security risk.
    pub(super) fn wrong(what: &str, detail: impl Into<String>, cure: impl Into<String>) -> Self {
        Check::fail(what, detail, cure).into()
    }

    /// Adds a figure for `--json`.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.figures.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a time for `--json`, in milliseconds.
    pub(super) fn took(self, name: &str, took: Option<Duration>) -> Self {
        self.with(name, took.map(|took| took.as_millis() as u64))
    }

    pub(super) fn is_failure(&self) -> bool {
        self.check.outcome == Status::Fail
    }

    #[cfg(test)]
    pub(super) fn outcome(&self) -> Status {
        self.check.outcome
    }
}

impl From<Check> for Remark {
    fn from(check: Check) -> Self {
        Self {
            check,
            figures: Figures::new(),
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.check.fmt(f)
    }
}

/// Formats a duration, such as `12 ms`.
pub(super) fn span(took: Duration) -> String {
    time::span(took.as_millis() as u64)
}
