//! Findings about the endpoint's answers.

use std::time::Duration;

use egress::{NOT_TLS, Reply};
use url::Url;
use webhook::{AttemptResult, Failure, FailureKind};

use super::{
    network_path::CERTIFICATE,
    remark::{Remark, span},
    test_request::TestRequest,
};

/// The time above which an answer probably waited for more than storing the event.
const SLOW: Duration = Duration::from_secs(1);
const QUICK: &str = "answer 200 as soon as the signature is verified, and process the event later: an attempt fails after 30 s";
const VERIFY: &str = "anyone who knows the URL can send it events: verify the signature of the raw body before anything else, and \
                      answer 401 (docs/receiving.md, \"Verify\")";
const ANSWER_401: &str = "answer 401 to a wrong signature: while a secret is rotated, a worker tries the other secret after a 401 or 403";

/// Returns the remark about one answer.
pub(super) fn remark(question: TestRequest, reply: &Reply, url: &Url) -> Remark {
    let what = question.name();
    let remark = match question {
        TestRequest::Good => good(what, reply, url),
        TestRequest::Repeated => repeated(what, reply),
        TestRequest::WrongSignature | TestRequest::OtherBody => forged(what, question, reply),
        TestRequest::Stale => stale(what, reply),
    };
    remark
        .with("status", reply.result.status())
        .took("first_byte_ms", reply.first_byte)
        .took("took_ms", Some(reply.took))
}

/// Formats an answer: `status 200, first byte after 12 ms`.
fn told(reply: &Reply) -> String {
    match (&reply.result, reply.first_byte) {
        (AttemptResult::Answered(answer), Some(first_byte)) => {
            format!("status {}, first byte after {}", answer.status, span(first_byte))
        }
        (result, _) => result.to_string(),
    }
}

/// Returns the remark about a 2xx answer, which may have been slow.
fn taken(what: &str, reply: &Reply) -> Remark {
    let detail = told(reply);
    if reply.took > SLOW {
        return Remark::advice(
            what,
            format!("{detail}, complete after {}", span(reply.took)),
            QUICK,
        );
    }
    Remark::ok(what, detail)
}

fn good(what: &str, reply: &Reply, url: &Url) -> Remark {
    let cure = match &reply.result {
        AttemptResult::Answered(answer) => match answer.status {
            200..=299 => return taken(what, reply),
            300..=399 => return redirected(what, reply, url),
            401 | 403 => {
                "the signature is correct: check that --secret is the endpoint's, and that the endpoint verifies the raw body, before it parses JSON"
            }
            404 | 405 => "check the path, and that it accepts POST",
            410 => "a 410 disables the endpoint: answer 410 only if it should receive no more events",
            429 => {
                "let these requests through: a worker sends one for each event, as fast as the endpoint answers"
            }
            500..=599 => "it failed while it processed the event: see its log",
            _ => "answer 200",
        },
        AttemptResult::Failed(failure) => reach(failure),
    };
    Remark::wrong(what, told(reply), cure)
}

/// Names the target of a redirect only by scheme and host, because the rest may contain a secret.
fn redirected(what: &str, reply: &Reply, url: &Url) -> Remark {
    let status = reply.result.status().unwrap_or_default();
    let target = reply
        .location
        .as_deref()
        .and_then(|location| url.join(location).ok());
    match target {
        Some(target) => {
            let at = target.origin().ascii_serialization();
            let cure = "register the URL that the redirect leads to; deliveries do not follow redirects";
            Remark::wrong(what, format!("status {status}: redirects to {at}"), cure).with("redirects_to", at)
        }
        None => Remark::wrong(
            what,
            format!("status {status}, without a usable Location"),
            "answer 200: anything but a 2xx is a failed attempt",
        ),
    }
}

fn reach(failure: &Failure) -> &'static str {
    match failure.kind {
        FailureKind::BadUrl => "correct the URL",
        FailureKind::NameNotFound => "check that the name is spelled correctly, and is in the public DNS",
        FailureKind::NameServerFailed => "repair the name servers of its domain: they fail or do not answer",
        FailureKind::AddressRefused => "give the endpoint a public address",
        FailureKind::ConnectionRefused => {
            "check that the server is running, and that this port is open to the internet"
        }
        FailureKind::ConnectionReset => {
            "it closed the connection: see its log, and check any proxy or firewall in front of it"
        }
        FailureKind::Tls if failure.detail.contains(NOT_TLS) => {
            "correct the port in the URL: https needs the server's TLS port, usually 443"
        }
        FailureKind::Tls if failure.detail.contains("certificate") => CERTIFICATE,
        FailureKind::Tls => "let it support TLS 1.2 or 1.3 without client certificates; its log says more",
        FailureKind::Timeout | FailureKind::CutShort => {
            "check whether a firewall blocks the connection; if not, answer 200 at once, and process the event later"
        }
        FailureKind::Protocol => "it has to speak HTTP/1.1 or HTTP/2 at this port",
        FailureKind::Flood => "it has to answer a request with one response, and not send data without end",
    }
}

fn repeated(what: &str, reply: &Reply) -> Remark {
    if reply.result.is_success() {
        return taken(what, reply);
    }
    Remark::wrong(
        what,
        told(reply),
        "answer 200 to a known webhook-id: an event can arrive twice, and would be retried until it is given up",
    )
}

fn forged(what: &str, question: TestRequest, reply: &Reply) -> Remark {
    let detail = told(reply);
    match reply.result.status() {
        Some(200..=299) if question == TestRequest::OtherBody => Remark::wrong(
            what,
            format!("{detail}: it accepts a body other than the signed one"),
            VERIFY,
        ),
        Some(200..=299) => Remark::wrong(what, format!("{detail}: it does not verify signatures"), VERIFY),
        Some(401 | 403) => Remark::ok(what, format!("{detail}, as it should")),
        _ => Remark::advice(what, detail, ANSWER_401),
    }
}

fn stale(what: &str, reply: &Reply) -> Remark {
    let detail = told(reply);
    match reply.result.status() {
        Some(200..=299) => Remark::advice(
            what,
            format!("{detail}: it accepts a webhook-timestamp of 10 minutes ago"),
            "Standard Webhooks asks receivers to refuse requests older than 5 minutes, so that a recorded request cannot be sent again. \
             An endpoint that does not check webhook-timestamp should store the webhook-id of every event and ignore repeated ones",
        ),
        Some(400..=499) => Remark::ok(what, format!("{detail}, as it should")),
        _ => Remark::advice(what, detail, "refuse it with 400 or 401"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use webhook::{Answer, Phase};

    use crate::command::checks::Status;

    use super::*;

    fn answered(status: u16, took_ms: u64) -> Reply {
        let took = Duration::from_millis(took_ms);
        Reply {
            result: AttemptResult::Answered(Answer {
                status,
                retry_after: None,
                body: Bytes::new(),
            }),
            first_byte: Some(took),
            took,
            location: None,
        }
    }

    fn failed(kind: FailureKind) -> Reply {
        Reply {
            result: AttemptResult::Failed(Failure {
                phase: Phase::Connect,
                kind,
                detail: "because".to_owned(),
            }),
            first_byte: None,
            ..answered(0, 5)
        }
    }

    fn judged(question: TestRequest, reply: &Reply) -> (Status, String) {
        let remark = remark(question, reply, &Url::parse("https://a.example/secret").unwrap());
        (remark.outcome(), remark.to_string())
    }

    #[test]
    fn each_answer_to_each_question_has_its_verdict() {
        use Status::{Fail, Ok, Warn};
        use TestRequest::{Good, OtherBody, Repeated, Stale, WrongSignature};
        for (question, status, took_ms, outcome, words) in [
            (Good, 200, 12, Ok, "status 200, first byte after 12 ms"),
            (Good, 204, 1_000, Ok, "204"),
            (Good, 200, 1_001, Warn, "answer 200 as soon as"),
            (Good, 302, 9, Fail, "without a usable Location"),
            (Good, 401, 9, Fail, "that --secret is the endpoint's"),
            (Good, 404, 9, Fail, "accepts POST"),
            (Good, 410, 9, Fail, "disables"),
            (Good, 418, 9, Fail, "answer 200"),
            (Good, 429, 9, Fail, "let these requests through"),
            (Good, 503, 9, Fail, "its log"),
            (Repeated, 200, 9, Ok, "200"),
            (Repeated, 200, 2_000, Warn, "complete after 2 s"),
            (Repeated, 409, 9, Fail, "known webhook-id"),
            (WrongSignature, 200, 9, Fail, "does not verify signatures"),
            (WrongSignature, 401, 9, Ok, "as it should"),
            (WrongSignature, 403, 9, Ok, "as it should"),
            (WrongSignature, 400, 9, Warn, "answer 401"),
            (WrongSignature, 500, 9, Warn, "answer 401"),
            (OtherBody, 200, 9, Fail, "other than the signed one"),
            (OtherBody, 401, 9, Ok, "as it should"),
            (Stale, 200, 9, Warn, "5 minutes"),
            (Stale, 400, 9, Ok, "as it should"),
            (Stale, 500, 9, Warn, "400 or 401"),
        ] {
            let (seen, text) = judged(question, &answered(status, took_ms));
            assert_eq!(seen, outcome, "{question:?} {status} {text}");
            assert!(text.contains(words), "{question:?} {status} {text}");
        }
    }

    #[test]
    fn who_does_not_answer_is_told_why_and_what_to_do() {
        for (kind, words) in [
            (FailureKind::NameNotFound, "spelled correctly"),
            (FailureKind::ConnectionRefused, "running"),
            (FailureKind::Tls, "certificate"),
            (FailureKind::Timeout, "firewall"),
        ] {
            let (outcome, text) = judged(TestRequest::Good, &failed(kind));
            assert_eq!(outcome, Status::Fail, "{text}");
            assert!(text.contains(words) && text.contains("because"), "{text}");
        }
        for (detail, words) in [
            (format!("a.example {NOT_TLS}"), "correct the port"),
            ("the certificate has expired".to_owned(), CERTIFICATE),
            ("no version in common".to_owned(), "TLS 1.2 or 1.3"),
        ] {
            let reply = Reply {
                result: AttemptResult::Failed(Failure {
                    phase: Phase::Tls,
                    kind: FailureKind::Tls,
                    detail,
                }),
                ..answered(0, 5)
            };
            let (_, text) = judged(TestRequest::Good, &reply);
            assert!(text.contains(words) && text.contains("  tls: "), "{text}");
        }
        for (question, outcome) in [
            (TestRequest::Repeated, Status::Fail),
            (TestRequest::WrongSignature, Status::Warn),
            (TestRequest::Stale, Status::Warn),
        ] {
            assert_eq!(judged(question, &failed(FailureKind::ConnectionReset)).0, outcome);
        }
    }

    #[test]
    fn a_redirect_is_told_by_scheme_and_host_alone() {
        for (location, at) in [
            ("https://b.example:8443/hidden?token=1", "https://b.example:8443"),
            ("/elsewhere", "https://a.example"),
        ] {
            let reply = Reply {
                location: Some(location.to_owned()),
                ..answered(308, 5)
            };
            let (outcome, text) = judged(TestRequest::Good, &reply);
            assert_eq!(outcome, Status::Fail);
            assert!(
                text.contains(at) && !text.contains("hidden") && !text.contains("elsewhere"),
                "{text}"
            );
        }
    }
}
