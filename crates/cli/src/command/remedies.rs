//! Advice about an endpoint that does not answer as it should, for the people who run it.

use std::borrow::Cow;

use webhook::FailureKind;

/// The page that has a section for each failure, under the failure's name.
const PAGE: &str = "docs/failures.md";

/// Returns what to do about a status other than 2xx.
pub(super) fn on_status(status: u16) -> Cow<'static, str> {
    let text = match status {
        301 | 302 | 303 | 307 | 308 => {
            "redirects are not followed: register the URL that the redirect leads to"
        }
        400 | 422 => {
            "the receiver does not understand the body: accept every event, including events of unknown types"
        }
        401 | 403 => {
            "the receiver rejects the signature: check that it uses this endpoint's secret, and that it verifies the raw body"
        }
        404 => "there is nothing at this path: correct the URL, or the receiver's routes",
        405 => "the receiver does not accept POST at this path: correct the URL, or the receiver's routes",
        410 => {
            "410 means that the endpoint is permanently gone; an endpoint that answers an event with 410 is disabled"
        }
        413 => "the receiver refuses bodies of this size: accept up to 256 KiB",
        415 => "the receiver does not accept application/json: accept it as the Content-Type",
        429 => {
            "the receiver limits the rate of requests: raise its limit, or answer 2xx as soon as the event is stored"
        }
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
        FailureKind::NameServerFailed => "repair the name servers of the host in the URL",
        FailureKind::AddressRefused => {
            "use a public address; the operator can allow another with `egress.allow`"
        }
        FailureKind::ConnectionRefused => "check that the server is running, and that the port is right",
        FailureKind::ConnectionReset => {
            "the server, or a proxy in front of it, closes connections: its log says why"
        }
        FailureKind::Tls => {
            "use the HTTPS port, and a valid certificate for this host, with its intermediate certificates; self-signed ones are refused"
        }
        FailureKind::Timeout => {
            "check for a firewall in between; answer as soon as the request is verified and stored, and process it later"
        }
        FailureKind::CutShort => {
            "answer as soon as the request is verified and stored: many slow endpoints of one organization cut each other's attempts short"
        }
        FailureKind::Protocol => "the server does not speak HTTP: check the port",
        FailureKind::Flood => {
            "send one response; the server, or a proxy in front of it, sends data without end"
        }
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
