//! Encryption of secrets at rest, with a key that is not in the database.
//!
//! A sealed secret is the text `sealed:KEY:BASE64`: the id of the key, and the base64 of a 24-byte nonce
//! followed by the ciphertext and its tag, produced by XChaCha20-Poly1305. The organization and the endpoint
//! are associated data, so that a sealed secret that is copied to another row does not open there.
//!
//! The table `registry` names the key that seals, so that all processes seal with the same key, in whatever
//! order their configurations list their keys. It is the key that sealed the first secret, until
//! [`Store::reseal_secrets`](crate::Store::reseal_secrets) changes it.

mod local;
pub(crate) mod reseal;

use std::{fmt, str::FromStr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use sha2::{Digest as _, Sha256};
use signature::Secret;
use webhook::{EndpointId, OrganizationId};

use crate::Error;

pub(crate) use local::local_key;
pub(crate) use reseal::{CHOOSE_SEALING_KEY, seal_plain};

const KEY_PREFIX: &str = "mgsk_";
const KEY_BYTES: usize = 32;
/// The length of a key's id: enough to tell a few keys apart.
const KEY_ID_BYTES: usize = 4;
const NONCE_BYTES: usize = 24;
const SEALED_PREFIX: &str = "sealed:";
/// The beginning of every secret that was never sealed.
const PLAIN_PREFIX: &str = "whsec_";

/// A key that seals secrets: `mgsk_` and the base64 of 32 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingKey {
    bytes: [u8; KEY_BYTES],
}

/// The error for a text that is not a [`SealingKey`]. It does not quote the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealing key is `{KEY_PREFIX}` and the base64 of {KEY_BYTES} bytes")]
pub struct BadSealingKey;

impl SealingKey {
    /// Creates a key. `random` must come from a cryptographically secure generator.
    pub fn generate(random: [u8; KEY_BYTES]) -> Self {
        Self { bytes: random }
    }

    /// Returns the whole key as clear text, for a configuration. Never log it.
    pub fn expose(&self) -> String {
        format!("{KEY_PREFIX}{}", STANDARD.encode(self.bytes))
    }

    /// Returns eight hexadecimal digits that identify the key and reveal nothing of it.
    pub fn id(&self) -> String {
        let digest = Sha256::new()
            .chain_update(b"magnetite sealing key id")
            .chain_update(self.bytes)
            .finalize();
        hex::encode(&digest[..KEY_ID_BYTES])
    }
}

impl FromStr for SealingKey {
    type Err = BadSealingKey;

    fn from_str(text: &str) -> Result<Self, BadSealingKey> {
        let encoded = text.strip_prefix(KEY_PREFIX).ok_or(BadSealingKey)?;
        let decoded = STANDARD.decode(encoded).map_err(|_| BadSealingKey)?;
        let bytes = decoded.try_into().map_err(|_| BadSealingKey)?;
        Ok(Self { bytes })
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id())
    }
}

/// The keys of this process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Keyring {
    /// Ids and ciphers; at least one.
    keys: Arc<[(String, XChaCha20Poly1305)]>,
    /// Where an operator adds keys, for error messages.
    place: Arc<str>,
}

/// The owner of a secret. A secret that is sealed for one owner does not open for another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner<'a> {
    pub(crate) organization: &'a OrganizationId,
    pub(crate) endpoint: &'a EndpointId,
}

/// The reason why a stored secret cannot be used. It quotes nothing of the secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotOpened {
    #[error("it is stored in clear text; `magnetite migrate` seals it")]
    Plain,
    #[error("it is not a valid sealed secret")]
    Form,
    #[error("it was sealed for another endpoint or altered")]
    Altered,
    #[error("key {0} is missing")]
    KeyMissing(String),
}

impl Keyring {
    pub(crate) fn new(keys: &[SealingKey], place: String) -> Self {
        let cipher = |key: &SealingKey| (key.id(), XChaCha20Poly1305::new(&key.bytes.into()));
        Self {
            keys: keys.iter().map(cipher).collect(),
            place: place.into(),
        }
    }

    /// Returns the id of the first key. It seals if no key has sealed yet, and resealing uses it for all
    /// secrets.
    pub(crate) fn first(&self) -> &str {
        &self.keys[0].0
    }

    /// Returns the beginning of every secret that the first key has sealed.
    pub(crate) fn beginning(&self) -> String {
        format!("{SEALED_PREFIX}{}:", self.first())
    }

    /// Seals a secret with the key that has this id.
    pub(crate) fn seal(&self, key: &str, secret: &Secret, owner: Owner<'_>) -> Result<String, Error> {
        let cipher = self.cipher(key).ok_or_else(|| self.missing(key))?;
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let payload = Payload {
            msg: secret.expose().as_bytes(),
            aad: &owner.associated_data(),
        };
        let ciphertext = cipher
            .encrypt(&XNonce::from(nonce), payload)
            .expect("a secret is far shorter than the cipher's maximum");
        let encoded = STANDARD.encode([&nonce[..], &ciphertext].concat());
        Ok(format!("{SEALED_PREFIX}{key}:{encoded}"))
    }

    pub(crate) fn open(&self, sealed: &str, owner: Owner<'_>) -> Result<Secret, NotOpened> {
        if sealed.starts_with(PLAIN_PREFIX) {
            return Err(NotOpened::Plain);
        }
        let parts = sealed.strip_prefix(SEALED_PREFIX);
        let (key, encoded) = parts
            .and_then(|parts| parts.split_once(':'))
            .ok_or(NotOpened::Form)?;
        let cipher = self
            .cipher(key)
            .ok_or_else(|| NotOpened::KeyMissing(key.to_owned()))?;
        let bytes = STANDARD.decode(encoded).map_err(|_| NotOpened::Form)?;
        let (nonce, ciphertext) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or(NotOpened::Form)?;
        let payload = Payload {
            msg: ciphertext,
            aad: &owner.associated_data(),
        };
        let opened = cipher
            .decrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| NotOpened::Altered)?;
        let secret = std::str::from_utf8(&opened).ok();
        secret
            .and_then(|secret| Secret::parse(secret).ok())
            .ok_or(NotOpened::Form)
    }

    /// Returns the error for a key that this process does not have.
    pub(crate) fn missing(&self, key: &str) -> Error {
        Error::SealingKeyMissing {
            key: key.to_owned(),
            place: self.place.to_string(),
        }
    }

    fn cipher(&self, id: &str) -> Option<&XChaCha20Poly1305> {
        let found = self.keys.iter().find(|(known, _)| known == id);
        found.map(|(_, cipher)| cipher)
    }
}

impl NotOpened {
    /// Converts to the error for this column of this endpoint.
    pub(crate) fn of(self, keyring: &Keyring, id: &EndpointId, column: &'static str) -> Error {
        match self {
            Self::KeyMissing(key) => keyring.missing(&key),
            error => Error::Undecodable {
                id: id.clone(),
                column,
                source: Some(error.into()),
            },
        }
    }
}

impl Owner<'_> {
    /// Returns the associated data. It contains the length of the organization's id, so that two different
    /// owners never have the same text.
    fn associated_data(self) -> Vec<u8> {
        let (organization, endpoint) = (self.organization.as_str(), self.endpoint.as_str());
        format!("{}:{organization}:{endpoint}", organization.len()).into_bytes()
    }
}

#[cfg(test)]
mod tests;
