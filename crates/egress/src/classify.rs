//! Classification of the HTTP client's errors as failures of the endpoint or faults of ours.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use webhook::{Failure, FailureKind, Phase};

use crate::fault::Fault;
use crate::http1::RequiresHttp1;
use crate::lookup::LookupError;
use crate::meter::Flood;
use crate::policy::Refusal;
use crate::tls;

/// The maximum length of a failure's detail, in bytes. Parts of it can come from the endpoint, such as the
/// names in a certificate or a parser's message.
const DETAIL_BYTES_MAX: usize = 400;

/// What is known about a failed request besides the error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempted<'a> {
    pub(crate) host: &'a str,
    pub(crate) phase: Phase,
    /// The address that was connected to; `None` if the request failed before that.
    pub(crate) address: Option<IpAddr>,
    /// The response's status; `None` if the response's headers have not arrived.
    pub(crate) status: Option<u16>,
    /// The deadline of the whole attempt.
    pub(crate) limit: Duration,
}

/// Returns the failure for a URL or an address that the policy does not allow. It is found before any
/// connection is made.
pub(crate) fn refused(refusal: &Refusal) -> Failure {
    let kind = match refusal {
        Refusal::Address { .. } | Refusal::Resolved { .. } => FailureKind::AddressRefused,
        Refusal::NameNotFound { .. } => FailureKind::NameNotFound,
        _ => FailureKind::BadUrl,
    };
    failure(Phase::Resolve, kind, refusal.to_string())
}

/// Returns the failure for a valid URL that the HTTP client does not accept.
pub(crate) fn unusable() -> Failure {
    failure(
        Phase::Resolve,
        FailureKind::BadUrl,
        "no request can be made for the URL".to_owned(),
    )
}

/// Returns the failure for a host for which name servers do not answer, while they answer for other names.
pub(crate) fn name_server_failed(host: &str) -> Failure {
    failure(
        Phase::Resolve,
        FailureKind::NameServerFailed,
        format!(
            "the name servers of {host} fail or do not answer, while queries for other names are answered"
        ),
    )
}

/// Returns the failure for an address without a route, while other addresses have one.
pub(crate) fn no_route(host: &str, address: IpAddr) -> Failure {
    let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
    failure(
        Phase::Connect,
        FailureKind::ConnectionRefused,
        format!("there is no {family} route to {host} ({address}), while other addresses have a route"),
    )
}

/// Returns the failure of an attempt whose deadline has passed. During a lookup, this is a fault of the name
/// servers.
pub(crate) fn out_of_time(attempted: Attempted<'_>) -> Result<Failure, Fault> {
    let Attempted {
        host,
        phase,
        status,
        limit,
        ..
    } = attempted;
    let limit = limit.as_secs_f64();
    let detail = match phase {
        Phase::Resolve => {
            let source = Box::new(io::Error::from(io::ErrorKind::TimedOut));
            return Err(Fault::Resolver {
                host: host.to_owned(),
                source,
            });
        }
        Phase::Connect => format!("{host} did not accept the connection within {limit} s"),
        Phase::Tls => format!("{host} did not complete the TLS handshake within {limit} s"),
        Phase::Send | Phase::Response => match status {
            None => format!("{host} did not answer within {limit} s"),
            Some(status) => format!(
                "{host} answered with status {status}, but its response was not complete within {limit} s"
            ),
        },
    };
    Ok(failure(phase, FailureKind::Timeout, detail))
}

/// Returns the failure of an attempt that was ended before its deadline to make room for others. During a
/// lookup, this spends no attempt.
pub(crate) fn cut_short(attempted: Attempted<'_>, after: Duration) -> Result<Failure, Fault> {
    let limit = Duration::from_millis(after.as_millis() as u64 / 100 * 100);
    let mut failure = out_of_time(Attempted { limit, ..attempted })?;
    failure.kind = FailureKind::CutShort;
    failure.detail.push_str(
        "; the attempt was ended early because its organization had the most slow attempts in flight",
    );
    Ok(failure)
}

/// Classifies an error of the HTTP client.
pub(crate) fn failed(
    error: &(dyn Error + 'static),
    attempted: Attempted<'_>,
    has_route: impl Fn(IpAddr) -> bool,
) -> Result<Failure, Fault> {
    let causes = causes(error);
    match from_causes(&causes, attempted, has_route)? {
        Some(failure) => Ok(failure),
        None if find::<hyper::Error>(&causes).is_some_and(hyper::Error::is_timeout) => out_of_time(attempted),
        None => Ok(without_cause(&causes, attempted)),
    }
}

/// Returns whether this machine has run out of a resource, as opposed to an error of the network.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| {
        [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::EADDRNOTAVAIL,
            libc::EAGAIN,
        ]
        .contains(&code)
    })
}

/// Returns whether the connection ended where a body without a length may end.
pub(crate) fn is_end_of_stream(error: &hyper::Error) -> bool {
    causes(error)
        .iter()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

/// Returns an error and all its causes, outermost first. The `source` of an I/O error is not the error that
/// it wraps, so the wrapped error is retrieved separately.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut causes = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        causes.push(error);
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    causes
}

/// Classifies the error by its most specific known cause; returns `None` if no cause is known.
fn from_causes(
    causes: &[&(dyn Error + 'static)],
    attempted: Attempted<'_>,
    has_route: impl Fn(IpAddr) -> bool,
) -> Result<Option<Failure>, Fault> {
    let Attempted { host, phase, .. } = attempted;
    if let Some(error) = find::<LookupError>(causes) {
        return from_lookup(error, host).map(Some);
    }
    if let Some(flood) = find::<Flood>(causes) {
        // On a complete connection, a flood takes the place of a response, whether or not the request was
        // sent.
        let phase = if phase == Phase::Send {
            Phase::Response
        } else {
            phase
        };
        let detail = format!("{host} {flood}");
        return Ok(Some(failure(phase, FailureKind::Flood, detail)));
    }
    if let Some(error) = find::<RequiresHttp1>(causes) {
        let detail = format!("{host} {error}");
        return Ok(Some(failure(Phase::Response, FailureKind::Protocol, detail)));
    }
    if let Some(error) = find::<rustls::Error>(causes) {
        return Ok(Some(failure(phase, FailureKind::Tls, tls::explain(error, host))));
    }
    if let Some(error) = find::<hyper::Error>(causes).filter(|error| error.is_parse()) {
        let detail = if error.is_parse_too_large() {
            format!("the headers of {host}'s response are too many or too large")
        } else {
            format!("{host} did not answer with valid HTTP: {error}")
        };
        return Ok(Some(failure(Phase::Response, FailureKind::Protocol, detail)));
    }
    if let Some(error) = find::<io::Error>(causes) {
        return from_io(error, attempted, has_route).map(Some);
    }
    Ok(find::<hyper::Error>(causes)
        .filter(|error| is_early_end(error))
        .map(|_| {
            let detail = early_end(attempted, "closed the connection");
            failure(phase, FailureKind::ConnectionReset, detail)
        }))
}

/// Returns the innermost cause of a type.
fn find<'a, E: Error + 'static>(causes: &[&'a (dyn Error + 'static)]) -> Option<&'a E> {
    causes.iter().rev().find_map(|cause| cause.downcast_ref::<E>())
}

fn is_early_end(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_canceled() || error.is_closed()
}

fn from_lookup(error: &LookupError, host: &str) -> Result<Failure, Fault> {
    match error {
        LookupError::NotFound => Ok(refused(&Refusal::NameNotFound {
            host: host.to_owned(),
        })),
        LookupError::Refused(refusal) => Ok(refused(refusal)),
        LookupError::Unanswered(source) => Err(Fault::Resolver {
            host: host.to_owned(),
            source: Box::new(source.clone()),
        }),
    }
}

fn from_io(
    error: &io::Error,
    attempted: Attempted<'_>,
    has_route: impl Fn(IpAddr) -> bool,
) -> Result<Failure, Fault> {
    let Attempted {
        host, phase, address, ..
    } = attempted;
    if is_shortage(error) || error.raw_os_error() == Some(libc::EPERM) {
        return Err(Fault::Socket {
            host: host.to_owned(),
            source: copy(error),
        });
    }
    if is_unreachable(error) {
        // Routers and firewalls near the endpoint also send these ("host prohibited" is a common default). It
        // is our fault only if our own routing table has no route to the address.
        return match address {
            Some(address) if has_route(address) => {
                let detail =
                    format!("the network reports that {host} ({address}) cannot be reached: {error}");
                Ok(failure(phase, FailureKind::ConnectionRefused, detail))
            }
            _ => Err(Fault::NoRoute {
                host: host.to_owned(),
                source: copy(error),
            }),
        };
    }
    if error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none() {
        // The client's timeout for connecting is as long as the deadline, and may expire slightly earlier.
        return out_of_time(attempted);
    }
    Ok(from_io_kind(error, attempted))
}

fn from_io_kind(error: &io::Error, attempted: Attempted<'_>) -> Failure {
    use io::ErrorKind as E;
    let Attempted { host, phase, .. } = attempted;
    match error.kind() {
        E::ConnectionRefused => failure(
            phase,
            FailureKind::ConnectionRefused,
            format!("{host} refused the connection"),
        ),
        E::TimedOut => failure(
            phase,
            FailureKind::Timeout,
            format!("the connection to {host} timed out"),
        ),
        E::BrokenPipe => {
            let detail = format!("{host} closed the connection while the request was being sent");
            failure(Phase::Send, FailureKind::ConnectionReset, detail)
        }
        E::InvalidData | E::InvalidInput => failure(
            phase,
            FailureKind::Protocol,
            format!("{host} did not answer with valid HTTP: {error}"),
        ),
        _ if phase == Phase::Connect => {
            let detail = format!("cannot connect to {host}: {error}");
            failure(phase, FailureKind::ConnectionRefused, detail)
        }
        E::UnexpectedEof => {
            let detail = early_end(attempted, "closed the connection");
            failure(phase, FailureKind::ConnectionReset, detail)
        }
        _ => {
            let detail = format!("{}: {error}", early_end(attempted, "aborted the connection"));
            failure(phase, FailureKind::ConnectionReset, detail)
        }
    }
}

/// Describes how far the response had come when the endpoint ended the connection.
fn early_end(attempted: Attempted<'_>, ended: &str) -> String {
    let Attempted {
        host, phase, status, ..
    } = attempted;
    match status {
        Some(status) => {
            format!("{host} answered with status {status}, but {ended} before its response was complete")
        }
        None if phase == Phase::Tls => format!("{host} {ended} during the TLS handshake"),
        None => format!("{host} {ended} before it answered"),
    }
}

fn is_unreachable(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| {
        [
            libc::ENETUNREACH,
            libc::ENETDOWN,
            libc::EHOSTUNREACH,
            libc::EHOSTDOWN,
            libc::EACCES,
        ]
        .contains(&code)
    })
}

/// Returns the failure for an error without a known cause: an error of the client itself, or one of HTTP/2,
/// whose errors do not contain their causes.
fn without_cause(causes: &[&(dyn Error + 'static)], Attempted { host, phase, .. }: Attempted<'_>) -> Failure {
    let words = causes.last().map(ToString::to_string);
    let words = words.unwrap_or_else(|| "unknown".to_owned());
    failure(
        phase,
        FailureKind::Protocol,
        format!("the HTTP exchange with {host} failed: {words}"),
    )
}

fn failure(phase: Phase, kind: FailureKind, mut detail: String) -> Failure {
    detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
    Failure { phase, kind, detail }
}

/// Copies an I/O error, because the original is owned by the client's error.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTEMPTED: Attempted<'static> = Attempted {
        host: "hooks.example.com",
        phase: Phase::Connect,
        address: Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1))),
        status: None,
        limit: Duration::from_millis(1500),
    };

    fn errno(code: i32, routed: bool) -> Result<Failure, Fault> {
        // As the client wraps it.
        let error = io::Error::other(io::Error::from_raw_os_error(code));
        from_causes(&causes(&error), ATTEMPTED, |_| routed).map(|found| found.expect("a known cause"))
    }

    #[test]
    fn what_this_machine_ran_out_of_is_never_the_endpoints_fault() {
        for code in [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::EADDRNOTAVAIL,
            libc::EPERM,
        ] {
            assert!(
                matches!(errno(code, true), Err(Fault::Socket { .. })),
                "errno {code}"
            );
        }
    }

    #[test]
    fn no_way_to_the_endpoint_is_our_fault_only_if_our_routing_table_has_none() {
        for code in [
            libc::ENETUNREACH,
            libc::EHOSTUNREACH,
            libc::EHOSTDOWN,
            libc::EACCES,
        ] {
            assert!(
                matches!(errno(code, false), Err(Fault::NoRoute { .. })),
                "errno {code}"
            );
            let failure = errno(code, true).expect("the endpoint's");
            assert_eq!(failure.kind, FailureKind::ConnectionRefused, "errno {code}");
        }
    }

    #[test]
    fn what_the_endpoint_did_to_the_connection_is_its_own_fault() {
        for (code, kind) in [
            (libc::ECONNREFUSED, FailureKind::ConnectionRefused),
            (libc::ECONNRESET, FailureKind::ConnectionReset),
            (libc::ECONNABORTED, FailureKind::ConnectionReset),
            (libc::EPIPE, FailureKind::ConnectionReset),
            (libc::ETIMEDOUT, FailureKind::Timeout),
        ] {
            let phase = if code == libc::ECONNREFUSED {
                Phase::Connect
            } else {
                Phase::Response
            };
            let error = io::Error::from_raw_os_error(code);
            let failure =
                from_io(&error, Attempted { phase, ..ATTEMPTED }, |_| true).expect("the endpoint's");
            assert_eq!(failure.kind, kind, "errno {code}");
        }
    }

    #[test]
    fn the_clients_own_limit_for_connecting_is_told_as_the_deadline() {
        let error = io::Error::new(io::ErrorKind::TimedOut, "too long");
        let failure = from_io(&error, ATTEMPTED, |_| true).expect("the endpoint's");
        assert_eq!(
            failure.detail,
            "hooks.example.com did not accept the connection within 1.5 s"
        );
    }

    #[test]
    fn a_tls_error_is_found_under_two_io_errors() {
        let inner = io::Error::new(
            io::ErrorKind::InvalidData,
            rustls::Error::InvalidCertificate(rustls::CertificateError::Expired),
        );
        let error = io::Error::other(inner);
        let failure = from_causes(&causes(&error), ATTEMPTED, |_| true)
            .expect("not a fault")
            .expect("known");
        assert_eq!(failure.kind, FailureKind::Tls);
        assert_eq!(failure.detail, "the certificate of hooks.example.com has expired");
    }

    #[test]
    fn a_deadline_is_told_with_what_had_come_by_then() {
        let told = |phase, status| {
            let attempted = Attempted {
                phase,
                status,
                ..ATTEMPTED
            };
            out_of_time(attempted).expect("the endpoint's").detail
        };
        for (phase, status, words) in [
            (Phase::Connect, None, "did not accept the connection within 1.5 s"),
            (
                Phase::Tls,
                None,
                "did not complete the TLS handshake within 1.5 s",
            ),
            (Phase::Response, None, "did not answer within 1.5 s"),
            (
                Phase::Response,
                Some(200),
                "answered with status 200, but its response was not complete within 1.5 s",
            ),
        ] {
            assert_eq!(told(phase, status), format!("hooks.example.com {words}"));
        }
    }

    #[test]
    fn a_detail_is_cut_at_a_character() {
        let long = failure(Phase::Tls, FailureKind::Tls, "é".repeat(DETAIL_BYTES_MAX));
        assert_eq!(long.detail.len(), DETAIL_BYTES_MAX);
    }
}
