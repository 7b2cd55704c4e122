//! The reasons why a delivery is dead, cancelled or deferred.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The reason why a delivery is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// All attempts of the schedule failed.
    Exhausted,
    /// The endpoint answered 410.
    Gone,
    /// The delivery came due while the endpoint was disabled.
    EndpointDisabled,
    /// No slot was free for the endpoint for longer than the configured maximum.
    NoSlot,
    /// Faults of this system prevented the attempt for longer than the configured maximum.
    Fault,
}

/// The reason why a delivery is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// The endpoint was deleted.
    EndpointDeleted,
    /// The only attempt of a ping failed, or the ping was deferred for too long. A ping tests the endpoint at
    /// one point in time, so it is not sent again.
    PingFailed,
}

/// The reason why a delivery is deferred without an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeferReason {
    /// The worker has no slot free for the endpoint or its organization.
    NoSlot,
    /// The worker could not make the attempt because of a fault of its own, or its process was paused during
    /// an attempt that then failed.
    Fault,
    /// The worker does not know the endpoint, and the database is unavailable.
    Database,
}

/// A reason that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown reason {0:?} for a dead delivery; known are exhausted, gone, endpoint_disabled, no_slot and fault"
)]
pub struct UnknownReason(pub String);

impl DeadReason {
    /// All reasons.
    pub const ALL: [Self; 5] = [
        Self::Exhausted,
        Self::Gone,
        Self::EndpointDisabled,
        Self::NoSlot,
        Self::Fault,
    ];

    /// Returns the name in headers, logs and metrics.
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
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::NoSlot, Self::Fault, Self::Database];

    /// Returns the name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSlot => "no_slot",
            Self::Fault => "fault",
            Self::Database => "database",
        }
    }
}

impl CancelReason {
    /// All reasons.
    pub const ALL: [Self; 2] = [Self::EndpointDeleted, Self::PingFailed];

    /// Returns the name in logs and metrics.
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
