//! What became of one request.
//!
//! Only what the endpoint did is an [`AttemptResult`]. What went wrong on our side (no file descriptor, no
//! route, no name server) is an error of whoever sends, and is not charged to the endpoint.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How much of a response's body is read, in bytes; the rest is not waited for.
pub const RESPONSE_BODY_BYTES_MAX: usize = 16 * 1024;

/// What the endpoint did with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// It answered.
    Answered(Answer),
    /// It did not.
    Failed(Failure),
}

/// An HTTP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status code.
    pub status: u16,
    /// The `Retry-After` header as it was sent, when there was one of readable text.
    pub retry_after: Option<String>,
    /// The body's first [`RESPONSE_BODY_BYTES_MAX`] bytes.
    pub body: Bytes,
}

/// Why there was no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How far the request got.
    pub phase: Phase,
    /// What went wrong.
    pub kind: FailureKind,
    /// The cause in words, for people; never the endpoint's path or query.
    pub detail: String,
}

/// The phases of a request, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The host's name is looked up.
    Resolve,
    /// A TCP connection is made.
    Connect,
    /// The TLS handshake.
    Tls,
    /// The request is written.
    Send,
    /// The response's headers and body are read.
    Response,
}

/// The closed set of ways in which an endpoint fails to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The URL cannot be used any more; it passed when the endpoint was registered.
    BadUrl,
    /// The name does not exist, or has no address.
    NameNotFound,
    /// The name's own name servers fail or do not answer, while other names are answered.
    NameServerFailed,
    /// The address is not public and not allowed by configuration.
    AddressRefused,
    /// Nothing listens there.
    ConnectionRefused,
    /// The connection ended early.
    ConnectionReset,
    /// No TLS session could be agreed on; most often the certificate is not valid for the host.
    Tls,
    /// The deadline of the whole attempt passed.
    Timeout,
    /// The attempt was slow, and was ended before its deadline because its organization had the most slow
    /// attempts in flight.
    CutShort,
    /// What came back is not HTTP.
    Protocol,
    /// It sent and sent, and did not get on with its answer.
    Flood,
}

impl AttemptResult {
    /// The HTTP status, when there was a response.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answered(answer) => Some(answer.status),
            Self::Failed(_) => None,
        }
    }

    /// Whether the endpoint took the delivery: any 2xx.
    pub fn is_success(&self) -> bool {
        matches!(self.status(), Some(200..=299))
    }

    /// Whether a sender that did not run for a while may have caused this: time ran out, or the other side
    /// gave up waiting and ended the connection, or its stream, or answered that it did.
    pub fn may_be_a_stalled_senders(&self) -> bool {
        match self {
            Self::Answered(answer) => answer.status == 408,
            Self::Failed(failure) => matches!(
                failure.kind,
                FailureKind::Timeout
                    | FailureKind::CutShort
                    | FailureKind::ConnectionReset
                    | FailureKind::Protocol
                    | FailureKind::NameServerFailed
            ),
        }
    }

    /// Whether the endpoint refused the request as one that it cannot trust: 401, as the contract's samples
    /// answer to a wrong signature, or 403.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self.status(), Some(401 | 403))
    }
}

impl fmt::Display for AttemptResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(Answer { status, .. }) => {
                write!(f, "status {status}")?;
                // The statuses of which people expect something else.
                if matches!(status, 301 | 302 | 303 | 307 | 308) {
                    f.write_str(": redirects are not followed")?;
                }
                Ok(())
            }
            Self::Failed(failure) => write!(f, "{} in {}: {}", failure.kind, failure.phase, failure.detail),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Send => "send",
            Self::Response => "response",
        })
    }
}

impl FailureKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::BadUrl,
        Self::NameNotFound,
        Self::NameServerFailed,
        Self::AddressRefused,
        Self::ConnectionRefused,
        Self::ConnectionReset,
        Self::Tls,
        Self::Timeout,
        Self::CutShort,
        Self::Protocol,
        Self::Flood,
    ];

    /// The name in headers, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadUrl => "bad_url",
            Self::NameNotFound => "name_not_found",
            Self::NameServerFailed => "name_server_failed",
            Self::AddressRefused => "address_refused",
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectionReset => "connection_reset",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::CutShort => "cut_short",
            Self::Protocol => "protocol",
            Self::Flood => "flood",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_says_that_it_is_not_followed() {
        let told = |status| {
            AttemptResult::Answered(Answer {
                status,
                retry_after: None,
                body: Bytes::new(),
            })
            .to_string()
        };
        assert_eq!(told(302), "status 302: redirects are not followed");
        assert_eq!(told(304), "status 304");
        assert_eq!(told(500), "status 500");
    }
}
