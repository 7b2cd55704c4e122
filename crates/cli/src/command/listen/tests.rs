//! Tests over real sockets, with requests that are signed as a worker signs them.

use std::sync::Mutex;

use signature::{SIGNATURE_HEADER, Secret, SigningKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BODY: &str = r#"{"event":"lead.created","lead_id":"lead_1","b":1.50,"a":[],"data":{"x":"a, \"{b}"}}"#;

struct Served {
    addr: SocketAddr,
    receiver: Arc<Receiver>,
    printed: Arc<Mutex<Vec<String>>>,
    serving: tokio::task::JoinHandle<()>,
}

async fn served(fail: &str, fail_each: bool, count: Option<u64>) -> Served {
    let answers = fail
        .split(',')
        .filter(|text| !text.is_empty())
        .map(|text| text.parse().unwrap());
    let printed = Arc::new(Mutex::new(Vec::new()));
    let print = Arc::clone(&printed);
    let receiver = Arc::new(Receiver {
        plan: Plan::new(answers.collect(), fail_each),
        forward: None,
        seen: Seen::default(),
        json: true,
        compact: false,
        count,
        received: AtomicU64::new(0),
        verified: AtomicU64::new(0),
        stop: CancellationToken::new(),
        done: CancellationToken::new(),
        closed: OnceLock::new(),
        print: Arc::new(move |text: &str| {
            print.lock().unwrap().push(text.to_owned());
            Ok(())
        }),
        printing: tokio::sync::Mutex::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let verifier = Arc::new(Verifier::new(&[Secret::parse(SECRET).unwrap()]));
    let serving = tokio::spawn(Arc::clone(&receiver).serve(listener, verifier));
    Served {
        addr,
        receiver,
        printed,
        serving,
    }
}

fn now_s() -> i64 {
    (runtime::now_ms() / 1000) as i64
}

fn headers(id: &str, signed_s: i64) -> Vec<(String, String)> {
    let key = SigningKey::new(&Secret::parse(SECRET).unwrap());
    [
        (SIGNATURE_HEADER, key.sign(BODY.as_bytes())),
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", signed_s.to_string()),
        (
            "webhook-signature",
            key.sign_standard(id, signed_s, BODY.as_bytes()),
        ),
        ("x-magnetite-attempt", "2".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// Posts a request and returns the complete answer; empty if the connection was closed instead.
async fn post(addr: SocketAddr, headers: &[(String, String)], body: &str) -> String {
    send(addr, "POST", headers, body).await
}

async fn send(addr: SocketAddr, method: &str, headers: &[(String, String)], body: &str) -> String {
    use std::fmt::Write as _;
    let mut request = format!("{method} /webhook?a=b HTTP/1.1\r\nhost: h\r\nconnection: close\r\n");
    for (name, value) in headers {
        let _ = write!(request, "{name}: {value}\r\n");
    }
    let _ = write!(request, "content-length: {}\r\n\r\n{body}", body.len());
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The receiver may refuse the request before it has read all of it.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .map_or(0, |status| status.parse().unwrap())
}

#[tokio::test]
async fn what_is_signed_right_is_printed_and_answered_with_200() {
    let served = served("", false, None).await;
    let answer = post(served.addr, &headers("evt_1", now_s()), BODY).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let printed = served.printed.lock().unwrap().join("\n");
    let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed["verified"], true);
    assert_eq!(printed["event_id"], "evt_1");
    assert_eq!(printed["attempt"], 2);
    assert_eq!(printed["path"], "/webhook?a=b");
    assert_eq!(printed["body"], BODY);
}

#[tokio::test]
async fn only_a_relay_suggests_that_its_secret_was_replaced() {
    let served = served("", false, None).await;
    let other = Secret::parse("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    let verifier = Verifier::new(&[other]);
    for (path, suggests) in [(webhook::RELAY_URL, true), ("/webhook", false)] {
        let mut signed = hyper::HeaderMap::new();
        for (name, value) in headers("evt_1", now_s()) {
            let name = hyper::header::HeaderName::from_bytes(name.as_bytes()).unwrap();
            signed.insert(name, value.parse().unwrap());
        }
        let request = request::Request {
            method: hyper::Method::POST,
            path: path.to_owned(),
            headers: signed,
            body: BODY.into(),
        };
        let given = served.receiver.answer(&verifier, request, Ok(())).await;
        let told = String::from_utf8_lossy(&given.body);
        assert!(told.starts_with("401 "), "{told}");
        assert_eq!(
            told.contains("start `magnetite listen` again"),
            suggests,
            "{told}"
        );
    }
}

#[tokio::test]
async fn each_signature_must_be_right() {
    let served = served("", false, None).await;
    let now_s = now_s();
    // The exact age depends on when the request is read.
    let too_old = "s ago, more than the tolerated 300 s";
    let mut cases = vec![
        (headers("evt_1", now_s - 400), BODY, too_old),
        (
            headers("evt_1", now_s),
            "{}",
            "x-magnetite-signature does not verify",
        ),
    ];
    for missing in [
        SIGNATURE_HEADER,
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    ] {
        let mut headers = headers("evt_1", now_s);
        headers.retain(|(name, _)| name != missing);
        cases.push((headers, BODY, missing));
    }
    let mut other_id = headers("evt_1", now_s);
    other_id[1].1 = "evt_2".to_owned();
    cases.push((other_id, BODY, "webhook-signature does not verify"));
    for (headers, body, why) in cases {
        let answer = post(served.addr, &headers, body).await;
        assert_eq!(status(&answer), 401, "{answer}");
        assert!(answer.contains(why), "{why}: {answer}");
    }
}

#[tokio::test]
async fn what_is_no_webhook_is_refused() {
    let served = served("", false, None).await;
    let answer = send(served.addr, "GET", &headers("evt_1", now_s()), "").await;
    assert_eq!(status(&answer), 405, "{answer}");
    let answer = post(served.addr, &[], &"x".repeat(1024 * 1024 + 1)).await;
    // The connection may be reset before the answer is read.
    assert!([413, 0].contains(&status(&answer)), "{answer}");
}

#[tokio::test]
async fn answers_are_given_in_turn_and_a_wrong_signature_uses_none_up() {
    let served = served("500,drop,410,ok", false, None).await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        assert_eq!(status(&post(served.addr, &[], BODY).await), 401);
        statuses.push(status(&post(served.addr, &headers("evt_1", now_s()), BODY).await));
    }
    assert_eq!(statuses, [500, 0, 410, 200, 200]);
}

#[tokio::test]
async fn answers_begin_anew_for_each_event() {
    let served = served("500", true, None).await;
    let mut statuses = Vec::new();
    for id in ["evt_1", "evt_2", "evt_1", "evt_2"] {
        statuses.push(status(&post(served.addr, &headers(id, now_s()), BODY).await));
    }
    assert_eq!(statuses, [500, 500, 200, 200]);
}

#[tokio::test]
async fn one_that_hangs_is_cut_off_at_the_end() {
    let served = served("hang", false, None).await;
    let (addr, headers) = (served.addr, headers("evt_1", now_s()));
    let hanging = tokio::spawn(async move { post(addr, &headers, BODY).await });
    while served
        .receiver
        .received
        .load(std::sync::atomic::Ordering::Relaxed)
        == 0
    {
        tokio::task::yield_now().await;
    }
    served.receiver.done.cancel();
    assert_eq!(hanging.await.unwrap(), "");
    served.serving.await.unwrap();
}

#[tokio::test]
async fn it_ends_after_so_many_verified_requests_and_answers_the_last() {
    let served = served("500", false, Some(2)).await;
    assert_eq!(
        status(&post(served.addr, &headers("evt_1", now_s()), BODY).await),
        500
    );
    assert_eq!(status(&post(served.addr, &[], BODY).await), 401);
    assert_eq!(
        status(&post(served.addr, &headers("evt_1", now_s()), BODY).await),
        200
    );
    served.serving.await.unwrap();
}

fn verdict(error: Option<&str>) -> verification::Verification {
    verification::Verification {
        verdict: error.map_or(verification::Word::Valid, |_| verification::Word::WrongSecret),
        why: error.map(str::to_owned),
    }
}

fn record(error: Option<&str>) -> request::Record {
    let text = |text: &str| Some(text.to_owned());
    request::Record {
        received_ms: 1_703_123_456_789,
        method: "POST".to_owned(),
        path: "/webhook".to_owned(),
        event: text("lead.created"),
        event_id: text("evt_1"),
        delivery: text("dlv_1"),
        attempt: Some(2),
        timestamp: Some(1_703_123_456_000),
        signed_s: Some(1_703_123_456),
        lead: text("lead_1"),
        headers: [
            ("x-magnetite-event", "lead.created"),
            ("webhook-id", "evt_1\u{1b}"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
        signatures: verification::Verdicts {
            contract: verdict(error),
            standard: verdict(None),
        },
        verified: error.is_none(),
        repeated: true,
        forward_error: None,
        error: error.map(str::to_owned),
        status: Some(200),
        body: BODY.to_owned(),
    }
}

#[test]
fn a_request_as_a_person_sees_it() {
    let ok = Answer::Status(hyper::StatusCode::OK);
    insta::assert_snapshot!("pretty", request::pretty(1, &record(None), ok, false));
    insta::assert_snapshot!(
        "compact",
        request::pretty(2, &record(Some("why\u{1b}[2J")), Answer::Hang, true)
    );
}

#[test]
fn a_request_as_a_program_sees_it() {
    insta::assert_snapshot!("json", output::json(&record(None)));
}
