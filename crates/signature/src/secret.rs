//! The secret that Magnetite and one endpoint share.

use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const PREFIX: &str = "whsec_";

/// Bounds on the length of the decoded key: 192 to 512 bits. Source: Standard Webhooks 1.0, "Signature
/// scheme".
const KEY_BYTES: RangeInclusive<usize> = 24..=64;

/// An endpoint's signing secret: `whsec_` and the base64 of 24 to 64 bytes.
///
/// Holds the whole string, because the contract's signature is keyed with it as text. `==` is for
/// configuration, such as "is this a new secret?", and takes a time that depends on the content: never
/// compare with it what a stranger sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Why a text is not a [`Secret`]. Says what was expected and never quotes what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The text does not begin as every secret does.
    #[error("a signing secret begins with `whsec_`")]
    Prefix,
    /// What follows the prefix is not canonical base64. Base64's own error would quote a character of the
    /// secret, so it is not kept as the source.
    #[error("a signing secret is `whsec_` and standard base64 with padding")]
    Base64,
    /// The key is too short to be safe, or longer than the standard allows.
    #[error("a signing secret encodes 24 to 64 bytes, not {bytes}")]
    Length {
        /// Length of the decoded key, in bytes.
        bytes: usize,
    },
}

impl Secret {
    /// Makes the secret of a new endpoint, or the next one of a rotation.
    ///
    /// `random` must come from a cryptographically secure generator: nothing else keeps signatures from being
    /// forged.
    pub fn generate(random: [u8; 32]) -> Self {
        Self(format!("{PREFIX}{}", STANDARD.encode(random)))
    }

    /// Reads a secret as the customer or the database has it. Surrounding white space is not removed.
    ///
    /// # Errors
    ///
    /// [`SecretError`] when the prefix, the base64 or the length of the key is wrong.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SecretError::Prefix)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?.len();
        if !KEY_BYTES.contains(&bytes) {
            return Err(SecretError::Length { bytes });
        }
        Ok(Self(text.to_owned()))
    }

    /// The whole string in clear, prefix included: to store it, or to show it to its owner once. Never log
    /// it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The key of the standard signature: the bytes that the base64 stands for.
    pub(crate) fn decoded(&self) -> Vec<u8> {
        self.0
            .strip_prefix(PREFIX)
            .and_then(|encoded| STANDARD.decode(encoded).ok())
            .expect("both constructors leave the prefix and valid base64")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}
