//! The error for a text that names no variant of an enum.

use strum::VariantNames;

/// A text that is not one of a closed set of names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {name:?}; expected one of {known}", known = known.join(", "))]
pub struct UnknownName {
    /// What the text should name, for example `scope`.
    pub what: &'static str,
    /// The text.
    pub name: String,
    /// All names.
    pub known: &'static [&'static str],
}

impl UnknownName {
    /// Returns the error for a text that is not the name of a variant of `T`.
    pub fn of<T: VariantNames>(what: &'static str, name: &str) -> Self {
        Self {
            what,
            name: name.to_owned(),
            known: T::VARIANTS,
        }
    }
}
