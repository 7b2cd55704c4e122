//! All hostilities, with the text that the dead letter has to contain.

use std::time::Duration;

use e2e::{Found, Hostility, Visit};

use super::deadline;

/// How much longer an attempt may take on a busy machine.
pub(crate) const SLACK: Duration = Duration::from_millis(800);
/// The limit on the bytes that a receiver can send. Unread bytes remain in the buffers of two sockets, which
/// Linux lets grow to some MiB.
const TAKEN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How the attempts at a receiver end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Immediately, long before the deadline.
    Soon,
    /// At the deadline.
    AtDeadline,
    /// Without the receiver noticing, because no client reaches it.
    Unseen,
}

/// The expected result for a hostility.
pub(crate) struct Row {
    pub(crate) hostility: Hostility,
    pub(crate) end: End,
    /// A part of the last error in the dead letter; `None` if the delivery succeeds.
    pub(crate) error: Option<&'static str>,
}

const fn row(hostility: Hostility, end: End, error: &'static str) -> Row {
    let error = Some(error);
    Row {
        hostility,
        end,
        error,
    }
}

/// Returns a row for a delivery that succeeds: a 2xx counts once 16 KiB of the body, or as much as was
/// announced, have been read.
const fn delivered(hostility: Hostility) -> Row {
    Row {
        hostility,
        end: End::Soon,
        error: None,
    }
}

/// All rows. `{s}` stands for the deadline in seconds.
pub(crate) const ROWS: [Row; 36] = {
    use End::{AtDeadline, Soon, Unseen};
    use Hostility as H;
    [
        row(
            H::NeverAnswers,
            AtDeadline,
            "timeout in response: 127.0.0.1 did not answer within {s} s",
        ),
        row(
            H::HeadByTheSecond,
            AtDeadline,
            "timeout in response: 127.0.0.1 did not answer within {s} s",
        ),
        row(
            H::BodyByTheSecond,
            AtDeadline,
            "timeout in response: 127.0.0.1 answered with status 200, but its response was not complete within {s} s",
        ),
        row(H::EndlessBody(500), Soon, "status 500"),
        delivered(H::EndlessBody(200)),
        row(
            H::EndlessHeaders,
            Soon,
            "protocol in response: the headers of 127.0.0.1's response are too many or too large",
        ),
        row(
            H::EndlessHeader,
            Soon,
            "protocol in response: the headers of 127.0.0.1's response are too many or too large",
        ),
        row(
            H::EndlessContinue,
            Soon,
            "flood in response: 127.0.0.1 sent more than 100 interim responses before its final response",
        ),
        row(
            H::SlowEarlyHints,
            AtDeadline,
            "timeout in response: 127.0.0.1 did not answer within {s} s",
        ),
        row(
            H::LengthTooLong,
            Soon,
            "connection_reset in response: 127.0.0.1 answered with status 200, but closed the connection before its \
             response was complete",
        ),
        row(
            H::LengthTooLongAndStays,
            AtDeadline,
            "timeout in response: 127.0.0.1 answered with status 200, but its response was not complete within {s} s",
        ),
        row(H::LengthTooShort(500), Soon, "status 500"),
        delivered(H::LengthTooShort(200)),
        row(
            H::LengthsDiffer,
            Soon,
            "protocol in response: 127.0.0.1 did not answer with valid HTTP: invalid content-length parsed",
        ),
        row(
            H::LengthNegative,
            Soon,
            "protocol in response: 127.0.0.1 did not answer with valid HTTP: invalid content-length parsed",
        ),
        row(
            H::Closes,
            Soon,
            "connection_reset in response: 127.0.0.1 closed the connection before it answered",
        ),
        row(
            H::ResetBefore,
            Soon,
            "connection_reset in response: 127.0.0.1 aborted the connection before it answered: Connection reset by peer",
        ),
        row(H::ResetWithin, Soon, "Connection reset by peer"),
        row(H::RedirectLoop, Soon, "status 302: redirects are not followed"),
        row(H::RedirectInward, Soon, "status 302: redirects are not followed"),
        row(H::GzipBomb(500), Soon, "status 500"),
        delivered(H::GzipBomb(200)),
        row(
            H::NotHttp,
            Soon,
            "protocol in response: 127.0.0.1 did not answer with valid HTTP: invalid HTTP version parsed",
        ),
        row(H::SwitchesProtocols, Soon, "status 101"),
        row(
            H::NeverAccepts,
            Unseen,
            "timeout in connect: 127.0.0.1 did not accept the connection within {s} s",
        ),
        row(
            H::NotListening,
            Unseen,
            "connection_refused in connect: 127.0.0.1 refused the connection",
        ),
        row(
            H::SelfSigned,
            Soon,
            "tls: the certificate of 127.0.0.1 is self-signed",
        ),
        row(
            H::UnknownAuthority,
            Soon,
            "tls: the certificate of 127.0.0.1 is self-signed, or its issuer is unknown",
        ),
        row(H::Expired, Soon, "tls: the certificate of 127.0.0.1 has expired"),
        row(
            H::NotYetValid,
            Soon,
            "tls: the certificate of 127.0.0.1 is not valid yet",
        ),
        row(
            H::WrongHost,
            Soon,
            "tls: the certificate is not valid for 127.0.0.1, only for",
        ),
        row(
            H::HandshakeStalls,
            AtDeadline,
            "timeout in tls: 127.0.0.1 did not complete the TLS handshake within {s} s",
        ),
        row(
            H::HandshakeCut,
            Soon,
            "connection_reset in tls: 127.0.0.1 closed the connection during the TLS handshake",
        ),
        row(
            H::NotTls,
            Soon,
            "tls: 127.0.0.1 does not speak TLS at this port; use the port for https",
        ),
        row(
            H::SilentHttp2,
            AtDeadline,
            "timeout in response: 127.0.0.1 did not answer within {s} s",
        ),
        row(
            H::EndlessHttp2Pings,
            Soon,
            "flood in response: 127.0.0.1 sent more than 4096 HTTP/2 frames before its response made progress",
        ),
    ]
};

impl Row {
    /// Describes everything in the dead letter that is not as expected.
    pub(crate) fn misses_in(&self, letter: &Found) -> Vec<String> {
        let expected = self
            .error
            .unwrap_or("no dead letter")
            .replace("{s}", &deadline().as_secs().to_string());
        let status = expected
            .strip_prefix("status ")
            .map_or("", |rest| rest.split(':').next().unwrap_or_default());
        let error = letter.header("magnetite-last-error");
        let mut misses = Vec::new();
        if !error.contains(&expected) {
            misses.push(format!("{}: {error:?} lacks {expected:?}", self.hostility));
        }
        for (name, value) in [
            ("magnetite-reason", "exhausted"),
            ("magnetite-attempts", "2"),
            ("magnetite-last-status", status),
        ] {
            if letter.header(name) != value {
                let found = letter.header(name);
                misses.push(format!("{}: {name} is {found:?}, not {value:?}", self.hostility));
            }
        }
        misses
    }

    /// Describes everything about an attempt, as the receiver saw it, that is not as expected.
    pub(crate) fn misses_of(&self, visit: &Visit) -> Vec<String> {
        let (took, received) = (visit.took(), visit.received.to_lowercase());
        // The receiver's clock starts when it accepts the connection, and the deadline's clock starts
        // earlier.
        let in_time = match self.end {
            End::AtDeadline => deadline().saturating_sub(SLACK)..=deadline() + SLACK,
            End::Soon | End::Unseen => Duration::ZERO..=SLACK,
        };
        let is_untrusted = matches!(
            self.hostility,
            Hostility::SelfSigned
                | Hostility::UnknownAuthority
                | Hostility::Expired
                | Hostility::NotYetValid
                | Hostility::WrongHost
        );
        let misses = [
            (!in_time.contains(&took), format!("took {took:?}")),
            (
                received.contains("accept-encoding"),
                "asks for compression".to_owned(),
            ),
            (
                is_untrusted && !received.is_empty(),
                "sends to whom it does not trust".to_owned(),
            ),
            (
                visit.sent_bytes >= TAKEN_BYTES_MAX,
                format!("takes {} bytes", visit.sent_bytes),
            ),
        ];
        let misses = misses.into_iter().filter(|(is_missed, _)| *is_missed);
        misses
            .map(|(_, what)| format!("{}: an attempt {what}", self.hostility))
            .collect()
    }
}
