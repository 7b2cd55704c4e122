//! Why a delivery is dead, cancelled, or put off.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a delivery is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// Every attempt of the schedule failed.
    Exhausted,
    /// The endpoint answered 410.
    Gone,
    /// It came due while the endpoint was disabled.
    EndpointDisabled,
    /// The endpoint had no free slot for longer than the configured age.
    NoSlot,
    /// Faults of ours kept it from being attempted for longer than the configured age.
    Fault,
}

/// Why a delivery is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// The endpoint was deleted.
    EndpointDeleted,
    /// The one attempt of a ping failed. It asked what was then: nobody wants it sent again.
    PingFailed,
}

/// Why a delivery is put off without an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeferReason {
    /// The endpoint has no slot free.
    NoSlot,
    /// The worker's machine could not make the attempt.
    Fault,
    /// The endpoint is not known to the worker, and the database is away.
    Database,
}

/// A reason that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown reason {0:?} for a dead delivery; known are exhausted, gone, endpoint_disabled, no_slot and fault"
)]
pub struct UnknownReason(pub String);

impl DeadReason {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Exhausted,
        Self::Gone,
        Self::EndpointDisabled,
        Self::NoSlot,
        Self::Fault,
    ];

    /// The name in headers, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Gone => "gone",
            Self::EndpointDisabled => "endpoint_disabled",
            Self::NoSlot => "no_slot",
            Self::Fault => "fault",
        }
    }
}

impl std::str::FromStr for DeadReason {
    type Err = UnknownReason;

    fn from_str(name: &str) -> Result<Self, UnknownReason> {
        let known = Self::ALL.into_iter().find(|reason| reason.as_str() == name);
        known.ok_or_else(|| UnknownReason(name.to_owned()))
    }
}

impl DeferReason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::NoSlot, Self::Fault, Self::Database];

    /// The name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSlot => "no_slot",
            Self::Fault => "fault",
            Self::Database => "database",
        }
    }
}

impl CancelReason {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::EndpointDeleted, Self::PingFailed];

    /// The name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EndpointDeleted => "endpoint_deleted",
            Self::PingFailed => "ping_failed",
        }
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
