//! The headers of a request.

use signature::{
    SIGNATURE_HEADER, SigningKey, WEBHOOK_ID_HEADER, WEBHOOK_SIGNATURE_HEADER, WEBHOOK_TIMESTAMP_HEADER,
};

use crate::{DeliveryId, Event};

/// The name of the header with the event's type.
pub const EVENT_HEADER: &str = "x-magnetite-event";
/// The name of the header with the time of the event, in Unix milliseconds.
pub const TIMESTAMP_HEADER: &str = "x-magnetite-timestamp";
/// The name of the header with the delivery's id.
pub const DELIVERY_HEADER: &str = "x-magnetite-delivery";
/// The name of the header with the attempt's number, 1-based.
pub const ATTEMPT_HEADER: &str = "x-magnetite-attempt";

/// The two signatures of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signatures {
    /// The value of `X-Magnetite-Signature`.
    pub contract: String,
    /// The value of `webhook-signature`.
    pub standard: String,
}

impl Signatures {
    /// Signs an event with the keys of one secret. `signed_s` is the value of `webhook-timestamp`, in Unix
    /// seconds.
    pub fn by(key: &SigningKey, event: &Event, signed_s: i64) -> Self {
        Self {
            contract: key.sign(&event.body),
            standard: key.sign_standard(event.id.as_str(), signed_s, &event.body),
        }
    }
}

/// Returns the headers of one attempt, except `Content-Type` and `User-Agent` (public contract, "Webhook
/// Headers", and Standard Webhooks 1.0).
///
/// `signed_s` is the value of `webhook-timestamp`, in Unix seconds.
pub fn request_headers(
    event: &Event,
    delivery_id: &DeliveryId,
    attempt: u32,
    signed_s: i64,
    signatures: Signatures,
) -> Vec<(&'static str, String)> {
    vec![
        (SIGNATURE_HEADER, signatures.contract),
        (EVENT_HEADER, event.event_type.as_str().to_owned()),
        (TIMESTAMP_HEADER, event.timestamp_ms.to_string()),
        (DELIVERY_HEADER, delivery_id.to_string()),
        (ATTEMPT_HEADER, attempt.to_string()),
        (WEBHOOK_ID_HEADER, event.id.to_string()),
        (WEBHOOK_TIMESTAMP_HEADER, signed_s.to_string()),
        (WEBHOOK_SIGNATURE_HEADER, signatures.standard),
    ]
}
