//! The reasons why an operation failed.

use std::{error::Error as StdError, fmt, io, iter, time::Duration};

use wire::Problem;

use crate::operation::{Operation, Repeats};

/// A call of an operation: one or more tries to carry it out.
///
/// Formatted, it is the operation and, if there were several, the number of tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// The operation.
    pub operation: Operation,
    /// The number of requests that were sent, or that could not be sent.
    pub tries: u32,
    /// Whether any of the requests may have been carried out.
    pub maybe_done: bool,
}

/// The reason why an operation failed.
///
/// [`may_have_been_carried_out`](Self::may_have_been_carried_out) says whether the API may have done what was
/// requested nevertheless. The client has already repeated what is safe to repeat; see [`crate::Retries`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument cannot be sent.
    #[error("{call} was not sent: {reason}")]
    Invalid {
        /// The call.
        call: Call,
        /// Which argument is not valid, and what was expected.
        reason: String,
    },
    /// There was no connection to the API, or to the proxy before it, or its certificate was refused. The
    /// last try was not carried out.
    #[error("{}", unconnected(.call, .server, .source.as_ref()))]
    Connect {
        /// The call.
        call: Call,
        /// The scheme, host and port of the API.
        server: String,
        /// The cause.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The answer was not complete in time.
    #[error("{call}: no complete answer from {server} within {after:?}{next}", next = .call.next())]
    Timeout {
        /// The call.
        call: Call,
        /// The scheme, host and port of the API.
        server: String,
        /// How long the client waited in the last try.
        after: Duration,
    },
    /// The connection ended before the answer was complete.
    #[error("{call}: the connection to {server} ended before the answer was complete{next}", next = .call.next())]
    Broken {
        /// The call.
        call: Call,
        /// The scheme, host and port of the API.
        server: String,
        /// The cause.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The API answered with an error.
    #[error("{}", told(.call, .problem))]
    Api {
        /// The call.
        call: Call,
        /// The answer. [`Problem::name`] identifies the kind of error, `detail` says what to do, `errors`
        /// names the parts of the request that are not valid, and `instance` is the request's id in the
        /// operator's log.
        problem: Box<Problem>,
        /// The wait that the API asks for before the next try; `None` if it asks for none.
        retry_after: Option<Duration>,
    },
    /// The answer is not one of the API, for example a proxy's page.
    #[error(
        "{call}: the answer with status {status} is not one of the API{fate}; check the URL of the API and the proxies before it. The answer begins with \"{excerpt}\"",
        fate = .call.fate()
    )]
    Unexpected {
        /// The call.
        call: Call,
        /// The HTTP status.
        status: u16,
        /// The first 500 bytes of the body, with everything escaped that cannot be printed.
        excerpt: String,
        /// The wait that the answer asks for before the next try; `None` if it asks for none.
        retry_after: Option<Duration>,
    },
    /// The API answered with a success, but its body cannot be used.
    #[error(
        "{call}: answered with status {status}, but {reason}{fate}; check that the versions of this client and of the API fit together",
        fate = .call.fate()
    )]
    Unreadable {
        /// The call.
        call: Call,
        /// The HTTP status.
        status: u16,
        /// What is wrong with the body.
        reason: String,
    },
}

impl Call {
    pub(crate) const fn first(operation: Operation) -> Self {
        Self {
            operation,
            tries: 1,
            maybe_done: false,
        }
    }

    /// Returns the call with one more try.
    pub(crate) const fn again(self) -> Self {
        Self {
            tries: self.tries + 1,
            ..self
        }
    }

    /// Returns the call after a try that may have been carried out.
    pub(crate) const fn unsure(self) -> Self {
        Self {
            maybe_done: true,
            ..self
        }
    }

    /// Returns the end of a message: whether the operation may have been carried out, and what follows.
    fn fate(&self) -> &'static str {
        match (self.maybe_done, self.operation.repeats()) {
            _ if self.operation.is_read() => "",
            (false, _) => "; it was not carried out",
            (true, Repeats::Always) => "; it may have been carried out, and it is safe to send it again",
            (true, Repeats::Undone) => {
                "; it may have been carried out: find out whether it was before you send it again"
            }
        }
    }

    /// Returns the end of a message without other advice.
    fn next(&self) -> &'static str {
        if self.operation.is_read() {
            "; send it again later"
        } else {
            self.fate()
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operation.fmt(f)?;
        if self.tries > 1 {
            write!(f, ", tried {} times", self.tries)?;
        }
        Ok(())
    }
}

impl Error {
    pub(crate) fn invalid(operation: Operation, reason: impl Into<String>) -> Self {
        let call = Call {
            tries: 0,
            ..Call::first(operation)
        };
        Self::Invalid {
            call,
            reason: reason.into(),
        }
    }

    /// Returns the error for a try without a complete answer. The URL is removed from the cause, because it
    /// may contain ids.
    pub(crate) fn lost(error: reqwest::Error, call: Call, server: &str, after: Duration) -> Self {
        let server = server.to_owned();
        if error.is_builder() {
            Self::invalid(call.operation, "its URL is not valid, or too long")
        } else if error.is_connect() {
            let source = Box::new(error.without_url());
            Self::Connect { call, server, source }
        } else if error.is_timeout() {
            let call = call.unsure();
            Self::Timeout { call, server, after }
        } else {
            let (call, source) = (call.unsure(), Box::new(error.without_url()));
            Self::Broken { call, server, source }
        }
    }

    /// Returns the call that failed.
    pub const fn call(&self) -> &Call {
        match self {
            Self::Invalid { call, .. }
            | Self::Connect { call, .. }
            | Self::Timeout { call, .. }
            | Self::Broken { call, .. }
            | Self::Api { call, .. }
            | Self::Unexpected { call, .. }
            | Self::Unreadable { call, .. } => call,
        }
    }

    /// Returns the API's answer; `None` if the API did not answer with an error.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Api { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// Returns whether the API may have carried out the operation, in this or an earlier try.
    ///
    /// If this is false, nothing was done. If it is true, publishing, deleting and revoking again are safe.
    /// Before any other operation is sent again, find out whether it was carried out.
    pub const fn may_have_been_carried_out(&self) -> bool {
        self.call().maybe_done
    }

    /// Returns whether the call can be repeated without doing anything twice, if it fails for a reason that passes.
    pub fn is_safe_to_repeat(&self) -> bool {
        let call = self.call();
        !call.maybe_done || call.operation.repeats() == Repeats::Always
    }

    /// Returns whether the connection was refused, because nothing listens at the address of the API, or of the
    /// proxy before it.
    pub fn is_connection_refused(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if is_refused(source.as_ref()))
    }

    /// Returns whether the certificate of the API, or of the proxy before it, is not valid.
    pub fn is_certificate_invalid(&self) -> bool {
        let Self::Connect { source, .. } = self else {
            return false;
        };
        matches!(cause(source.as_ref()), Some(rustls::Error::InvalidCertificate(_)))
    }

    /// Returns whether the same call may succeed later, without any other change.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { source, .. } => !matches!(
                cause(source.as_ref()),
                Some(rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidMessage(_))
            ),
            Self::Timeout { .. } | Self::Broken { .. } => true,
            Self::Api { problem, .. } => matches!(problem.status, 429 | 503),
            Self::Unexpected { status, .. } => matches!(*status, 429 | 502..=504),
            Self::Invalid { .. } | Self::Unreadable { .. } => false,
        }
    }

    /// Returns the wait that the answer asks for before the next try; `None` if it asks for none.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Api { retry_after, .. } | Self::Unexpected { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Returns the message for a try without a connection.
fn unconnected(call: &Call, server: &str, source: &(dyn StdError + 'static)) -> String {
    let (what, advice) = match cause(source) {
        Some(rustls::Error::InvalidCertificate(_)) => (
            format!("no TLS connection to {server}"),
            "its certificate is valid and issued by an authority that the client trusts (see root_certificates)",
        ),
        // What the server sends is not TLS.
        Some(rustls::Error::InvalidMessage(_)) => (
            format!("no TLS connection, because {server} does not speak TLS"),
            "it begins with http:// if the API speaks plain HTTP there",
        ),
        Some(_) => (
            format!("no TLS connection to {server}"),
            "the server supports TLS 1.2 or 1.3",
        ),
        None if is_refused(source) => (
            format!("no connection: nothing listens at {server}, or at the proxy before it"),
            "the API is running",
        ),
        None => (
            format!("no connection to {server}"),
            "the API and the proxies before it are running",
        ),
    };
    let fate = call.fate();
    format!("{call}: {what}{fate}; check the URL of the API, and that {advice}")
}

fn is_refused(error: &(dyn StdError + 'static)) -> bool {
    let mut errors = causes(error).filter_map(|error| error.downcast_ref::<io::Error>());
    errors.any(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Returns the first cause of this type; `None` if there is none.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    causes(error).find_map(|error| error.downcast_ref())
}

/// Returns an error and its causes. The `source` of an I/O error is not the error that it wraps, so the wrapped error
/// is retrieved separately.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    iter::successors(Some(error), |&error: &&'a (dyn StdError + 'static)| {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped as &(dyn StdError + 'static)),
            None => error.source(),
        }
    })
}

/// Returns the message for an error of the API, which says what to do in `detail`.
fn told(call: &Call, problem: &Problem) -> String {
    let (title, detail) = (printable(&problem.title), printable(&problem.detail));
    let mut parts = vec![format!("{call}: {title} ({}): {detail}", problem.status)];
    parts.extend(problem.errors.iter().map(|error| {
        let place = error.pointer.as_deref().or(error.parameter.as_deref());
        let place = printable(place.unwrap_or_default());
        format!("{place}: {}.", printable(&error.detail))
    }));
    if problem.status >= 500 {
        // The detail may ask to send the request again, whatever the operation is.
        if call.operation.repeats() == Repeats::Undone {
            parts.push(format!("Note: {}.", call.fate().trim_start_matches("; ")));
        }
    } else if call.maybe_done {
        parts.push("An earlier try may have been carried out.".to_owned());
    }
    parts.push(format!("(request {})", printable(&problem.instance)));
    parts.join(" ")
}

/// Escapes what cannot be printed, such as the control sequences of terminals, but no quotation marks.
pub(crate) fn printable(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '"' | '\'' | '\\' => printed.push(char),
            char => printed.extend(char.escape_debug()),
        }
    }
    printed
}

#[cfg(test)]
mod tests {
    use wire::FieldError;

    use super::*;

    fn refused(call: Call, status: u16) -> Error {
        let problem = Problem {
            kind: "urn:magnetite:problem:invalid-fields".to_owned(),
            title: "Fields are not valid".to_owned(),
            status,
            detail: "Correct what `errors` names, \u{1b}[31mand send the request again.".to_owned(),
            instance: "req_1".to_owned(),
            errors: vec![FieldError::at("/url", "the URL has no host")],
        };
        Error::Api {
            call,
            problem: Box::new(problem),
            retry_after: None,
        }
    }

    #[test]
    fn a_message_names_the_operation_what_happened_and_what_to_do() {
        let create = Call::first(Operation::CREATE_ENDPOINT);
        assert_eq!(
            refused(create, 422).to_string(),
            "createEndpoint (POST /v1/endpoints): Fields are not valid (422): Correct what `errors` names, \
             \\u{1b}[31mand send the request again. /url: the URL has no host. (request req_1)"
        );
        let again = refused(create.unsure().again(), 422).to_string();
        assert!(again.contains("tried 2 times"), "{again}");
        assert!(
            again.contains("An earlier try may have been carried out."),
            "{again}"
        );
        let failed = refused(create.unsure(), 503).to_string();
        assert!(
            failed.contains(
                "Note: it may have been carried out: find out whether it was before you send it again."
            ),
            "{failed}"
        );
        let timeout = |operation| Error::Timeout {
            call: Call::first(operation).unsure(),
            server: "https://api.example".to_owned(),
            after: Duration::from_secs(30),
        };
        assert_eq!(
            timeout(Operation::CREATE_ENDPOINT).to_string(),
            "createEndpoint (POST /v1/endpoints): no complete answer from https://api.example within 30s; it may have been \
             carried out: find out whether it was before you send it again"
        );
        assert!(
            timeout(Operation::PUBLISH_EVENT)
                .to_string()
                .ends_with("it is safe to send it again")
        );
        assert!(
            timeout(Operation::GET_ENDPOINT)
                .to_string()
                .ends_with("send it again later")
        );
    }

    #[test]
    fn each_reason_for_which_there_is_no_connection_has_advice_of_its_own() {
        let tls = |error: rustls::Error| io::Error::other(io::Error::other(error));
        let certificate = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let no_tls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let version = rustls::Error::AlertReceived(rustls::AlertDescription::ProtocolVersion);
        let io = |kind: io::ErrorKind| io::Error::from(kind);
        let server = "https://api.example";
        for (source, expected, advice, is_transient) in [
            (
                tls(certificate),
                format!("no TLS connection to {server}"),
                "certificate",
                false,
            ),
            (
                tls(no_tls),
                format!("{server} does not speak TLS"),
                "begins with http://",
                false,
            ),
            (
                tls(version),
                format!("no TLS connection to {server}"),
                "TLS 1.2",
                true,
            ),
            (
                io(io::ErrorKind::ConnectionRefused),
                format!("nothing listens at {server}"),
                "the API is running",
                true,
            ),
            (
                io(io::ErrorKind::HostUnreachable),
                format!("no connection to {server}"),
                "proxies",
                true,
            ),
        ] {
            let error = Error::Connect {
                call: Call::first(Operation::PUBLISH_EVENT),
                server: server.to_owned(),
                source: Box::new(source),
            };
            let told = error.to_string();
            assert!(told.contains(&expected), "{told}");
            assert_eq!(told.contains("certificate"), advice == "certificate", "{told}");
            assert!(told.contains(advice), "{told}");
            assert_eq!(error.is_transient(), is_transient, "{told}");
            assert_eq!(error.is_certificate_invalid(), advice == "certificate", "{told}");
            assert_eq!(error.is_connection_refused(), told.contains("listens"), "{told}");
        }
    }

    #[test]
    fn an_invalid_argument_was_never_sent() {
        let error = Error::invalid(Operation::GET_EVENT, "the id is empty");
        assert_eq!(
            error.to_string(),
            "getEvent (GET /v1/events/{id}) was not sent: the id is empty"
        );
        assert!(!error.may_have_been_carried_out() && !error.is_transient());
        assert_eq!(error.call().tries, 0);
    }
}
