//! Signs webhook requests and verifies their signatures. No other crate implements the signature schemes.
//!
//! # Theory of operation
//!
//! Every request carries two HMAC-SHA256 signatures of the same body, both made with the endpoint's
//! [`Secret`]. They differ in the key and in what they cover:
//!
//! - `X-Magnetite-Signature` is `sha256=` and 64 lowercase hex digits. Its key is the whole secret string as
//!   UTF-8. It covers the body.
//! - `webhook-signature` is `v1,` and 44 characters of base64. Its key is the part of the secret after
//!   `whsec_`, decoded from base64. It covers the id, the seconds and the body.
//!
//! The first one is defined by the public contract ("Verifying Webhook Signatures"), whose samples pass the
//! secret to the HMAC as text. The second one is defined by [Standard Webhooks 1.0][standard], whose
//! published libraries can thus verify our requests without changes.
//!
//! The sender creates one [`SigningKey`] per endpoint and signs each attempt with it. The receiver creates a
//! [`Verifier`] from all secrets that are currently valid: one, or two during a rotation.
//!
//! # Invariants
//!
//! - The body is treated as bytes and never parsed. The signed bytes are the sent bytes. The receiver must
//!   therefore verify the bytes as they arrived, before any JSON parser processes them.
//! - A secret never reaches a log: `Debug` is redacted, `Display` is not implemented, and no error quotes its
//!   input. [`Secret::expose`] is the only way to read a secret.
//! - The time that a comparison takes does not depend on where two signatures differ. Each candidate is
//!   compared with the signature of each secret, even after one has matched.
//!
//! # Deliberately absent
//!
//! - A clock and a source of randomness: the time and the random bytes are arguments.
//! - Protection against replay. `X-Magnetite-Signature` does not cover the time, and the standard signature
//!   can be replayed within the tolerance. Receivers deduplicate by `webhook-id`.
//! - HTTP types: headers are plain text, so that the crate works with any server.
//! - Erasing secrets from freed memory: they live as long as the process that signs with them.
//!
//! # Example: a receiver
//!
//! ```
//! use signature::{Secret, TOLERANCE_S, Verifier};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
//! let verifier = Verifier::new(&[secret]);
//!
//! let body = br#"{"test": 2432232314}"#;
//! let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
//! let signatures = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
//! let now_s = 1_614_265_342; // from the receiver's clock
//! verifier.verify_standard(id, "1614265330", signatures, body, now_s, TOLERANCE_S)?;
//! # Ok(())
//! # }
//! ```
//!
//! [standard]: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

mod secret;
mod sign;
mod verify;

pub use secret::{Secret, SecretError};
pub use sign::SigningKey;
pub use verify::{Verifier, VerifyError};

/// The name of the header with the contract's signature: `sha256=` and 64 lowercase hex digits.
///
/// Source: the contract, "Webhook Headers".
pub const SIGNATURE_HEADER: &str = "x-magnetite-signature";

/// The name of the header with the event's id, which is the first part of what the standard signature covers.
///
/// Source: Standard Webhooks 1.0, "Webhook headers".
pub const WEBHOOK_ID_HEADER: &str = "webhook-id";

/// The name of the header with the time of the attempt, in whole seconds since the Unix epoch.
///
/// Not to be confused with `X-Magnetite-Timestamp`, which contains the event's time in milliseconds. Source:
/// Standard Webhooks 1.0, "Webhook headers".
pub const WEBHOOK_TIMESTAMP_HEADER: &str = "webhook-timestamp";

/// The name of the header with the standard signatures: `v1,<base64>`, or several of these separated by
/// spaces.
///
/// Source: Standard Webhooks 1.0, "Webhook headers".
pub const WEBHOOK_SIGNATURE_HEADER: &str = "webhook-signature";

/// The maximum difference between `webhook-timestamp` and the receiver's clock in either direction, in
/// seconds: five minutes.
///
/// The libraries of Standard Webhooks use the same value, so that a request accepted by one is accepted by
/// all.
pub const TOLERANCE_S: i64 = 300;

#[cfg(test)]
mod tests;
