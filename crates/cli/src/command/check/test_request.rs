//! The requests that are made to the endpoint: sample events, sent in five ways.

use bytes::Bytes;
use signature::{Secret, SigningKey, TOLERANCE_S};
use webhook::{About, DeliveryId, Event, EventType, LeadId, OrganizationId, ProjectId, Signatures};

/// One way to send an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TestRequest {
    /// As a worker sends it.
    Good,
    /// The same event again.
    Repeated,
    /// Signed with another secret.
    WrongSignature,
    /// With the signatures of another body.
    OtherBody,
    /// Correctly signed, but long ago.
    Stale,
}

pub(super) struct Request {
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
}

const TYPE: EventType = EventType::LeadCompleted;
/// The age of the stale request, in seconds: twice the maximum that receivers may accept.
const STALE_S: i64 = 2 * TOLERANCE_S;

impl TestRequest {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Good => "good request",
            Self::Repeated => "repeated request",
            Self::WrongSignature => "wrong signature",
            Self::OtherBody => "other body",
            Self::Stale => "stale request",
        }
    }

    /// Returns the request, with the headers that a worker sends. `stranger` is the secret for the wrong
    /// signature.
    pub(super) fn request(self, event: &Event, secret: &Secret, stranger: &Secret, now_ms: u64) -> Request {
        let now_s = (now_ms / 1000) as i64;
        let signer = if self == Self::WrongSignature {
            stranger
        } else {
            secret
        };
        let attempt = if self == Self::Repeated { 2 } else { 1 };
        let at_s = if self == Self::Stale {
            now_s - STALE_S
        } else {
            now_s
        };
        let body = match self {
            Self::OtherBody => sample(&format!("{}_changed", event.id), event.timestamp_ms),
            _ => event.body.clone(),
        };
        let key = SigningKey::new(signer);
        let signatures = Signatures::by(&key, event, at_s);
        let delivery_id = DeliveryId::new(format!("dlv_{}", event.id));
        let headers = webhook::request_headers(event, &delivery_id, attempt, at_s, signatures);
        Request { headers, body }
    }
}

/// Returns a sample event about a lead of its own, so that the endpoint does not take one request for the
/// repetition of another.
pub(super) fn event(random: u128, now_ms: u64) -> Event {
    let id = format!("check_{random:032x}");
    let event = Event::from_message(Some(&id), None, sample(&id, now_ms));
    event.expect("a sample is a valid event, and publishers may choose such an id")
}

fn sample(lead: &str, timestamp_ms: u64) -> Bytes {
    let about = About {
        organization_id: OrganizationId::new("org_check"),
        project_id: ProjectId::new("proj_check"),
        lead_id: LeadId::new(lead),
        timestamp_ms,
    };
    webhook::sample(TYPE, &about)
}

#[cfg(test)]
mod tests {
    use signature::{
        SIGNATURE_HEADER, Verifier, WEBHOOK_ID_HEADER, WEBHOOK_SIGNATURE_HEADER, WEBHOOK_TIMESTAMP_HEADER,
    };

    use super::*;

    const NOW_MS: u64 = 1_795_568_400_250;
    const NOW_S: i64 = 1_795_568_400;

    /// Returns whether a correct receiver accepts the request, by each of the two signatures.
    fn is_taken(question: TestRequest) -> [bool; 2] {
        let [secret, stranger] = [1, 2].map(|byte| Secret::generate([byte; 32]));
        let Request { headers, body } = question.request(&event(7, NOW_MS), &secret, &stranger, NOW_MS);
        let header = |name| {
            let found = headers.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.as_str()).unwrap()
        };
        let verifier = Verifier::new(&[secret]);
        let (id, at) = (header(WEBHOOK_ID_HEADER), header(WEBHOOK_TIMESTAMP_HEADER));
        let standard = verifier.verify_standard(
            id,
            at,
            header(WEBHOOK_SIGNATURE_HEADER),
            &body,
            NOW_S,
            TOLERANCE_S,
        );
        [
            verifier.verify(&body, header(SIGNATURE_HEADER)).is_ok(),
            standard.is_ok(),
        ]
    }

    #[test]
    fn each_question_is_what_it_says() {
        for (question, taken) in [
            (TestRequest::Good, [true, true]),
            (TestRequest::Repeated, [true, true]),
            (TestRequest::WrongSignature, [false, false]),
            (TestRequest::OtherBody, [false, false]),
            // The contract's signature covers only the event's own timestamp.
            (TestRequest::Stale, [true, false]),
        ] {
            assert_eq!(is_taken(question), taken, "{question:?}");
        }
    }

    #[test]
    fn the_sample_is_an_event_that_could_have_been_published() {
        let event = event(7, NOW_MS);
        let envelope = webhook::Envelope::parse(&event.body).unwrap();
        assert_eq!(
            (envelope.event_type, envelope.timestamp_ms),
            (TYPE.into(), NOW_MS)
        );
    }
}
