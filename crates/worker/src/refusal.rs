//! Why a delivery gets no slot.

/// Why a delivery may not have a slot now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its endpoint has its share.
    Endpoint,
    /// Its organization has its share.
    Organization,
    /// Endpoints that are not known to be well hold half of all slots.
    Unwell,
    /// No slot is free.
    Slots,
}

impl Refusal {
    pub(crate) const ALL: [Self; 4] = [Self::Endpoint, Self::Organization, Self::Unwell, Self::Slots];

    /// The name in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Organization => "organization",
            Self::Unwell => "unwell",
            Self::Slots => "slots",
        }
    }
}
