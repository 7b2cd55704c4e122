//! The reasons why a delivery gets no slot.

use strum::{IntoStaticStr, VariantNames};

/// The reason why a delivery may not have a slot now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Refusal {
    /// The endpoint already holds its share.
    Endpoint,
    /// The organization already holds its share.
    Organization,
    /// Endpoints that are not known to be healthy already hold half of all slots.
    Unwell,
    /// No slot is free.
    Slots,
}
