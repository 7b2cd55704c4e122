//! What every request gets: an id, one log line, one duration in the metrics and, if it fails, the body of
//! its problem.
//!
//! The log line contains no body, no API key except its id, no query, and no path except the route's
//! template, because all of these may contain customers' data.

use std::time::{Duration, Instant};

use axum::{
    body::Body,
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};

use runtime::Lasting;

use crate::{
    caller::Caller,
    meters,
    problem::{self, Problem},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ID_CHARS_MAX: usize = 128;

/// The condition that requests are answered with 503 because the broker or the database is unavailable. It is
/// logged once for many such requests.
static UNAVAILABLE: Lasting = Lasting::new();

/// The outermost layer.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id(&request);
    let method = method(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    let problem = finish(&mut response, &id);
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let line = Line {
        method,
        route,
        status: response.status(),
        duration: began.elapsed(),
        id: &id,
        caller: response.extensions().get::<Caller>(),
    };
    line.tell(problem.as_ref());
    response
}

/// Returns the client's request id, if it is suitable for a header and a log, or a new one.
fn request_id(request: &Request) -> String {
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fits = |id: &&str| (1..=ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(allowed);
    given.filter(fits).map_or_else(
        || format!("req_{}", hex::encode(rand::random::<[u8; 16]>())),
        str::to_owned,
    )
}

/// Returns the method as one of a closed set of names, because it becomes a metric label.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Adds the request's id to the response and, if it is an error, the body of its problem.
fn finish(response: &mut Response, id: &str) -> Option<Problem> {
    let value = HeaderValue::from_str(id).expect("both kinds of ids are visible ASCII");
    response.headers_mut().insert(REQUEST_ID, value);
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return None;
    }
    let ours = response.extensions_mut().remove::<Problem>();
    let problem = ours.unwrap_or_else(|| Problem::of_status(status));
    *response.status_mut() = problem.kind().status();
    let body = problem.body(id);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, problem::CONTENT_TYPE);
    headers.insert(header::CONTENT_LENGTH, body.len().into());
    for (name, value) in problem.headers() {
        headers.insert(name.clone(), value.clone());
    }
    *response.body_mut() = Body::from(body);
    Some(problem)
}

struct Line<'a> {
    method: &'static str,
    route: &'a str,
    status: StatusCode,
    duration: Duration,
    id: &'a str,
    caller: Option<&'a Caller>,
}

impl Line<'_> {
    fn tell(&self, problem: Option<&Problem>) {
        let status = self.status.as_u16();
        meters::REQUEST_DURATION
            .durations([self.method, self.route, class(status)])
            .record(self.duration);
        tracing::info!(
            http.method = self.method,
            http.route = self.route,
            http.status = status,
            duration_ms = self.duration.as_micros() as f64 / 1000.0,
            request.id = self.id,
            api_key.id = self.caller.map(|caller| tracing::field::display(&caller.key.id)),
            organization.id = self
                .caller
                .and_then(|caller| caller.organization.as_ref())
                .map(tracing::field::display),
            "request answered"
        );
        let Some(cause) = problem.and_then(Problem::cause) else {
            if self.status.is_success() && self.caller.is_some() {
                UNAVAILABLE.end();
            }
            return;
        };
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(
                request.id = self.id,
                error = cause,
                "a request failed with an internal error"
            );
        } else if let Some(report) = UNAVAILABLE.again() {
            tracing::warn!(
                request.id = self.id,
                error = cause,
                requests = report.times,
                "requests are answered with 503, because the broker or the database is unavailable"
            );
        }
    }
}

const fn class(status: u16) -> &'static str {
    match status {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_taken_when_it_is_fit_for_a_log() {
        let of = |given: &str| {
            let request = Request::builder().header("x-request-id", given);
            request_id(&request.body(Body::empty()).unwrap())
        };
        assert_eq!(of("3f2b-A_7.x"), "3f2b-A_7.x");
        for bad in ["", "a b", "a\"b", "é", &"x".repeat(129)] {
            let id = of(bad);
            assert!(id.starts_with("req_") && id.len() == 36, "{bad}: {id}");
        }
    }
}
