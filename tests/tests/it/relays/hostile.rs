//! Tests what the API does with programs that break the rules: of HTTP, of WebSockets, and of relays.

use std::time::{Duration, Instant};

use client::OpenRelay;
use e2e::{Installation, Receiver, SOON, event, wait_for, wait_until};
use serde_json::json;

use super::{
    Rig, client,
    frames::{BINARY, CLOSE, PING, PONG, Raw, TEXT, UPGRADE, masked, ok, unmasked},
    statuses,
};

/// The maximum size of a message of a program, in bytes.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// The time after which the API ends the connection of a program from which nothing arrives.
const SILENCE: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_not_connect_gets_a_problem_and_no_websocket() {
    let rig = Rig::new("relay-refused").await;
    let installation = &rig.installation;
    let relay = client(rig.api.url(), &rig.key)
        .open_relay(&OpenRelay::default())
        .await
        .unwrap();
    installation.keep_secret(&relay.secret.unwrap().0);
    let receiver = Receiver::ok().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let foreign = installation.key("org_2", "admin").await;
    let of_another = installation.key("org_1", "admin").await;
    let narrow = installation.key("org_1", "endpoints:read").await;
    let (id, key) = (relay.id.as_str(), rig.key.as_str());
    let without_key = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n";
    let old = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 8\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mgk = format!("{UPGRADE}cookie: key={key}\r\nsec-websocket-protocol: {key}\r\n");
    for (key, id, headers, expected) in [
        ("", id, UPGRADE, 401),
        ("", id, "", 401),
        // Only the header Authorization counts.
        ("", id, mgk.as_str(), 401),
        (&narrow, id, UPGRADE, 403),
        (&foreign, id, UPGRADE, 404),
        (&foreign, id, "", 404),
        (key, "ep_unknown", UPGRADE, 404),
        (key, "ep_unknown", "", 404),
        (&of_another, id, UPGRADE, 409),
        (key, &endpoint.id, UPGRADE, 409),
        (key, id, "", 426),
        (key, id, old, 426),
        (key, id, without_key, 400),
    ] {
        let (_, head) = Raw::requested(rig.api.url(), key, id, headers).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {expected} ")),
            "{expected} {headers:?}: {head}"
        );
        let head = head.to_lowercase();
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        assert_eq!(expected == 426, head.contains("upgrade: websocket"), "{head}");
    }
    // None of them has ended the relay.
    let mut raw = Raw::connected(rig.api.url(), key, id).await;
    rig.publish("lead_1").await;
    raw.accept().await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_can_be_given_no_url_and_no_endpoint_the_url_of_a_relay() {
    let rig = Rig::new("relay-url").await;
    let relay = client(rig.api.url(), &rig.key)
        .open_relay(&OpenRelay::default())
        .await
        .unwrap();
    rig.installation.keep_secret(&relay.secret.unwrap().0);
    let receiver = Receiver::ok().await;
    let endpoint = rig.installation.endpoint("org_1", &receiver.url()).await;
    let [of_relay, of_endpoint] = [&relay.id, &endpoint.id].map(|id| format!("/v1/endpoints/{id}"));
    for (method, path, url) in [
        ("PATCH", of_relay.as_str(), receiver.url()),
        ("PATCH", &of_endpoint, "relay:listen".to_owned()),
        ("POST", "/v1/endpoints", "relay:listen".to_owned()),
        ("POST", "/v1/endpoints", "RELAY:listen".to_owned()),
    ] {
        let body = json!({ "url": url }).to_string();
        let answered = rig.api.send(method, path, &rig.key, &[], body).await;
        assert_eq!(answered.status, 422, "{method} {path} {url}: {answered:?}");
    }
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_no_answer_ends_the_connection_and_says_why() {
    let rig = Rig::new("relay-frames").await;
    let (mut raw, id) = Raw::of(&rig).await;
    let text = |json: &str| masked(TEXT, json.as_bytes());
    let large = "x".repeat(MESSAGE_BYTES_MAX);
    let body = json!({ "request": "1", "status": 200, "body": large }).to_string();
    let fits = MESSAGE_BYTES_MAX - (body.len() - MESSAGE_BYTES_MAX);
    for (name, bytes, code) in [
        ("no JSON", text("request 1"), 1007),
        ("an array", text("[]"), 1007),
        ("no request", text(r#"{"status":200}"#), 1007),
        ("a number", text(r#"{"request":1,"status":200}"#), 1007),
        (
            "a status below 200",
            text(r#"{"request":"1","status":199}"#),
            1007,
        ),
        (
            "a status above 599",
            text(r#"{"request":"1","status":600}"#),
            1007,
        ),
        (
            "a long wait",
            text(&json!({ "request": "1", "status": 503, "retry_after": "9".repeat(129) }).to_string()),
            1007,
        ),
        (
            "no UTF-8",
            masked(TEXT, b"{\"request\":\"\xFF\",\"status\":200}"),
            1007,
        ),
        ("binary", masked(BINARY, br#"{"request":"1","status":200}"#), 1003),
        ("too large", text(&body), 1009),
        (
            "too large at once",
            masked(TEXT, &vec![b'x'; MESSAGE_BYTES_MAX + 1]),
            1009,
        ),
        (
            "unmasked",
            unmasked(TEXT, br#"{"request":"1","status":200}"#),
            1002,
        ),
        ("a reserved bit", masked(0xC1, b"{}"), 1002),
        ("an unknown kind", masked(0x83, b"{}"), 1002),
        ("a continuation of nothing", masked(0x80, b"{}"), 1002),
        ("a ping that is too large", masked(PING, &[0; 126]), 1002),
        ("a ping of two fragments", masked(0x09, b""), 1002),
    ] {
        raw.write(&bytes).await;
        let closed = raw.closed().await;
        let (given, reason) = closed.unwrap_or_else(|| panic!("{name}: no close frame"));
        assert_eq!(given, code, "{name}: {reason}");
        assert!(
            reason.len() > 10 && !reason.to_lowercase().contains("amqp"),
            "{name}: {reason}"
        );
        // The relay goes on, and the program can connect again at once.
        raw = Raw::connected(rig.api.url(), &rig.key, &id).await;
    }
    let largest = json!({ "request": "none", "status": 200, "body": "x".repeat(fits - 10) }).to_string();
    raw.send(TEXT, largest.as_bytes()).await;
    rig.publish("lead_1").await;
    raw.accept().await;
    rig.end().await;
}

/// A header of 10 bytes announces a message that is larger than the memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_announced_or_has_no_end_is_not_kept() {
    let rig = Rig::new("relay-endless").await;
    let (mut raw, id) = Raw::of(&rig).await;
    raw.write(&[
        TEXT, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4,
    ])
    .await;
    assert_eq!(raw.closed().await.map(|(code, _)| code), Some(1009));
    let mut raw = Raw::connected(rig.api.url(), &rig.key, &id).await;
    let before = rig.api.role.memory_max_mib();
    raw.send(0x01, b"{").await;
    for _ in 0..1024 {
        raw.send(0x00, &vec![b' '; 64 * 1024]).await;
    }
    let code = raw.closed().await.map(|(code, _)| code);
    // The close frame may be lost, because the program goes on to send.
    assert!(matches!(code, Some(1009) | None), "{code:?}");
    let grown = rig.api.role.memory_max_mib() - before;
    assert!(grown < 32, "{grown} MiB");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_in_fragments_twice_and_to_unknown_requests_do_no_harm() {
    let rig = Rig::new("relay-answers").await;
    let (mut raw, _) = Raw::of(&rig).await;
    let other_key = rig.installation.key("org_1", "endpoints:write").await;
    let (mut other, _) = Raw::with(&rig, &other_key).await;
    let id = rig.publish("lead_1").await;
    let request = raw.request().await;
    let of_other = other.request().await;
    // Each of them may only answer its own requests, whatever they are called.
    for guess in [
        "0",
        "00",
        "-1",
        "18446744073709551616",
        "",
        "\u{0}",
        "../1",
        &"9".repeat(10_000),
    ] {
        other.answer(&json!({ "request": guess, "status": 410 })).await;
    }
    let unknown = json!({ "request": "999999", "status": 410, "body": "x", "more": { "a": [1] } });
    raw.answer(&unknown).await;
    raw.send(PING, b"after them").await;
    while raw.read().await.unwrap().payload != b"after them" {}

    let answer = ok(&request).to_string();
    let (first, second) = answer.as_bytes().split_at(7);
    raw.send(0x01, first).await;
    raw.send(PONG, b"not asked for").await;
    raw.send(0x80, second).await;
    // The second answer is ignored.
    raw.answer(&json!({ "request": request["request"], "status": 410 }))
        .await;
    other
        .answer(&json!({ "request": of_other["request"], "status": 204 }))
        .await;
    other
        .answer(&json!({ "request": of_other["request"], "status": 410 }))
        .await;
    let path = format!("/v1/deliveries?event_id={id}&state=delivered");
    wait_for("both have accepted the event", SOON, || async {
        let listed = rig.api.get(&path, &rig.key).await;
        match listed.body["data"].as_array() {
            Some(both) if both.len() == 2 => Ok(()),
            _ => Err(format!("{listed:?}")),
        }
    })
    .await;
    // No 410 has disabled one of them.
    rig.publish("lead_2").await;
    assert_eq!(raw.accept().await["headers"]["x-magnetite-attempt"], "1");
    assert_eq!(other.accept().await["headers"]["x-magnetite-attempt"], "1");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_an_answer_fail_at_once_when_the_program_disconnects() {
    let rig = Rig::on(Installation::with_delays("relay-gone", &[500, 1000, 2000, 4000, 8000]).await).await;
    let (mut raw, id) = Raw::of(&rig).await;
    let event_id = rig.publish("lead_1").await;
    raw.request().await;
    let began = Instant::now();
    raw.send(CLOSE, &1000_u16.to_be_bytes()).await;
    drop(raw);
    let mut again = Raw::connected(rig.api.url(), &rig.key, &id).await;
    let request = again.accept().await;
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "the attempt did not end"
    );
    assert_ne!(request["headers"]["x-magnetite-attempt"], "1");
    let delivery = rig.delivery(&event_id, "delivered").await;
    let attempts = rig.attempts(&delivery).await;
    assert_eq!(statuses(&attempts).first(), Some(&0), "{attempts}");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_never_answers_pings_is_disconnected() {
    let rig = Rig::new("relay-silent").await;
    let (mut reads, _) = Raw::of(&rig).await;
    let key = rig.installation.key("org_1", "endpoints:write").await;
    let (reads_nothing, idle) = Raw::with(&rig, &key).await;
    let began = Instant::now();
    let (code, reason) = reads.closed().await.expect("it is told");
    assert!(
        began.elapsed() + Duration::from_secs(2) > SILENCE,
        "{:?}",
        began.elapsed()
    );
    assert!(code == 1002 && reason.contains("pings"), "{code} {reason}");
    // The other one keeps its socket open and reads nothing, and holds up no new connection.
    let mut again = Raw::connected(rig.api.url(), &key, &idle).await;
    assert!(began.elapsed() < 2 * SILENCE, "{:?}", began.elapsed());
    rig.publish("lead_1").await;
    again.accept().await;
    drop(reads_nothing);
    rig.end().await;
}

/// The buffers of the connection are full, and the API cannot even send a ping.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_reads_nothing_loses_its_place_to_the_next_connection() {
    const EVENTS: usize = 64;
    let rig = Rig::new("relay-full").await;
    let (full, id) = Raw::of(&rig).await;
    let text = format!(r#""data":{{"text":"{}","#, "x".repeat(240 * 1024));
    let events: Vec<_> = (0..EVENTS)
        .map(|number| event("org_1", &format!("lead_{number}")).replace(r#""data":{"#, &text))
        .collect();
    rig.installation.amqp().publish(&events).await;
    let began = Instant::now();
    let mut again = loop {
        let (raw, head) = Raw::requested(rig.api.url(), &rig.key, &id, UPGRADE).await;
        if head.starts_with("HTTP/1.1 101 ") {
            break raw;
        }
        // The API may have waited a moment less than the former connection took to end.
        assert!(
            head.starts_with("HTTP/1.1 503 ") && began.elapsed() < SOON,
            "{head}"
        );
    };
    rig.publish("lead_after").await;
    while !again.accept().await["body"]
        .as_str()
        .unwrap()
        .contains("lead_after")
    {}
    drop(full);
    rig.end().await;
}

/// A bad program must not keep the API from ending.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_ends_although_programs_are_connected() {
    let rig = Rig::new("relay-shutdown").await;
    let (mut told, _) = Raw::of(&rig).await;
    let key = rig.installation.key("org_1", "endpoints:write").await;
    let (silent, _) = Raw::with(&rig, &key).await;
    let began = Instant::now();
    assert!(rig.api.role.terminate().await);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(told.closed().await.map(|(code, _)| code), Some(1012));
    drop(silent);
    for role in [rig.worker, rig.recorder] {
        assert!(role.terminate().await);
    }
    rig.installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_answers_nothing_holds_up_only_its_own_events() {
    let rig = Rig::new("relay-unanswered").await;
    let (mut raw, _) = Raw::of(&rig).await;
    let healthy = Receiver::ok().await;
    rig.installation.endpoint("org_1", &healthy.url()).await;
    let events: Vec<_> = (0..200)
        .map(|number| event("org_1", &format!("lead_{number}")))
        .collect();
    rig.installation.amqp().publish(&events).await;
    wait_until("the healthy endpoint has all of them", SOON, || {
        healthy.accepted() == 200
    })
    .await;
    let request = raw.request().await;
    raw.answer(&ok(&request)).await;
    rig.end().await;
}
