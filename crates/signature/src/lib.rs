//! Signs webhook requests and verifies them: the one place that knows how a Magnetite signature is made.
//!
//! # Theory of operation
//!
//! Every request carries two signatures over the same body, both HMAC-SHA256 and both from the endpoint's one
//! [`Secret`]. They differ in the key and in what they cover:
//!
//! | header | value | key | covers |
//! |---|---|---|---|
//! | `X-Magnetite-Signature` | `sha256=` + 64 lowercase hex digits | the UTF-8 bytes of the whole secret string | the body |
//! | `webhook-signature` | `v1,` + 44 characters of base64 | the bytes that the base64 after `whsec_` decodes to | id, seconds and body |
//!
//! The first is the public contract ("Verifying Webhook Signatures"), whose samples pass the secret to the
//! HMAC as text. The second is [Standard Webhooks 1.0], so that its published libraries verify our requests
//! unchanged.
//!
//! The delivery side makes a [`SigningKey`] once per endpoint and signs once per attempt. The receiving side
//! makes a [`Verifier`] from every secret that is valid now: two while a rotation lasts.
//!
//! # Invariants
//!
//! - Bytes only: the body is never parsed. What is signed is what is sent, so the receiver must verify the
//!   bytes as they arrived, before any JSON parser has touched them.
//! - A secret never reaches a log: `Debug` is redacted, `Display` does not exist, and no error quotes its
//!   input. [`Secret::expose`] is the only way out.
//! - How long a comparison takes tells nothing about where two signatures differ; each candidate is compared
//!   with each secret's signature even after one has matched.
//!
//! # Deliberately absent
//!
//! - A clock and a random source: both are arguments.
//! - Protection against replay. `X-Magnetite-Signature` covers no time at all; the standard one allows a
//!   replay within the tolerance. Receivers deduplicate by `webhook-id`.
//! - HTTP types: headers come and go as text, and this crate fits any server.
//! - Wiping secrets from freed memory: they live as long as the process that signs with them.
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
//! let signatures = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
//! let now_s = 1_614_265_342; // from the receiver's clock
//! verifier.verify_standard("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", signatures, body, now_s, TOLERANCE_S)?;
//! # Ok(())
//! # }
//! ```
//!
//! [Standard Webhooks 1.0]: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

mod secret;
mod sign;
mod verify;

pub use secret::{Secret, SecretError};
pub use sign::SigningKey;
pub use verify::{Verifier, VerifyError};

/// Name of the header with the contract's signature: `sha256=` and 64 lowercase hex digits.
///
/// Source: the contract, "Webhook Headers".
pub const SIGNATURE_HEADER: &str = "x-magnetite-signature";

/// Name of the header with the event's id, the first part of what the standard signature covers.
///
/// Source: Standard Webhooks 1.0, "Webhook headers".
pub const WEBHOOK_ID_HEADER: &str = "webhook-id";

/// Name of the header with the time of this attempt, in whole seconds since the Unix epoch.
///
/// Not `X-Magnetite-Timestamp`, which has the event's milliseconds. Source: Standard Webhooks 1.0, "Webhook
/// headers".
pub const WEBHOOK_TIMESTAMP_HEADER: &str = "webhook-timestamp";

/// Name of the header with the standard signatures: `v1,<base64>`, several of them separated by spaces.
///
/// Source: Standard Webhooks 1.0, "Webhook headers".
pub const WEBHOOK_SIGNATURE_HEADER: &str = "webhook-signature";

/// How far `webhook-timestamp` may lie from the receiver's clock, either way, in seconds: five minutes.
///
/// The libraries of Standard Webhooks use the same, so that a request accepted by one is accepted by all.
pub const TOLERANCE_S: i64 = 300;

#[cfg(test)]
mod tests;
