//! The signing secret, which Magnetite shares with one endpoint.

use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const PREFIX: &str = "whsec_";

/// The valid lengths of the decoded key, in bytes: 192 to 512 bits. Source: Standard Webhooks 1.0, "Signature
/// scheme".
const KEY_BYTES: RangeInclusive<usize> = 24..=64;

/// An endpoint's signing secret: `whsec_` and the base64 of 24 to 64 bytes.
///
/// Stores the whole string, because the contract's signature uses it as the key, as text. `==` is meant for
/// configuration, for example to detect a new secret. It does not take constant time: never use it to compare
/// a secret with untrusted input.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// The reason why a text is not a valid [`Secret`]. The message says what was expected and never quotes the
/// text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The text does not begin with the prefix of a secret.
    #[error("a signing secret must begin with `whsec_`")]
    Prefix,
    /// The part after the prefix is not canonical base64. The base64 decoder's error is not kept as the
    /// source, because it would quote a character of the secret.
    #[error("a signing secret must be `whsec_` and standard base64 with padding")]
    Base64,
    /// The key is too short to be safe, or longer than the standard allows.
    #[error("a signing secret must encode 24 to 64 bytes, not {bytes}")]
    Length {
        /// The length of the decoded key, in bytes.
        bytes: usize,
    },
}

impl Secret {
    /// Creates the secret of a new endpoint, or the next secret in a rotation.
    ///
    /// `random` must come from a cryptographically secure generator. Otherwise, signatures can be forged.
    pub fn generate(random: [u8; 32]) -> Self {
        Self(format!("{PREFIX}{}", STANDARD.encode(random)))
    }

    /// Parses a secret from text, for example from the database or a customer's configuration. Surrounding
    /// white space is not removed.
    ///
    /// # Errors
    ///
    /// Returns a [`SecretError`] if the prefix, the base64 or the length of the key is wrong.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SecretError::Prefix)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?.len();
        if !KEY_BYTES.contains(&bytes) {
            return Err(SecretError::Length { bytes });
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the whole secret in clear text, including the prefix, to store it or to show it to its owner
    /// once. Never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns the key of the standard signature: the decoded base64.
    pub(crate) fn decoded(&self) -> Vec<u8> {
        self.0
            .strip_prefix(PREFIX)
            .and_then(|encoded| STANDARD.decode(encoded).ok())
            .expect("both constructors ensure the prefix and valid base64")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}
