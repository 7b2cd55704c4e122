//! Ids as newtypes: a project's id can never be passed where a lead's is meant.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The longest AMQP `message_id` that is accepted as an event id, in characters.
pub const MESSAGE_ID_CHARS_MAX: usize = 128;

/// The longest id of an organization, project or lead that an event may be published with, in bytes. Long
/// enough for anything that is an id, short enough for every index of a database.
pub const ID_BYTES_MAX: usize = 255;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Box<str>);

        impl $name {
            /// Wraps the id as it was received; nothing is checked.
            pub fn new(id: impl Into<Box<str>>) -> Self {
                Self(id.into())
            }

            /// The id as text.
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
    /// A customer: owns endpoints, and every event belongs to exactly one.
    OrganizationId
}
id! {
    /// A project of an organization.
    ProjectId
}
id! {
    /// The lead an event is about.
    LeadId
}
id! {
    /// An event's id, unique within its organization; sent to receivers as `webhook-id`.
    EventId
}
id! {
    /// A registered endpoint: `ep_` and 32 hexadecimal digits when made here.
    EndpointId
}
id! {
    /// One request: `att_` and 32 hexadecimal digits, of which the first 12 are the Unix milliseconds when it began.
    AttemptId
}
id! {
    /// One event's way to one endpoint in one run: `dlv_` and 32 hexadecimal digits.
    DeliveryId
}
id! {
    /// A key of the HTTP API, not its text: `key_` and 32 hexadecimal digits.
    ApiKeyId
}

/// What ids made here look like. In place: `hex::encode` collects its digits one by one, and every delivery
/// makes two ids.
fn hexadecimal(prefix: &str, bytes: &[u8]) -> String {
    let mut digits = [0; 32];
    hex::encode_to_slice(bytes, &mut digits).expect("16 bytes have 32 digits");
    let digits = std::str::from_utf8(&digits).expect("hexadecimal digits are ASCII");
    [prefix, digits].concat()
}

impl EventId {
    /// Takes an AMQP `message_id`: 1 to [`MESSAGE_ID_CHARS_MAX`] characters of `[A-Za-z0-9_-]`, else `None`.
    pub fn from_message_id(message_id: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let fits = (1..=MESSAGE_ID_CHARS_MAX).contains(&message_id.len());
        (fits && message_id.bytes().all(allowed)).then(|| Self::new(message_id))
    }

    /// The id of an event published without one: `evt_` and the first 128 bits of the body's SHA-256 in
    /// hexadecimal, so that publishing the same bytes twice gives one id.
    pub fn from_body(body: &[u8]) -> Self {
        Self::new(hexadecimal("evt_", &Sha256::digest(body)[..16]))
    }
}

impl EndpointId {
    /// A new id from 16 random bytes.
    pub fn generate(random: [u8; 16]) -> Self {
        Self::new(hexadecimal("ep_", &random))
    }
}

impl ApiKeyId {
    /// A new id from 16 random bytes.
    pub fn generate(random: [u8; 16]) -> Self {
        Self::new(hexadecimal("key_", &random))
    }
}

impl AttemptId {
    /// The id of an attempt that began at `began_ms`, from 10 random bytes.
    pub fn generate(began_ms: u64, random: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&began_ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        Self::new(hexadecimal("att_", &bytes))
    }

    /// No attempt that began at `began_ms` or later has an id that comes before it.
    pub fn first_at(began_ms: u64) -> Self {
        Self::generate(began_ms, [0; 10])
    }
}

impl DeliveryId {
    /// The id of the delivery of `event` to `endpoint` in `run`: the first 128 bits of a SHA-256 over the
    /// four parts, each preceded by its length, so that no two different quadruples hash the same bytes.
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
        // Written into journals and sent to receivers: it must never change.
        assert_eq!(
            id("org_1", "evt_1", "ep_1", 0).as_str(),
            "dlv_42452ddbf81c418192ae71cf634bb294"
        );
    }
}
