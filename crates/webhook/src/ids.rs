//! Ids as newtypes, so that the compiler rejects a project's id where a lead's id is expected.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The maximum length of an AMQP `message_id` that is accepted as an event id, in characters.
pub const MESSAGE_ID_CHARS_MAX: usize = 128;

/// The maximum length of the id of an organization, project or lead in a published event, in bytes.
///
/// The limit is long enough for any real id, and short enough for the indexes of every database.
pub const ID_BYTES_MAX: usize = 255;

/// The error for a text that is not a valid id of an organization, a project or a lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {ID_BYTES_MAX} bytes, none of them a control character")]
pub struct BadId;

/// Validates an id of an organization, a project or a lead in a request or a command. Any text on one line is
/// allowed, because it is compared with what events carry.
///
/// # Errors
/// Returns [`BadId`] if the id is empty, too long, or has control characters.
pub fn valid_id(text: &str) -> Result<&str, BadId> {
    let fits = (1..=ID_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control);
    if fits { Ok(text) } else { Err(BadId) }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Box<str>);

        impl $name {
            /// Wraps an id as it was received, without validating it.
            pub fn new(id: impl Into<Box<str>>) -> Self {
                Self(id.into())
            }

            /// Returns the id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id! {
    /// The id of an organization: a customer, which owns endpoints. Every event belongs to exactly one.
    OrganizationId
}
id! {
    /// The id of a project of an organization.
    ProjectId
}
id! {
    /// The id of the lead that an event is about.
    LeadId
}
id! {
    /// The id of an event, unique within its organization. Receivers get it as `webhook-id`.
    EventId
}
id! {
    /// The id of a registered endpoint: `ep_` and 32 hexadecimal digits if this crate generated it.
    EndpointId
}
id! {
    /// The id of one request: `att_` and 32 hexadecimal digits, of which the first 12 are the time when the
    /// attempt began, in Unix milliseconds.
    AttemptId
}
id! {
    /// The id of the delivery of one event to one endpoint in one run: `dlv_` and 32 hexadecimal digits.
    DeliveryId
}
id! {
    /// The id of an API key, which is not the secret text of the key: `key_` and 32 hexadecimal digits.
    ApiKeyId
}

/// Formats 16 bytes as an id with this prefix.
///
/// Encodes in place, because `hex::encode` collects the digits one by one and every delivery makes two ids.
fn hexadecimal(prefix: &str, bytes: &[u8]) -> String {
    let mut digits = [0; 32];
    hex::encode_to_slice(bytes, &mut digits).expect("16 bytes have 32 digits");
    let digits = std::str::from_utf8(&digits).expect("hexadecimal digits are ASCII");
    [prefix, digits].concat()
}

impl EventId {
    /// Converts an AMQP `message_id` of 1 to [`MESSAGE_ID_CHARS_MAX`] characters of `[A-Za-z0-9_-]` to an
    /// event id. Returns `None` for any other text.
    pub fn from_message_id(message_id: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let fits = (1..=MESSAGE_ID_CHARS_MAX).contains(&message_id.len());
        (fits && message_id.bytes().all(allowed)).then(|| Self::new(message_id))
    }

    /// Derives the id of an event that was published without one: `evt_` and the first 128 bits of the body's
    /// SHA-256 in hexadecimal. Publishing the same bytes twice thus results in one id.
    pub fn from_body(body: &[u8]) -> Self {
        Self::new(hexadecimal("evt_", &Sha256::digest(body)[..16]))
    }
}

impl EndpointId {
    /// Makes a new id from 16 random bytes.
    pub fn generate(random: [u8; 16]) -> Self {
        Self::new(hexadecimal("ep_", &random))
    }
}

impl ApiKeyId {
    /// Makes a new id from 16 random bytes.
    pub fn generate(random: [u8; 16]) -> Self {
        Self::new(hexadecimal("key_", &random))
    }
}

impl AttemptId {
    /// Makes the id of an attempt that began at `began_ms`, in Unix milliseconds, from 10 random bytes.
    pub fn generate(began_ms: u64, random: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&began_ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        Self::new(hexadecimal("att_", &bytes))
    }

    /// Returns the smallest id that an attempt can have that began at `began_ms`, in Unix milliseconds, or
    /// later.
    pub fn first_at(began_ms: u64) -> Self {
        Self::generate(began_ms, [0; 10])
    }
}

impl DeliveryId {
    /// Derives the id of the delivery of `event` to `endpoint` in `run`.
    ///
    /// It is made of the first 128 bits of a SHA-256 over the four parts. Each text is preceded by its
    /// length, so that no two different combinations hash the same bytes.
    pub fn derive(organization: &OrganizationId, event: &EventId, endpoint: &EndpointId, run: u32) -> Self {
        let mut hash = Sha256::new();
        for part in [organization.as_str(), event.as_str(), endpoint.as_str()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        hash.update(run.to_be_bytes());
        Self::new(hexadecimal("dlv_", &hash.finalize()[..16]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_id_is_any_text_on_one_line() {
        assert_eq!(valid_id("Ö 1"), Ok("Ö 1"));
        for bad in ["", "a\nb", "a\0", &"a".repeat(256), &"é".repeat(128)] {
            assert_eq!(valid_id(bad), Err(BadId));
        }
    }

    #[test]
    fn a_message_id_is_checked_for_length_and_alphabet() {
        for good in ["a", "evt_1-B", &"x".repeat(128)] {
            assert_eq!(EventId::from_message_id(good).unwrap().as_str(), good);
        }
        for bad in ["", " ", "a b", "a.b", "é", "a\n", &"x".repeat(129)] {
            assert_eq!(EventId::from_message_id(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_same_body_gives_the_same_id_and_it_is_a_valid_message_id() {
        let id = EventId::from_body(b"{}");
        assert_eq!(id, EventId::from_body(b"{}"));
        assert_ne!(id, EventId::from_body(b"{ }"));
        assert_eq!(EventId::from_message_id(id.as_str()), Some(id));
    }

    #[test]
    fn delivery_ids_differ_when_any_part_does_and_parts_cannot_run_together() {
        let id = |o: &str, e: &str, p: &str, run| {
            DeliveryId::derive(
                &OrganizationId::new(o),
                &EventId::new(e),
                &EndpointId::new(p),
                run,
            )
        };
        let base = id("o", "e", "p", 0);
        assert_eq!(base, id("o", "e", "p", 0));
        for other in [
            id("o2", "e", "p", 0),
            id("o", "e2", "p", 0),
            id("o", "e", "p2", 0),
            id("o", "e", "p", 1),
        ] {
            assert_ne!(base, other);
        }
        assert_ne!(id("ab", "c", "p", 0), id("a", "bc", "p", 0));
        // The id is stored in journals and sent to receivers, so its derivation must never change.
        assert_eq!(
            id("org_1", "evt_1", "ep_1", 0).as_str(),
            "dlv_42452ddbf81c418192ae71cf634bb294"
        );
    }
}
