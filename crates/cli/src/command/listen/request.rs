//! One request: read, verified, printed, answered.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
    time::UNIX_EPOCH,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
};
use serde::Serialize;
use signature::{
    SIGNATURE_HEADER, Verifier, WEBHOOK_ID_HEADER, WEBHOOK_SIGNATURE_HEADER, WEBHOOK_TIMESTAMP_HEADER,
};
use tokio::task::spawn_blocking;
use webhook::RELAY_URL;

use crate::output::{self, printable};

use super::{
    Receiver,
    answer::Answer,
    verification::{Signed, Verdicts},
};

/// The maximum size of a body: four times that of the largest event.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The record of one request that is printed. `--json` prints exactly these fields.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    /// When the request was received, in Unix milliseconds.
    pub(super) received_ms: u64,
    pub(super) method: String,
    pub(super) path: String,
    /// `X-Magnetite-Event`.
    pub(super) event: Option<String>,
    /// `webhook-id`.
    pub(super) event_id: Option<String>,
    /// `X-Magnetite-Delivery`.
    pub(super) delivery: Option<String>,
    /// `X-Magnetite-Attempt`.
    pub(super) attempt: Option<u32>,
    /// `X-Magnetite-Timestamp`: when the event occurred, in Unix milliseconds.
    pub(super) timestamp: Option<u64>,
    /// `webhook-timestamp`: when the attempt was signed, in Unix seconds.
    pub(super) signed_s: Option<i64>,
    /// The body's `lead_id`.
    pub(super) lead: Option<String>,
    /// All headers, by their names in lower case.
    pub(super) headers: BTreeMap<String, String>,
    /// The results for both signatures.
    pub(super) signatures: Verdicts,
    pub(super) verified: bool,
    /// Why the request was not verified; null if it was.
    pub(super) error: Option<String>,
    /// Whether a verified request with this `webhook-id` was received before: a retry, or a duplicate.
    pub(super) repeated: bool,
    /// Why the application of `--forward` has not answered; absent if it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) forward_error: Option<String>,
    /// The status of the answer; `None` if none was given.
    pub(super) status: Option<u16>,
    /// The body as text; bytes that are not UTF-8 are replaced.
    pub(super) body: String,
}

/// The error that makes the server close the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("dropped, as --fail specifies")]
pub(super) struct Dropped;

/// The status with which a request is refused, and the reason.
pub(super) struct Refused {
    status: StatusCode,
    why: String,
}

/// A request, however it was received.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// The answer to a request.
pub(super) struct Given {
    pub(super) answer: Answer,
    /// The header `Retry-After`, if the application has sent one.
    pub(super) retry_after: Option<String>,
    /// The body, if a response is given.
    pub(super) body: Bytes,
}

impl Receiver {
    /// Answers a request that arrived over HTTP.
    pub(super) async fn answer_http(
        &self,
        verifier: &Verifier,
        request: hyper::Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Dropped> {
        let (parts, body) = request.into_parts();
        let (body, read) = read(body).await;
        let path = parts.uri.path_and_query();
        let request = Request {
            method: parts.method,
            path: path.map(ToString::to_string).unwrap_or_default(),
            headers: parts.headers,
            body,
        };
        give(self.answer(verifier, request, read).await).await
    }

    /// Verifies, forwards, prints and counts a request. `read` says whether all of it could be read.
    pub(super) async fn answer(
        &self,
        verifier: &Verifier,
        request: Request,
        read: Result<(), Refused>,
    ) -> Given {
        let received_ms = runtime::now_ms();
        let now_s = (received_ms / 1000) as i64;
        let signatures = Verdicts::of(verifier, &signed(&request.headers), &request.body, now_s);
        let checked = read
            .and_then(|()| check_method(&request.method))
            .and_then(|()| trusted(&signatures, request.path == RELAY_URL));
        let record = Record::of(&request, received_ms, signatures);
        let id = record.event_id.as_deref().unwrap_or_default();
        let before = checked.as_ref().map_or(0, |()| self.seen.before(id));
        let passed = match (&checked, &self.forward) {
            (Ok(()), Some(forward)) => Some(forward.pass(&request.headers, request.body).await),
            _ => None,
        };
        let (answer, error) = match (checked, &passed) {
            (Ok(()), Some(passed)) => (Answer::Status(passed.status), None),
            (Ok(()), None) => (self.plan.next(before), None),
            (Err(Refused { status, why }), _) => (Answer::Status(status), Some(why)),
        };
        let record = Record {
            verified: error.is_none(),
            error,
            repeated: before > 0,
            forward_error: passed.as_ref().and_then(|passed| passed.error.clone()),
            status: answer.status(),
            ..record
        };
        self.print(&record, answer).await;
        // What the application did not answer to a relay is requested again, while the relay exists.
        let is_repeated = record.path == RELAY_URL && record.forward_error.is_some();
        self.count(record.verified && !is_repeated);
        let why = record.error.as_ref().or(record.forward_error.as_ref());
        let passed = passed.filter(|passed| passed.error.is_none());
        let (retry_after, body) = passed.map_or_else(
            || (None, ours(answer, why)),
            |passed| (passed.retry_after, passed.body),
        );
        Given {
            answer,
            retry_after,
            body,
        }
    }

    /// Prints a request. The reader of standard output may have stopped, so that the write waits on a thread of its own.
    async fn print(&self, record: &Record, answer: Answer) {
        let _turn = self.printing.lock().await;
        let number = self.received.fetch_add(1, Ordering::Relaxed) + 1;
        let text = if self.json {
            output::json(record)
        } else {
            pretty(number, record, answer, self.compact)
        };
        let print = Arc::clone(&self.print);
        let printed = spawn_blocking(move || print(&text)).await;
        if let Ok(Err(closed)) = printed {
            // The first error is reported. Any error ends the receiver.
            let _ = self.closed.set(closed);
            self.done.cancel();
        }
    }

    /// Counts a request. When the limit is reached, connections are shut down gracefully, so that the answer is still
    /// sent.
    fn count(&self, counts: bool) {
        if !counts {
            return;
        }
        let verified = self.verified.fetch_add(1, Ordering::Relaxed) + 1;
        if self.count.is_some_and(|count| verified >= count) {
            self.done.cancel();
        }
    }
}

impl Record {
    /// Returns the record of a request that was neither verified nor answered.
    fn of(request: &Request, received_ms: u64, signatures: Verdicts) -> Self {
        let headers = &request.headers;
        Self {
            received_ms,
            method: request.method.to_string(),
            path: request.path.clone(),
            event: text(headers, "x-magnetite-event"),
            event_id: text(headers, WEBHOOK_ID_HEADER),
            delivery: text(headers, "x-magnetite-delivery"),
            attempt: text(headers, "x-magnetite-attempt").and_then(|text| text.parse().ok()),
            timestamp: text(headers, "x-magnetite-timestamp").and_then(|text| text.parse().ok()),
            signed_s: text(headers, WEBHOOK_TIMESTAMP_HEADER).and_then(|text| text.parse().ok()),
            lead: lead(&request.body),
            headers: all(headers),
            signatures,
            verified: false,
            error: None,
            repeated: false,
            forward_error: None,
            status: None,
            body: String::from_utf8_lossy(&request.body).into_owned(),
        }
    }
}

async fn read(body: Incoming) -> (Bytes, Result<(), Refused>) {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => (body.to_bytes(), Ok(())),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let why = format!("the body has more than {BODY_BYTES_MAX} bytes");
            (
                Bytes::new(),
                Err(Refused {
                    status: StatusCode::PAYLOAD_TOO_LARGE,
                    why,
                }),
            )
        }
        Err(error) => {
            let why = format!("the body is incomplete: {error}");
            (
                Bytes::new(),
                Err(Refused {
                    status: StatusCode::BAD_REQUEST,
                    why,
                }),
            )
        }
    }
}

fn check_method(method: &Method) -> Result<(), Refused> {
    if method == Method::POST {
        return Ok(());
    }
    let why = format!("webhooks are sent by POST, not {method}");
    Err(Refused {
        status: StatusCode::METHOD_NOT_ALLOWED,
        why,
    })
}

/// Checks the signatures. The secret of a relay is that of the time when the command opened it.
fn trusted(signatures: &Verdicts, is_relay: bool) -> Result<(), Refused> {
    let Some(why) = signatures.error() else {
        return Ok(());
    };
    let why = if is_relay && signatures.is_secret_wrong() {
        format!("{why}; or the endpoint's secret was replaced: start `magnetite listen` again")
    } else {
        why.to_owned()
    };
    Err(Refused {
        status: StatusCode::UNAUTHORIZED,
        why,
    })
}

fn signed(headers: &HeaderMap) -> Signed {
    Signed {
        contract: text(headers, SIGNATURE_HEADER),
        id: text(headers, WEBHOOK_ID_HEADER),
        timestamp: text(headers, WEBHOOK_TIMESTAMP_HEADER),
        standard: text(headers, WEBHOOK_SIGNATURE_HEADER),
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// Returns all headers. Of several with the same name, the last one is kept.
fn all(headers: &HeaderMap) -> BTreeMap<String, String> {
    let value = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, text)| (name.to_string(), value(text)))
        .collect()
}

fn lead(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(body.get("lead_id")?.as_str()?.to_owned())
}

/// Returns the body of an answer that is not the application's.
fn ours(answer: Answer, error: Option<&String>) -> Bytes {
    match (answer, error) {
        (Answer::Status(status), Some(error)) => format!("{status}: {error}\n").into(),
        (Answer::Status(status), None) => format!("{status}\n").into(),
        (Answer::Hang | Answer::Drop, _) => Bytes::new(),
    }
}

async fn give(given: Given) -> Result<Response<Full<Bytes>>, Dropped> {
    match given.answer {
        Answer::Hang => std::future::pending().await,
        Answer::Drop => Err(Dropped),
        Answer::Status(status) => {
            let mut response = Response::new(Full::new(given.body));
            *response.status_mut() = status;
            let headers = response.headers_mut();
            if status == StatusCode::METHOD_NOT_ALLOWED {
                headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
            }
            let retry_after = given.retry_after.as_deref().map(HeaderValue::from_str);
            if let Some(Ok(retry_after)) = retry_after {
                headers.insert(header::RETRY_AFTER, retry_after);
            }
            Ok(response)
        }
    }
}

/// Formats a request as several lines, for people.
pub(super) fn pretty(number: u64, record: &Record, answer: Answer, compact: bool) -> String {
    let or_dash = |field: &Option<String>| printable(field.as_deref().unwrap_or("-")).into_owned();
    let time = UNIX_EPOCH + std::time::Duration::from_millis(record.received_ms);
    let mut text = format!(
        "#{number}  {}  {} {}  {}",
        humantime::format_rfc3339_millis(time),
        record.method,
        printable(&record.path),
        or_dash(&record.event),
    );
    let attempt = record
        .attempt
        .map_or_else(|| "-".to_owned(), |attempt| attempt.to_string());
    let _ = write!(
        text,
        "\n    attempt {attempt}  event {}  delivery {}  lead {}",
        or_dash(&record.event_id),
        or_dash(&record.delivery),
        or_dash(&record.lead),
    );
    let verified = match &record.error {
        None if record.repeated => "verified, repeated: this webhook-id was received before".to_owned(),
        None => "verified".to_owned(),
        Some(error) => format!("NOT VERIFIED: {}", printable(error)),
    };
    for (name, signature) in [
        (SIGNATURE_HEADER, &record.signatures.contract),
        (WEBHOOK_SIGNATURE_HEADER, &record.signatures.standard),
    ] {
        let _ = write!(text, "\n    {name}: {}", signature.verdict);
    }
    let _ = write!(text, "\n    {verified}; {answer}");
    if let Some(error) = &record.forward_error {
        let _ = write!(text, "\n    {}", printable(error));
    }
    if !compact {
        for (name, value) in &record.headers {
            let _ = write!(text, "\n    {}: {}", printable(name), printable(value));
        }
    }
    for line in body(&record.body, compact).lines() {
        let _ = write!(text, "\n    {}", printable(line));
    }
    text
}

/// Indents JSON. Anything else, and everything with `--compact`, is left unchanged.
fn body(body: &str, compact: bool) -> String {
    if compact || serde_json::from_str::<serde::de::IgnoredAny>(body).is_err() {
        return body.to_owned();
    }
    indented(body)
}

/// Indents JSON by changing only white space. The order of keys and the spelling of numbers are preserved.
fn indented(json: &str) -> String {
    let (mut text, mut depth, mut in_string, mut escaped) = (String::new(), 0_usize, false, false);
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        if in_string {
            text.push(c);
            (in_string, escaped) = (escaped || c != '"', !escaped && c == '\\');
            continue;
        }
        match c {
            '{' | '[' => {
                text.push(c);
                while chars.next_if(char::is_ascii_whitespace).is_some() {}
                if chars.peek().is_some_and(|c| matches!(c, '}' | ']')) {
                    continue;
                }
                depth += 1;
                new_line(&mut text, depth);
            }
            '}' | ']' => {
                if !text.ends_with(['{', '[']) {
                    depth = depth.saturating_sub(1);
                    new_line(&mut text, depth);
                }
                text.push(c);
            }
            ',' => {
                text.push(c);
                new_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => {
                in_string = c == '"';
                text.push(c);
            }
        }
    }
    text
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", depth));
}
