//! Publishes arbitrary bytes as an event. Parsing must not panic, and an accepted event must contain what a
//! JSON parser reads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use webhook::Envelope;

fuzz_target!(|body: &[u8]| {
    match Envelope::parse(body) {
        Ok(envelope) => agrees(&envelope, body),
        Err(rejection) => assert!(!rejection.reason().is_empty() && rejection.to_string().len() < 2000),
    }
});

/// Compares the envelope with the result of serde_json. Skips bodies that serde_json rejects, because it does
/// not accept numbers out of its range and limits the nesting more strictly.
fn agrees(envelope: &Envelope<'_>, body: &[u8]) {
    let Ok(json) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    assert_eq!(json["event"], envelope.event_type.as_str());
    assert_eq!(json["timestamp"], envelope.timestamp_ms);
    assert_eq!(json["organization_id"], *envelope.organization_id);
    assert_eq!(json["project_id"], *envelope.project_id);
    assert_eq!(json["lead_id"], *envelope.lead_id);
    assert!(json["data"].is_object());
}
