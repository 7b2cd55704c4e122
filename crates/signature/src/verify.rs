//! Verifying signatures, as a receiver does.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::sign::{SHA256_PREFIX, SigningKey, Tag, V1_PREFIX};
use crate::{SIGNATURE_HEADER, Secret, WEBHOOK_SIGNATURE_HEADER};

/// The maximum number of `v1` signatures in one request.
///
/// A sender adds one per valid secret, so only a few are expected. The limit keeps an attacker from causing
/// many comparisons with one header.
const SIGNATURES_MAX: usize = 16;

const TAG_BYTES: usize = 32;

/// Verifies requests that are signed with any of the secrets that it was created from.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Vec<SigningKey>,
}

/// The reason why a request cannot be trusted. Answer the request with 401 and do not process its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The id is empty or contains a full stop. With a full stop, one part of the signed message could be
    /// mistaken for another.
    #[error("webhook-id: expected a non-empty text without full stops")]
    BadId,
    /// The timestamp is not an integer.
    #[error("webhook-timestamp: expected whole seconds since the Unix epoch")]
    BadTimestamp,
    /// The request was signed too long ago: it is a replay, or one of the two clocks is wrong.
    #[error("webhook-timestamp: signed {age_s} s ago, more than the tolerated {tolerance_s} s")]
    TooOld {
        /// The age of the timestamp, in seconds.
        age_s: i64,
        /// The tolerance that the caller passed, in seconds.
        tolerance_s: i64,
    },
    /// The timestamp is too far in the future: one of the two clocks is wrong.
    #[error("webhook-timestamp: {ahead_s} s in the future, more than the tolerated {tolerance_s} s")]
    TooNew {
        /// How far the timestamp is in the future, in seconds.
        ahead_s: i64,
        /// The tolerance that the caller passed, in seconds.
        tolerance_s: i64,
    },
    /// The header contains no well-formed signature of its scheme.
    #[error("{header}: expected {expected}")]
    BadSignature {
        /// The name of the header.
        header: &'static str,
        /// The expected format.
        expected: &'static str,
    },
    /// The request has more signatures than a legitimate sender has secrets.
    #[error("webhook-signature: expected at most {max} signatures")]
    TooManySignatures {
        /// The maximum number of signatures.
        max: usize,
    },
    /// The signatures are well formed, but none of them is correct.
    #[error(
        "no signature matches: the body differs from the bytes that were signed, or the secret is a different one"
    )]
    Mismatch,
}

impl Verifier {
    /// Prepares the keys of all secrets that are currently valid: the new and the old one during a rotation.
    /// Without secrets, every request is rejected.
    pub fn new(secrets: &[Secret]) -> Self {
        Self {
            keys: secrets.iter().map(SigningKey::new).collect(),
        }
    }

    /// Verifies the `X-Magnetite-Signature` of a body, which must be the bytes as received.
    ///
    /// The signature does not cover the time of the request: a request that was recorded a year ago still
    /// passes. Source: the contract, "Verifying Webhook Signatures". This function is stricter than the
    /// contract's Node.js sample, because it requires `sha256=` and lowercase digits.
    ///
    /// # Errors
    ///
    /// Returns [`VerifyError::BadSignature`] if the header has another format, and [`VerifyError::Mismatch`]
    /// if the signature matches none of the secrets.
    pub fn verify(&self, body: &[u8], header: &str) -> Result<(), VerifyError> {
        let candidate = sha256_tag(header).ok_or(VerifyError::BadSignature {
            header: SIGNATURE_HEADER,
            expected: "`sha256=` and 64 lowercase hex digits",
        })?;
        self.match_any(&[candidate], |key| key.tag(body))
    }

    /// Verifies the three headers of Standard Webhooks against a body, which must be the bytes as received.
    ///
    /// `signatures` is a list separated by spaces. One correct `v1` signature in it is sufficient; other
    /// versions and malformed entries are skipped. The timestamp may be up to `tolerance_s` seconds,
    /// inclusive, before or after `now_s` (seconds since the Unix epoch). The official libraries use
    /// [`TOLERANCE_S`](crate::TOLERANCE_S).
    ///
    /// Ids are not remembered: a copy that is sent again within the tolerance passes. Source: Standard
    /// Webhooks 1.0.
    ///
    /// # Errors
    ///
    /// Returns the first error that applies, in the order of [`VerifyError`]'s variants.
    pub fn verify_standard(
        &self,
        id: &str,
        timestamp: &str,
        signatures: &str,
        body: &[u8],
        now_s: i64,
        tolerance_s: i64,
    ) -> Result<(), VerifyError> {
        check_id(id)?;
        check_timestamp(timestamp, now_s, tolerance_s)?;
        let candidates = v1_tags(signatures)?;
        self.match_any(&candidates, |key| key.tag_standard(id, timestamp, body))
    }

    /// Compares every candidate with the signature of every key, without stopping at a match.
    fn match_any(&self, candidates: &[Tag], sign: impl Fn(&SigningKey) -> Tag) -> Result<(), VerifyError> {
        let mut matched = false;
        for key in &self.keys {
            let expected = sign(key);
            for candidate in candidates {
                matched |= expected == *candidate;
            }
        }
        if matched {
            Ok(())
        } else {
            Err(VerifyError::Mismatch)
        }
    }
}

fn check_id(id: &str) -> Result<(), VerifyError> {
    if id.is_empty() || id.contains('.') {
        return Err(VerifyError::BadId);
    }
    Ok(())
}

fn check_timestamp(timestamp: &str, now_s: i64, tolerance_s: i64) -> Result<(), VerifyError> {
    let signed_s: i64 = timestamp.parse().map_err(|_| VerifyError::BadTimestamp)?;
    // Saturate, because the sender chooses the number. Values near the limits of i64 exceed any tolerance
    // anyway.
    let age_s = now_s.saturating_sub(signed_s);
    let ahead_s = signed_s.saturating_sub(now_s);
    if age_s > tolerance_s {
        return Err(VerifyError::TooOld { age_s, tolerance_s });
    }
    if ahead_s > tolerance_s {
        return Err(VerifyError::TooNew { ahead_s, tolerance_s });
    }
    Ok(())
}

/// Parses the header. Only lowercase digits are accepted, because the contract's Python sample compares text;
/// a signature thus has exactly one valid spelling.
fn sha256_tag(header: &str) -> Option<Tag> {
    let digits = header.strip_prefix(SHA256_PREFIX)?;
    if digits.bytes().any(|digit| digit.is_ascii_uppercase()) {
        return None;
    }
    let mut bytes = [0; TAG_BYTES];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(Tag::new(bytes.into()))
}

fn v1_tags(signatures: &str) -> Result<Vec<Tag>, VerifyError> {
    let well_formed = signatures.split(' ').filter_map(v1_tag);
    let tags: Vec<Tag> = well_formed.take(SIGNATURES_MAX + 1).collect();
    match tags.len() {
        0 => Err(VerifyError::BadSignature {
            header: WEBHOOK_SIGNATURE_HEADER,
            expected: "`v1,` and the base64 of 32 bytes, or several of these separated by spaces",
        }),
        1..=SIGNATURES_MAX => Ok(tags),
        _ => Err(VerifyError::TooManySignatures { max: SIGNATURES_MAX }),
    }
}

fn v1_tag(signature: &str) -> Option<Tag> {
    let encoded = signature.strip_prefix(V1_PREFIX)?;
    let bytes: [u8; TAG_BYTES] = STANDARD.decode(encoded).ok()?.try_into().ok()?;
    Some(Tag::new(bytes.into()))
}
