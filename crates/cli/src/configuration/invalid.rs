//! Errors in a configuration, and where they are.

use std::{fmt, path::PathBuf};

/// Where a value is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Default,
    File(PathBuf),
    Variable(String),
}

/// All errors of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidSettings(pub(super) Vec<InvalidSetting>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidSetting {
    /// `None` if the error concerns the whole file.
    pub(super) key: Option<String>,
    pub(super) place: Place,
    /// The explanation. Begins with "expected" or "unknown key", and contains no secrets.
    pub(super) detail: String,
}

impl InvalidSettings {
    pub(crate) fn one(key: &str, place: Place, detail: String) -> Self {
        Self(vec![InvalidSetting {
            key: Some(key.to_owned()),
            place,
            detail,
        }])
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the defaults"),
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{key} (in {}): {}", self.place, self.detail),
            None => write!(f, "{}: {}", self.place, self.detail),
        }
    }
}

impl fmt::Display for InvalidSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bad configuration")?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        f.write_str("\ndocs/configuration.md has every key with its default and bounds")
    }
}

impl std::error::Error for InvalidSettings {}
