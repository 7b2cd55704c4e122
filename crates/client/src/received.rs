//! Answers: reading them within bounds, and deciding what they are.

use std::time::Duration;

use reqwest::{
    Response, StatusCode, Upgraded,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use serde::de::DeserializeOwned;
use wire::Problem;

use crate::{
    error::{Call, Error},
    lines::Lines,
    websocket,
};

/// The maximum size of the body of a success, in bytes. The largest ones are histories of events with
/// thousands of attempts.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The maximum size of the body of an error, in bytes. What follows is not read.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// The number of bytes of an unexpected body that its error shows.
const EXCERPT_BYTES: usize = 500;

/// The status of a success without a body.
const NO_CONTENT: u16 = 204;
const WORKERS_BEHIND: &str = "magnetite-workers-behind";
/// The kind of problem with which the API refuses a request before it begins to work on it.
const OVERLOADED: &str = "overloaded";

/// A complete answer with a status of success.
#[derive(Debug)]
pub(crate) struct Received {
    call: Call,
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// How the reading of a body ended.
enum End {
    Whole,
    TooLong,
    Lost(reqwest::Error),
}

/// Reads an answer. `server` and `after`, the timeout of the try, are for the errors.
pub(crate) async fn read(
    mut response: Response,
    call: Call,
    server: &str,
    after: Duration,
) -> Result<Received, Error> {
    let status = response.status();
    let (is_success, status) = (status.is_success(), status.as_u16());
    let bytes_max = if is_success {
        BODY_BYTES_MAX
    } else {
        ERROR_BYTES_MAX
    };
    let (body, end) = bounded(&mut response, bytes_max).await;
    let headers = std::mem::take(response.headers_mut());
    let received = Received {
        call,
        status,
        headers,
        body,
    };
    match end {
        _ if !is_success => Err(received.refused()),
        End::Whole => Ok(received),
        End::TooLong => Err(received.unreadable(format!("its body has more than {BODY_BYTES_MAX} bytes"))),
        End::Lost(error) => Err(Error::lost(error, call, server, after)),
    }
}

/// Begins to read an answer that is a stream of lines. `server` and `after`, the timeout of the try, are for the
/// errors.
pub(crate) async fn open<T: DeserializeOwned>(
    response: Response,
    call: Call,
    server: &str,
    after: Duration,
) -> Result<Lines<T>, Error> {
    if response.status().is_success() && is_of_type(response.headers(), "application/x-ndjson") {
        return Ok(Lines::new(response, call, server.to_owned()));
    }
    let received = read(response, call, server, after).await?;
    Err(received.unexpected(call))
}

/// Takes over the connection of an answer that accepts a WebSocket. `key` is that of the request. `server` and
/// `after`, the timeout of the try, are for the errors.
pub(crate) async fn upgraded(
    response: Response,
    key: &HeaderValue,
    call: Call,
    server: &str,
    after: Duration,
) -> Result<Upgraded, Error> {
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let received = read(response, call, server, after).await?;
        return Err(received.unexpected(call));
    }
    if let Err(reason) = websocket::accepted(response.headers(), key) {
        let (status, reason) = (status.as_u16(), reason.to_owned());
        return Err(Error::Unreadable { call, status, reason });
    }
    let upgraded = response.upgrade().await;
    upgraded.map_err(|error| Error::lost(error, call, server, after))
}

async fn bounded(response: &mut Response, bytes_max: usize) -> (Vec<u8>, End) {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                let room = bytes_max - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if chunk.len() > room {
                    return (body, End::TooLong);
                }
            }
            Ok(None) => return (body, End::Whole),
            Err(error) => return (body, End::Lost(error)),
        }
    }
}

impl Received {
    /// Deserializes the body.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        if !self.is("application/json") {
            return Err(self.unexpected(self.call.unsure()));
        }
        let value = serde_json::from_slice(&self.body);
        value.map_err(|error| self.unreadable(format!("its body is not understood: {error}")))
    }

    /// Checks that this is the answer of an operation without a result. Any other success, such as a page with
    /// status 200, comes from a proxy.
    pub(crate) fn no_content(&self) -> Result<(), Error> {
        if self.status == NO_CONTENT {
            Ok(())
        } else {
            Err(self.unexpected(self.call.unsure()))
        }
    }

    /// Returns the workers that are not known to act on a change.
    pub(crate) fn workers_behind(&self) -> Vec<String> {
        let names = self
            .headers
            .get(WORKERS_BEHIND)
            .and_then(|names| names.to_str().ok());
        let names = names.into_iter().flat_map(|names| names.split(','));
        let names = names.map(str::trim).filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    }

    /// Returns the error for an answer whose body cannot be used.
    pub(crate) fn unreadable(&self, reason: impl Into<String>) -> Error {
        Error::Unreadable {
            call: self.call.unsure(),
            status: self.status,
            reason: reason.into(),
        }
    }

    /// Returns the error for an answer without a status of success.
    fn refused(&self) -> Error {
        let is_problem = self.is("application/problem+json");
        let problem = is_problem.then(|| serde_json::from_slice::<Problem>(&self.body));
        let Some(Ok(problem)) = problem else {
            return self.unexpected(self.after(None));
        };
        let problem = Problem {
            status: self.status,
            ..problem
        };
        Error::Api {
            call: self.after(Some(problem.name())),
            problem: Box::new(problem),
            retry_after: self.retry_after(),
        }
    }

    /// Returns the call after this error, given the kind of the problem. With a status of the client's
    /// errors, and with a redirect, nothing was done.
    fn after(&self, kind: Option<&str>) -> Call {
        match (self.status, kind) {
            (300..500, _) | (_, Some(OVERLOADED)) => self.call,
            _ => self.call.unsure(),
        }
    }

    fn unexpected(&self, call: Call) -> Error {
        let beginning = &self.body[..self.body.len().min(EXCERPT_BYTES)];
        Error::Unexpected {
            call,
            status: self.status,
            excerpt: String::from_utf8_lossy(beginning).escape_debug().to_string(),
            retry_after: self.retry_after(),
        }
    }

    /// Returns the wait in `Retry-After`, in seconds. The API sends no dates.
    fn retry_after(&self) -> Option<Duration> {
        let seconds = self.headers.get(RETRY_AFTER)?.to_str().ok()?;
        seconds.trim().parse().ok().map(Duration::from_secs)
    }

    /// Returns whether the body has this media type.
    fn is(&self, media_type: &str) -> bool {
        is_of_type(&self.headers, media_type)
    }
}

/// Returns whether the headers name this media type.
fn is_of_type(headers: &HeaderMap, media_type: &str) -> bool {
    let given = headers.get(CONTENT_TYPE).and_then(|given| given.to_str().ok());
    let essence = given
        .and_then(|given| given.split(';').next())
        .unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(media_type)
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderName;
    use wire::FieldError;

    use super::*;
    use crate::operation::Operation;

    fn received(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Received {
        let headers = headers
            .iter()
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        Received {
            call: Call::first(Operation::CREATE_ENDPOINT),
            status,
            headers: headers.collect(),
            body: body.as_bytes().to_vec(),
        }
    }

    fn problem(status: u16, kind: &str) -> Error {
        let body = format!(
            r#"{{"type":"urn:magnetite:problem:{kind}","title":"T","status":418,"detail":"D.","instance":"req_1",
                "errors":[{{"pointer":"/url","detail":"no host"}},{{"parameter":"limit","detail":"too high"}}]}}"#
        );
        let headers = [("content-type", "application/problem+json"), ("retry-after", "7")];
        received(status, &headers, &body).refused()
    }

    #[test]
    fn a_problem_is_kept_as_a_whole_with_the_status_of_the_answer() {
        let error = problem(422, "invalid-fields");
        let problem = error.problem().unwrap();
        assert_eq!((problem.name(), problem.status), ("invalid-fields", 422));
        assert_eq!(
            (
                problem.title.as_str(),
                problem.detail.as_str(),
                problem.instance.as_str()
            ),
            ("T", "D.", "req_1")
        );
        let limit = FieldError::of_parameter("limit", "too high");
        assert_eq!(problem.errors, [FieldError::at("/url", "no host"), limit]);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    }

    #[test]
    fn only_an_error_of_the_server_leaves_open_whether_it_was_done() {
        for (status, kind, maybe) in [
            (409, "conflict", false),
            (429, "rate-limited", false),
            (503, "overloaded", false),
            (503, "broker-unavailable", true),
            (503, "database-unavailable", true),
            (503, "timed-out", true),
            (500, "internal-error", true),
        ] {
            assert_eq!(problem(status, kind).may_have_been_carried_out(), maybe, "{kind}");
        }
    }

    #[test]
    fn another_answer_is_shown_in_part_and_escaped() {
        let page = format!("<html>\n\u{1b}[31m\u{202e}\"{}", "x".repeat(1000));
        for headers in [
            &[("content-type", "text/html")][..],
            &[("content-type", "application/problem+json")],
            &[],
        ] {
            let error = received(502, headers, &page).refused();
            let Error::Unexpected {
                status: 502, excerpt, ..
            } = &error
            else {
                panic!("{error:?}")
            };
            assert!(
                excerpt.starts_with("<html>\\n\\u{1b}[31m\\u{202e}\\\"xxx"),
                "{excerpt}"
            );
            assert!(excerpt.len() < EXCERPT_BYTES + 50, "{excerpt}");
            assert!(error.may_have_been_carried_out() && error.is_transient());
        }
        let page = received(200, &[("content-type", "text/html")], &page);
        for error in [
            page.json::<Problem>().unwrap_err(),
            page.no_content().unwrap_err(),
        ] {
            assert!(matches!(error, Error::Unexpected { status: 200, .. }), "{error}");
            assert!(error.may_have_been_carried_out() && !error.is_transient());
        }
        assert!(received(204, &[], "").no_content().is_ok());
    }

    #[test]
    fn a_success_that_is_cut_or_of_another_shape_is_unreadable() {
        let json = [("content-type", "Application/JSON; charset=utf-8")];
        for body in [
            "",
            "{",
            "{\"id\":\"evt_1\"",
            "{\"id\":7}",
            "{}",
            "{\"id\":\"evt_1\"} {",
        ] {
            let error = received(202, &json, body).json::<wire::Published>().unwrap_err();
            assert!(
                matches!(error, Error::Unreadable { status: 202, .. }),
                "{body}: {error}"
            );
            assert!(error.may_have_been_carried_out() && !error.is_transient());
        }
        let more = received(202, &json, "{\"id\":\"evt_1\",\"later\":null}");
        assert_eq!(more.json::<wire::Published>().unwrap().id, "evt_1");
    }

    #[test]
    fn only_whole_seconds_are_a_wait() {
        let wait = |value| received(503, &[("retry-after", value)], "").retry_after();
        assert_eq!(wait("0"), Some(Duration::ZERO));
        assert_eq!(wait(" 30 "), Some(Duration::from_secs(30)));
        for bad in [
            "",
            "-1",
            "1.5",
            "soon",
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "99999999999999999999",
        ] {
            assert_eq!(wait(bad), None, "{bad}");
        }
    }

    #[test]
    fn workers_are_named_in_a_header() {
        let named = |headers| received(204, headers, "").workers_behind();
        assert_eq!(named(&[]), <[&str; 0]>::default());
        assert_eq!(
            named(&[("magnetite-workers-behind", "5f1c, unknown")]),
            ["5f1c", "unknown"]
        );
    }
}
