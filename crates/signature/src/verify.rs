//! Checking signatures, as a receiver does.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::sign::{SHA256_PREFIX, SigningKey, Tag, V1_PREFIX};
use crate::{SIGNATURE_HEADER, Secret, WEBHOOK_SIGNATURE_HEADER};

/// How many `v1` signatures one request may carry. A sender adds one per valid secret, so a handful is
/// generous; the bound keeps a hostile header from buying comparisons.
const SIGNATURES_MAX: usize = 16;

const TAG_BYTES: usize = 32;

/// Accepts requests signed with any one of the secrets it was made from.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Vec<SigningKey>,
}

/// Why a request is not to be trusted. Answer it with 401 and do not process the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The id is empty or has a full stop, which would let parts of the request pass for one another.
    #[error("webhook-id: expected a text without full stops")]
    BadId,
    /// The timestamp is not an integer.
    #[error("webhook-timestamp: expected whole seconds since the Unix epoch")]
    BadTimestamp,
    /// The request was signed too long ago: a replay, or one of the two clocks is wrong.
    #[error("webhook-timestamp: signed {age_s} s ago, and at most {tolerance_s} s are tolerated")]
    TooOld {
        /// How far the timestamp lies in the past, in seconds.
        age_s: i64,
        /// The tolerance that was asked for, in seconds.
        tolerance_s: i64,
    },
    /// The request claims to be signed in the future: one of the two clocks is wrong.
    #[error("webhook-timestamp: lies {ahead_s} s ahead, and at most {tolerance_s} s are tolerated")]
    TooNew {
        /// How far the timestamp lies in the future, in seconds.
        ahead_s: i64,
        /// The tolerance that was asked for, in seconds.
        tolerance_s: i64,
    },
    /// The header holds nothing that could be a signature of its scheme.
    #[error("{header}: expected {expected}")]
    BadSignature {
        /// Name of the header.
        header: &'static str,
        /// The form that it must have.
        expected: &'static str,
    },
    /// There are more signatures than an honest sender has secrets.
    #[error("webhook-signature: expected at most {max} signatures")]
    TooManySignatures {
        /// How many are allowed.
        max: usize,
    },
    /// The signatures are well formed, and none is right.
    #[error(
        "no signature matches: the body is not what was signed, byte for byte, or the secret is another one"
    )]
    Mismatch,
}

impl Verifier {
    /// Prepares the keys of all secrets that are valid now: the new and the old one during a rotation. With
    /// none, every request is refused.
    pub fn new(secrets: &[Secret]) -> Self {
        Self {
            keys: secrets.iter().map(SigningKey::new).collect(),
        }
    }

    /// Checks the `X-Magnetite-Signature` of a body, as received and unparsed.
    ///
    /// Says nothing about when the request was made: one recorded last year still passes. Source: the
    /// contract, "Verifying Webhook Signatures"; stricter than its Node.js sample in that `sha256=` and
    /// lowercase are required.
    ///
    /// # Errors
    ///
    /// [`VerifyError::BadSignature`] when the header has another form, [`VerifyError::Mismatch`] when no
    /// secret fits.
    pub fn verify(&self, body: &[u8], header: &str) -> Result<(), VerifyError> {
        let candidate = sha256_tag(header).ok_or(VerifyError::BadSignature {
            header: SIGNATURE_HEADER,
            expected: "`sha256=` and 64 lowercase hex digits",
        })?;
        self.match_any(&[candidate], |key| key.tag(body))
    }

    /// Checks the three headers of Standard Webhooks against a body, as received and unparsed.
    ///
    /// `signatures` is a list separated by spaces, of which one right `v1` signature suffices; other versions
    /// and entries that are not well formed are skipped. The timestamp may lie up to `tolerance_s`
    /// seconds, inclusive, before or after `now_s` (seconds since the Unix epoch);
    /// [`TOLERANCE_S`](crate::TOLERANCE_S) is what the official libraries use.
    ///
    /// Does not remember ids: a copy sent again within the tolerance passes. Source: Standard Webhooks 1.0.
    ///
    /// # Errors
    ///
    /// The first that applies, in the order of [`VerifyError`]'s variants.
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

    /// Compares every candidate with every key's signature, without stopping at a match.
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
    // Saturating: the number is a stranger's, and the far ends of i64 are out of any tolerance anyway.
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

/// Lowercase only, as the contract's Python sample compares text: one signature has one spelling.
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
