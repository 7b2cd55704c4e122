//! The names of the store's operations, for errors.

use std::fmt;

/// An operation of the store. Its text completes "could not ...".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    what: &'static str,
    /// What `what` is done to; `None` if it says that itself.
    subject: Option<String>,
}

impl Operation {
    pub(crate) const AUDIT: Self = Self::new("audit the journal");
    pub(crate) const COMPARE_CLOCKS: Self = Self::new("compare the clocks");
    pub(crate) const DELETE_EXPIRED: Self = Self::new("delete expired records");
    pub(crate) const FIND_FAILING: Self = Self::new("find failing endpoints");
    pub(crate) const LIST_REJECTED: Self = Self::new("list rejected messages");
    pub(crate) const REQUEST_RUNS: Self = Self::new("request resends");

    pub(crate) const fn new(what: &'static str) -> Self {
        Self { what, subject: None }
    }

    /// Returns the operation on one thing, for example an endpoint, by its id.
    pub(crate) fn on(what: &'static str, id: impl fmt::Display) -> Self {
        Self {
            what,
            subject: Some(id.to_string()),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        match &self.subject {
            Some(id) => write!(f, " {id}"),
            None => Ok(()),
        }
    }
}
