//! The position of the registry that a worker used to fan out an event.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A position of the registry of endpoints: the state of every endpoint at this version, in the history that
/// contains this change.
///
/// The text format is `version.change.stamp`. If two workers fanned out the same event, the greater position
/// is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// The version of the registry.
    pub version: i64,
    /// The number of the last row in the log of changes; 0 before the first one.
    pub change: i64,
    /// Distinguishes that row from another one with the same number, which a restored database may contain.
    pub stamp: i64,
}

/// A text that is not a valid [`Seen`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a position of the registry; expected three numbers separated by dots")]
pub struct BadSeen(String);

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            version,
            change,
            stamp,
        } = self;
        write!(f, "{version}.{change}.{stamp}")
    }
}

impl FromStr for Seen {
    type Err = BadSeen;

    fn from_str(text: &str) -> Result<Self, BadSeen> {
        let numbers: Result<Vec<i64>, _> = text.split('.').map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[version, change, stamp]) => Ok(Self {
                version,
                change,
                stamp,
            }),
            _ => Err(BadSeen(text.to_owned())),
        }
    }
}

impl Serialize for Seen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}
