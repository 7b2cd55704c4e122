//! Creating signatures.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::digest::CtOutput;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::Secret;

/// The prefix of the value of `X-Magnetite-Signature`.
pub(crate) const SHA256_PREFIX: &str = "sha256=";

/// The prefix of a standard signature made with a shared secret.
pub(crate) const V1_PREFIX: &str = "v1,";

type HmacSha256 = Hmac<Sha256>;

/// A finished HMAC of 32 bytes. Comparing two of them with `==` takes constant time.
pub(crate) type Tag = CtOutput<HmacSha256>;

/// The prepared keys of an endpoint's [`Secret`] for both signature schemes.
///
/// Creating one decodes the base64 and hashes four blocks of key material. A signature then clones that state
/// and only hashes the message. Create it when the endpoint is loaded, and keep it.
#[derive(Clone)]
pub struct SigningKey {
    whole_secret: HmacSha256,
    decoded_secret: HmacSha256,
}

impl SigningKey {
    /// Prepares the keys for both schemes.
    pub fn new(secret: &Secret) -> Self {
        Self {
            whole_secret: keyed(secret.expose().as_bytes()),
            decoded_secret: keyed(&secret.decoded()),
        }
    }

    /// Returns the value of `X-Magnetite-Signature` for this body: `sha256=` and 64 lowercase hex digits.
    ///
    /// The signature covers neither the id nor any timestamp outside the body. Source: the contract,
    /// "Verifying Webhook Signatures".
    pub fn sign(&self, body: &[u8]) -> String {
        let mut digits = [0; 64];
        hex::encode_to_slice(self.tag(body).as_bytes(), &mut digits).expect("32 bytes have 64 digits");
        let digits = std::str::from_utf8(&digits).expect("hexadecimal digits are ASCII");
        [SHA256_PREFIX, digits].concat()
    }

    /// Returns the value of `webhook-signature` for one attempt: `v1,` and 44 characters of base64.
    ///
    /// `id` and `timestamp_s` (the time of the attempt, in seconds since the Unix epoch) must be sent
    /// unchanged as `webhook-id` and `webhook-timestamp`. The signed message consists of the id, the
    /// timestamp and the body, separated by full stops. An `id` that contains a full stop is therefore
    /// ambiguous: this function signs it nevertheless, but a [`Verifier`](crate::Verifier) rejects it. Event
    /// ids contain no full stops.
    ///
    /// Source: Standard Webhooks 1.0, "Signature scheme".
    pub fn sign_standard(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let tag = self.tag_standard(id, &timestamp_s.to_string(), body);
        format!("{V1_PREFIX}{}", STANDARD.encode(tag.as_bytes()))
    }

    pub(crate) fn tag(&self, body: &[u8]) -> Tag {
        self.whole_secret.clone().chain_update(body).finalize()
    }

    /// Takes the timestamp as text, so that a receiver checks the text that arrived, and not its own
    /// formatting of the number.
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
