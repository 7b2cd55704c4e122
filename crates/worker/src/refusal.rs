//! The reasons why a delivery gets no slot.

/// The reason why a delivery may not have a slot now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

impl Refusal {
    pub(crate) const ALL: [Self; 4] = [Self::Endpoint, Self::Organization, Self::Unwell, Self::Slots];

    /// Returns the name used in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Organization => "organization",
            Self::Unwell => "unwell",
            Self::Slots => "slots",
        }
    }
}
