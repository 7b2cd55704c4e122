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

/// Begins the line that says how to fix what the line above it reports.
pub(super) const FIX: &str = "      fix: ";

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

    pub(super) fn fix(&self) -> Option<&str> {
        self.fix.as_deref()
    }

    /// Returns the first line alone.
    pub(super) fn without_fix(&self) -> String {
        let outcome = match self.outcome {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        };
        format!("{outcome:4}  {:16}  {}", self.what, self.detail)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.without_fix())?;
        match &self.fix {
            Some(fix) => write!(f, "\n{FIX}{fix}"),
            None => Ok(()),
        }
    }
}
