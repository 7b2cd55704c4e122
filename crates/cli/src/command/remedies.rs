//! Advice about an endpoint that does not answer as it should, for the people who run it.

use std::borrow::Cow;

use webhook::FailureKind;

/// The page that has a section for each failure, under the failure's name.
const PAGE: &str = "docs/failures.md";

/// Returns what to do about a status other than 2xx.
pub(super) fn on_status(status: u16) -> Cow<'static, str> {
    let text = match status {
        301 | 302 | 303 | 307 | 308 => "redirects are not followed: register the URL that it leads to",
        400 | 422 => {
            "the receiver does not understand the body: accept every event, also those of types that you do not know"
        }
        401 | 403 => {
            "the receiver refuses the signature: is its secret this endpoint's, and is the body that it verifies the raw one?"
        }
        404 => "there is nothing at this path: correct the URL, or the receiver's routes",
        405 => "the receiver does not take POST at this path",
        410 => "410 says that the endpoint is gone for good; after one to an event it is disabled",
        413 => "the receiver refuses bodies of this size: accept up to 256 KiB",
        415 => "the receiver does not take application/json",
        429 => "the receiver takes no more requests at the moment",
        500..=599 => "the receiver failed: its log says why",
        _ => "answer with a 2xx as soon as the request is verified and stored",
    };
    linked(text, "status")
}

/// Returns what to do about a request that received no answer.
pub(super) fn on_failure(kind: FailureKind) -> Cow<'static, str> {
    let text = match kind {
        FailureKind::BadUrl => "correct the URL",
        FailureKind::NameNotFound => "correct the host in the URL, or its DNS records",
        FailureKind::NameServerFailed => "mend the name servers of the host in the URL",
        FailureKind::AddressRefused => {
            "use a public address; the operator can allow another with `egress.allow`"
        }
        FailureKind::ConnectionRefused => "is the server running, and is the port right?",
        FailureKind::ConnectionReset => {
            "the server, or a proxy before it, closes connections: its log says why"
        }
        FailureKind::Tls => {
            "use the port of https, and a valid certificate for this host, with its intermediate certificates; self-signed ones are refused"
        }
        FailureKind::Timeout => {
            "is a firewall in between? Answer as soon as the request is verified and stored, and work on it later"
        }
        FailureKind::CutShort => {
            "answer as soon as the request is verified and stored: many slow endpoints of one organization end each other's attempts"
        }
        FailureKind::Protocol => "what answers there does not speak HTTP: is the port right?",
        FailureKind::Flood => "answer with one response; the server, or a proxy before it, sends without end",
    };
    linked(text, kind.as_str())
}

/// Returns what to do about a recorded failure, by its name. `None` if the failure is unknown here because a
/// newer version recorded it.
pub(super) fn on_recorded(status: Option<u16>, failure: &str) -> Option<Cow<'static, str>> {
    let kind = || failure.parse().ok();
    status.map(on_status).or_else(|| kind().map(on_failure))
}

fn linked(text: &str, section: &str) -> Cow<'static, str> {
    format!("{text} ({PAGE}#{section})").into()
}
