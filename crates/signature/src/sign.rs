//! Making signatures.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::digest::CtOutput;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::Secret;

/// What an `X-Magnetite-Signature` begins with.
pub(crate) const SHA256_PREFIX: &str = "sha256=";

/// What a standard signature made with a shared secret begins with.
pub(crate) const V1_PREFIX: &str = "v1,";

type HmacSha256 = Hmac<Sha256>;

/// A finished HMAC of 32 bytes; its `==` takes the same time wherever two of them differ.
pub(crate) type Tag = CtOutput<HmacSha256>;

/// An endpoint's [`Secret`], made ready to sign with both schemes.
///
/// Making one decodes the base64 and hashes the key's blocks, four of them; a signature then clones that
/// state and hashes the message alone. Make it when the endpoint is loaded and keep it.
#[derive(Clone)]
pub struct SigningKey {
    whole_secret: HmacSha256,
    decoded_secret: HmacSha256,
}

impl SigningKey {
    /// Prepares the keys of both schemes.
    pub fn new(secret: &Secret) -> Self {
        Self {
            whole_secret: keyed(secret.expose().as_bytes()),
            decoded_secret: keyed(&secret.decoded()),
        }
    }

    /// The value of `X-Magnetite-Signature` for this body: `sha256=` and 64 lowercase hex digits.
    ///
    /// Covers neither the id nor any timestamp outside the body. Source: the contract, "Verifying Webhook
    /// Signatures".
    pub fn sign(&self, body: &[u8]) -> String {
        let mut digits = [0; 64];
        hex::encode_to_slice(self.tag(body).as_bytes(), &mut digits)
            .expect("two digits for each of 32 bytes");
        let digits = std::str::from_utf8(&digits).expect("hexadecimal digits are ASCII");
        [SHA256_PREFIX, digits].concat()
    }

    /// The value of `webhook-signature` for one attempt: `v1,` and 44 characters of base64.
    ///
    /// `id` and `timestamp_s` (seconds since the Unix epoch, at this attempt) must be sent as `webhook-id`
    /// and `webhook-timestamp` exactly as given here. They are joined to the body by full stops, so an
    /// `id` with a full stop is ambiguous: it is signed all the same, and a [`Verifier`](crate::Verifier)
    /// refuses it. Event ids have none.
    ///
    /// Source: Standard Webhooks 1.0, "Signature scheme".
    pub fn sign_standard(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let tag = self.tag_standard(id, &timestamp_s.to_string(), body);
        format!("{V1_PREFIX}{}", STANDARD.encode(tag.as_bytes()))
    }

    pub(crate) fn tag(&self, body: &[u8]) -> Tag {
        self.whole_secret.clone().chain_update(body).finalize()
    }

    /// Takes the timestamp as text, so that a receiver signs what arrived and not its own rendering of the
    /// number.
    pub(crate) fn tag_standard(&self, id: &str, timestamp: &str, body: &[u8]) -> Tag {
        let mut mac = self.decoded_secret.clone();
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac.finalize()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

fn keyed(key: &[u8]) -> HmacSha256 {
    HmacSha256::new_from_slice(key).expect("HMAC hashes or pads a key of any length to one block")
}
