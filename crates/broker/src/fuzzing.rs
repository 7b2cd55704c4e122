//! The entry point of the fuzz targets, compiled only for them. It gives them access to private functions.

use bytes::Bytes;
use lapin::protocol::basic::parse_properties;
use webhook::Delivery;

use crate::{Message, Outgoing, Source, Topology};

const BODY: &[u8] = br#"{"event":"lead.created","timestamp":1703123456789,"organization_id":"o","project_id":"p","lead_id":"l","data":{}}"#;

/// Decodes `wire` as the properties of a message, as lapin does, and then decodes the message as an event and
/// as a delivery.
///
/// # Panics
/// Panics if a decoded delivery is not encoded as it was, or if the message cannot be rejected.
pub fn properties(wire: &[u8]) {
    let Ok((_, properties)) = parse_properties(wire) else {
        return;
    };
    let message = Message {
        body: Bytes::from_static(BODY),
        properties,
    };
    let _ = message.event();
    if let Ok(delivery) = message.delivery() {
        assert_eq!(written(&delivery).delivery().as_ref(), Ok(&delivery));
    }
    rejected(&message);
}

fn written(delivery: &Delivery) -> Message {
    let outgoing = Outgoing::due(&topology(), delivery);
    Message {
        body: outgoing.body,
        properties: outgoing.properties,
    }
}

/// Checks that a rejected message keeps its body.
fn rejected(message: &Message) {
    let outgoing = Outgoing::rejected(
        &topology(),
        "rej_1",
        message,
        Source::Due,
        "bad_header",
        "fuzzed",
        0,
    );
    assert_eq!(outgoing.body, message.body);
}

fn topology() -> Topology {
    Topology::new("magnetite", &[std::time::Duration::from_secs(1)])
}
