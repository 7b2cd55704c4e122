//! Requests that no receiver may process.

use super::{
    program::Scheme,
    request::{Request, now_s},
};

/// The size of the largest event, in bytes.
pub(crate) const BODY_BYTES_MAX: usize = 256 * 1024;

/// A request, and the statuses that are a correct answer to it.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) request: Request,
    pub(crate) statuses: &'static [Option<u16>],
}

const UNAUTHORIZED: &[Option<u16>] = &[Some(401)];
const MALFORMED: &[Option<u16>] = &[Some(400)];
/// A receiver that closes the connection while the client is still sending may cut off its own answer.
/// Werkzeug truncates chunked bodies at the limit, and the truncated body fails verification.
const TOO_LARGE: &[Option<u16>] = &[Some(413), Some(401), None];
const NOT_A_POST: &[Option<u16>] = &[Some(405), Some(404)];

/// Returns all requests for a receiver with this scheme and this secret.
pub(crate) fn rows(scheme: Scheme, secret: &str, other_secret: &str, body: &[u8]) -> Vec<Row> {
    let signed = |body: &[u8]| Request::signed(secret, "evt_hostile", body);
    let good = || signed(body);
    let row = |what: &str, request, statuses| Row {
        what: what.to_owned(),
        request,
        statuses,
    };
    let mut rows = vec![
        row("a GET", good().method("GET"), NOT_A_POST),
        row("no body", good().body(b""), UNAUTHORIZED),
        row("another body", good().body(b"{}"), UNAUTHORIZED),
        row(
            "a stranger's",
            Request::signed(other_secret, "evt_hostile", body),
            UNAUTHORIZED,
        ),
        row("too large", signed(&vec![b' '; BODY_BYTES_MAX + 1]), TOO_LARGE),
        row(
            "too large, in chunks",
            signed(&vec![b' '; BODY_BYTES_MAX + 1]).chunked(),
            TOO_LARGE,
        ),
    ];
    for nonsense in [
        "",
        "not JSON",
        "{",
        "[]",
        "null",
        "1",
        "\"lead.created\"",
        "{}",
        "[1, 2",
    ] {
        rows.push(row(
            &format!("signed: {nonsense}"),
            signed(nonsense.as_bytes()),
            MALFORMED,
        ));
    }
    rows.push(row(
        "signed: no UTF-8",
        signed(b"{\"event\": \"\xff\""),
        &[Some(400), Some(401)],
    ));
    for (what, request) in match scheme {
        Scheme::Standard => standard(secret, &good(), body),
        Scheme::Simple => simple(&good()),
    } {
        rows.push(row(&what, request, UNAUTHORIZED));
    }
    rows
}

fn standard(secret: &str, good: &Request, body: &[u8]) -> Vec<(String, Request)> {
    let mut requests = Vec::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        requests.push((format!("no {name}"), good.clone().without(name)));
        requests.push((format!("an empty {name}"), good.clone().header(name, "")));
    }
    for off_s in [-310, 310, -86_400, 400_000_000] {
        let request = Request::at(now_s() + off_s, secret, "evt_hostile", body);
        requests.push((format!("signed {off_s} s from now"), request));
    }
    for time in [
        "now",
        "nan",
        "inf",
        "-1",
        "0",
        "1e99",
        "99999999999999999999999",
        "-9223372036854775808",
    ] {
        requests.push((
            format!("timestamp {time}"),
            good.clone().header("webhook-timestamp", time),
        ));
    }
    let right = good.value("webhook-signature");
    let bare = right.strip_prefix("v1,").unwrap();
    for wrong in [
        "v1",
        "v1,",
        ",",
        "v1,v1",
        "v1,AAAA",
        "v1,%%%",
        "v1,é",
        &format!("v2,{bare}"),
        bare,
        &format!("v1{bare}"),
        &right[..right.len() - 4],
        &"v1,AAAA ".repeat(500),
    ] {
        requests.push((
            format!("signature {wrong:.50}"),
            good.clone().header("webhook-signature", wrong),
        ));
    }
    requests.push((
        "another id".to_owned(),
        good.clone().header("webhook-id", "evt_other"),
    ));
    requests.push((
        "bytes".to_owned(),
        good.clone().header("webhook-signature", b"v1,\xff\xfe"),
    ));
    requests
}

fn simple(good: &Request) -> Vec<(String, Request)> {
    const NAME: &str = "x-magnetite-signature";
    let right = good.value(NAME);
    let bare = right.strip_prefix("sha256=").unwrap();
    let mut requests = vec![
        ("no signature".to_owned(), good.clone().without(NAME)),
        ("bytes".to_owned(), good.clone().header(NAME, b"sha256=\xff\xfe")),
    ];
    for wrong in [
        "",
        "sha256=",
        "sha256=ab",
        &format!("sha256={}", "z".repeat(64)),
        &format!("{right}00"),
        &right[..right.len() - 1],
        bare,
        &format!("sha1={bare}"),
        &format!("sha256={}", "0".repeat(64)),
        "sha256=é",
    ] {
        requests.push((format!("signature {wrong:?}"), good.clone().header(NAME, wrong)));
    }
    requests
}
