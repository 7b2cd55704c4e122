//! What happens to a delivery next, without when and why.

use strum::{Display, EnumString, IntoStaticStr, VariantArray, VariantNames};

use crate::UnknownName;

use super::Then;

/// The kind of what happens to a delivery after an attempt or a step.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Display, EnumString, IntoStaticStr, VariantArray, VariantNames,
)]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownName, parse_err_fn = unknown)]
pub enum ThenKind {
    /// The endpoint accepted the delivery.
    Delivered,
    /// Another attempt is made.
    Retry,
    /// The delivery is deferred without spending an attempt.
    Deferred,
    /// The delivery is a dead letter.
    Dead,
    /// No more attempts are made: the endpoint was deleted, or a ping failed.
    Cancelled,
}

impl ThenKind {
    /// All kinds.
    pub const ALL: &'static [Self] = <Self as VariantArray>::VARIANTS;

    /// Returns the name in the API and in the output of commands.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl Then {
    /// Returns the kind.
    pub const fn kind(self) -> ThenKind {
        match self {
            Self::Delivered => ThenKind::Delivered,
            Self::Retry { .. } => ThenKind::Retry,
            Self::Deferred { .. } => ThenKind::Deferred,
            Self::Dead { .. } => ThenKind::Dead,
            Self::Cancelled { .. } => ThenKind::Cancelled,
        }
    }

    /// Returns when the next attempt is due, in Unix milliseconds; `None` if there is to be none.
    pub const fn next_ms(self) -> Option<u64> {
        match self {
            Self::Retry { at_ms } | Self::Deferred { at_ms, .. } => Some(at_ms),
            Self::Delivered | Self::Dead { .. } | Self::Cancelled { .. } => None,
        }
    }

    /// Returns why the delivery is deferred, dead or cancelled; `None` if it is none of these.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Deferred { reason, .. } => Some(reason.as_str()),
            Self::Dead { reason } => Some(reason.as_str()),
            Self::Cancelled { reason } => Some(reason.as_str()),
            Self::Delivered | Self::Retry { .. } => None,
        }
    }
}

fn unknown(name: &str) -> UnknownName {
    UnknownName::of::<ThenKind>("outcome", name)
}
