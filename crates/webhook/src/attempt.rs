//! The result of one request.
//!
//! An [`AttemptResult`] only describes what the endpoint did. A fault of this system (no file descriptor, no
//! route, no name server) is an error of the sending code, and is not counted against the endpoint.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr};

/// The maximum number of bytes that are read of a response's body. The client does not wait for the rest.
pub const RESPONSE_BODY_BYTES_MAX: usize = 16 * 1024;

/// What the endpoint did with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// The endpoint returned an HTTP response.
    Answered(Answer),
    /// The endpoint returned no HTTP response.
    Failed(Failure),
}

/// An HTTP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status code.
    pub status: u16,
    /// The `Retry-After` header as it was received; `None` if it is missing or not readable text.
    pub retry_after: Option<String>,
    /// The first [`RESPONSE_BODY_BYTES_MAX`] bytes of the body.
    pub body: Bytes,
}

/// The reason why there was no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The phase in which the request failed.
    pub phase: Phase,
    /// The kind of failure.
    pub kind: FailureKind,
    /// A description of the cause for people. It never contains the path or query of the endpoint's URL.
    pub detail: String,
}

/// The phases of a request, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Phase {
    /// Looking up the host's name.
    Resolve,
    /// Opening a TCP connection.
    Connect,
    /// Performing the TLS handshake.
    Tls,
    /// Writing the request.
    Send,
    /// Reading the response's headers and body.
    Response,
}

/// The closed set of ways in which an endpoint fails to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Display, EnumString, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FailureKind {
    /// The URL is not valid any more, although it was when the endpoint was registered.
    BadUrl,
    /// The host's name does not exist or has no address.
    NameNotFound,
    /// The authoritative name servers of the host's name fail or do not answer, while other names can be
    /// resolved.
    NameServerFailed,
    /// The host's address is not public, and the configuration does not allow it.
    AddressRefused,
    /// The connection could not be opened: most often nothing listens at the port, or a firewall or the
    /// network rejects the connection.
    ConnectionRefused,
    /// The connection was closed before the response was complete.
    ConnectionReset,
    /// The TLS handshake failed; most often the certificate is not valid for the host.
    Tls,
    /// The deadline of the whole attempt passed.
    Timeout,
    /// The attempt was slow, and was ended before its deadline because its organization had the most slow
    /// attempts in flight.
    CutShort,
    /// The response is not valid HTTP.
    Protocol,
    /// The endpoint kept sending data without making progress with its response.
    Flood,
}

impl AttemptResult {
    /// Returns the HTTP status; `None` if there was no response.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answered(answer) => Some(answer.status),
            Self::Failed(_) => None,
        }
    }

    /// Returns whether the endpoint accepted the delivery: any 2xx.
    pub fn is_success(&self) -> bool {
        matches!(self.status(), Some(200..=299))
    }

    /// Returns whether a pause of the sending process may have caused this result.
    ///
    /// During a pause, the deadline may pass, or the other side may time out: it then closes the connection
    /// or the HTTP/2 stream, or answers 408.
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

    /// Returns whether the endpoint rejected the request as not authentic: 401, which the contract's samples
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
                // Users may expect that redirects are followed.
                if matches!(status, 301 | 302 | 303 | 307 | 308) {
                    f.write_str(": redirects are not followed")?;
                }
                Ok(())
            }
            Self::Failed(Failure {
                kind: FailureKind::Tls,
                phase: Phase::Tls,
                detail,
            }) => write!(f, "tls: {detail}"),
            Self::Failed(failure) => write!(f, "{} in {}: {}", failure.kind, failure.phase, failure.detail),
        }
    }
}

impl FailureKind {
    /// Returns the name in headers, logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
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
