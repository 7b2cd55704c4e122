//! The reasons why a delivery is dead, cancelled or deferred.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantNames};

use crate::UnknownName;

/// The reason why a delivery is dead.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantNames,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownName, parse_err_fn = unknown)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr, VariantNames)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum CancelReason {
    /// The endpoint was deleted.
    EndpointDeleted,
    /// The only attempt of a ping failed, or the ping was deferred for too long. A ping tests the endpoint at
    /// one point in time, so it is not sent again.
    PingFailed,
}

/// The reason why a delivery is deferred without an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr, VariantNames)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum DeferReason {
    /// The worker has no slot free for the endpoint or its organization.
    NoSlot,
    /// The worker could not make the attempt because of a fault of its own, or its process was paused during
    /// an attempt that then failed.
    Fault,
    /// The worker does not know the endpoint, and the database is unavailable.
    Database,
}

impl DeadReason {
    /// Returns the name in headers, logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl DeferReason {
    /// Returns the name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl CancelReason {
    /// Returns the name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown(name: &str) -> UnknownName {
    UnknownName::of::<DeadReason>("reason of a dead delivery", name)
}
