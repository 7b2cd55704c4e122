//! The result of one check.

use std::fmt;

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Ok,
    /// It works, but needs attention.
    Warn,
    /// Something will not work.
    Fail,
}

/// One line of the report, with a second line that says how to fix it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    #[serde(rename = "check")]
    what: String,
    pub(super) outcome: Status,
    detail: String,
    fix: Option<String>,
}

impl Check {
    pub(super) fn ok(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            outcome: Status::Ok,
            detail: detail.into(),
            fix: None,
        }
    }

    pub(super) fn warn(what: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            outcome: Status::Warn,
            fix: Some(fix.into()),
            ..Self::ok(what, detail)
        }
    }

    pub(super) fn fail(what: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            outcome: Status::Fail,
            fix: Some(fix.into()),
            ..Self::ok(what, detail)
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        };
        write!(f, "{outcome:4}  {:16}  {}", self.what, self.detail)?;
        match &self.fix {
            Some(fix) => write!(f, "\n      fix: {fix}"),
            None => Ok(()),
        }
    }
}
