//! Tests the connection of a relay with a peer that writes WebSocket frames byte by byte.

use std::time::{Duration, Instant};

use client::{Error, NotAnswered, OpenRelay, RelayAnswer, RelayClosed, RelayConnection};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::server::{Reply, Server, builder, key};

/// The first byte of a frame that is the only one of its message.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;
/// The time limit for what happens at once.
const SOON: Duration = Duration::from_secs(20);

/// The API's end of a connection.
struct Peer {
    stream: TcpStream,
    /// The head of the client's request.
    head: String,
}

impl Peer {
    /// Waits for a client, and accepts its handshake.
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = Self {
            stream,
            head: String::new(),
        };
        while !peer.head.ends_with("\r\n\r\n") {
            peer.head.push(char::from(peer.stream.read_u8().await.unwrap()));
        }
        let accept = derive_accept_key(peer.header("sec-websocket-key").as_bytes());
        peer.write(
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: {accept}\r\n\r\n"
            )
            .as_bytes(),
        )
        .await;
        peer
    }

    fn header(&self, name: &str) -> String {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(given, _)| given.eq_ignore_ascii_case(name));
        found
            .unwrap_or_else(|| panic!("{name}: {}", self.head))
            .1
            .to_owned()
    }

    async fn write(&mut self, bytes: &[u8]) {
        // An error means that the client has closed the connection.
        let _ = self.stream.write_all(bytes).await;
    }

    async fn send(&mut self, first: u8, payload: &[u8]) {
        self.write(&frame(first, payload)).await;
    }

    async fn request(&mut self, request: &str) {
        let json = format!(r#"{{"request":"{request}","headers":{{"webhook-id":"evt_1"}},"body":"{{ }}"}}"#);
        self.send(TEXT, json.as_bytes()).await;
    }

    async fn close(&mut self, code: u16, reason: &str) {
        let payload = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
        self.send(CLOSE, &payload).await;
    }

    /// Reads one frame of the client, which is masked. Returns its first byte and its payload; `None` at the end of the
    /// connection.
    async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let reading = async {
            let first = self.stream.read_u8().await.ok()?;
            let second = self.stream.read_u8().await.ok()?;
            assert_eq!(second & 0x80, 0x80, "a client masks its frames");
            let length = match second & 0x7F {
                126 => u64::from(self.stream.read_u16().await.ok()?),
                127 => self.stream.read_u64().await.ok()?,
                short => u64::from(short),
            };
            let mut mask = [0; 4];
            self.stream.read_exact(&mut mask).await.ok()?;
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut payload).await.ok()?;
            for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
                *byte ^= mask;
            }
            Some((first, payload))
        };
        timeout(SOON, reading).await.unwrap()
    }
}

/// Returns a frame with this first byte, without a mask.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let mut frame = vec![first];
    match length {
        0..=125 => frame.push(length as u8),
        126..=0xFFFF => {
            frame.push(126);
            frame.extend((length as u16).to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

async fn connected() -> (RelayConnection, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/webhooks", listener.local_addr().unwrap());
    let client = builder(&url).build().unwrap();
    let (connection, peer) = tokio::join!(client.connect_relay("ep_1"), Peer::accept(&listener));
    (connection.unwrap(), peer)
}

fn answer(request: &str, status: Option<u16>) -> RelayAnswer {
    RelayAnswer {
        request: request.to_owned(),
        status,
        retry_after: None,
        body: "OK".to_owned(),
    }
}

/// Waits for the end of the connection, and returns its reason.
async fn ended(connection: &mut RelayConnection) -> RelayClosed {
    let ended = timeout(SOON, connection.next()).await.unwrap();
    let closed = ended.unwrap_err();
    // The reason is returned once.
    assert!(matches!(connection.next().await, Ok(None)));
    closed
}

#[tokio::test]
async fn requests_arrive_in_order_and_answers_are_sent_from_other_tasks() {
    let (mut connection, mut peer) = connected().await;
    assert!(
        peer.head
            .starts_with("GET /webhooks/v1/relays/ep_1/connection HTTP/1.1\r\n"),
        "{}",
        peer.head
    );
    assert_eq!(peer.header("authorization"), format!("Bearer {}", key().expose()));
    assert_eq!(peer.header("sec-websocket-version"), "13");

    peer.request("1").await;
    let later = br#"{"request":"2","headers":{},"body":"\u00f6","attempt":{"number":1}}"#;
    peer.send(TEXT, later).await;
    let first = connection.next().await.unwrap().unwrap();
    assert_eq!((first.request.as_str(), first.body.as_str()), ("1", "{ }"));
    assert_eq!(first.headers["webhook-id"], "evt_1");
    let second = connection.next().await.unwrap().unwrap();
    assert_eq!((second.request.as_str(), second.body.as_str()), ("2", "ö"));

    let answers = connection.answers();
    let answering = tokio::spawn(async move { answers.answer(&answer("2", None)).await });
    answering.await.unwrap().unwrap();
    connection.answer(&answer("1", Some(200))).await.unwrap();
    let mut sent = Vec::new();
    for _ in 0..2 {
        let (first, payload) = peer.read().await.unwrap();
        assert_eq!(first, TEXT);
        sent.push(String::from_utf8(payload).unwrap());
    }
    assert_eq!(
        sent,
        [
            r#"{"request":"2","status":null,"body":"OK"}"#,
            r#"{"request":"1","status":200,"body":"OK"}"#
        ]
    );
}

#[tokio::test]
async fn a_message_in_fragments_is_one_request() {
    let (mut connection, mut peer) = connected().await;
    peer.send(0x01, br#"{"request":"1","hea"#).await;
    peer.send(PING, b"between").await;
    peer.send(0x00, br#"ders":{},"body":"a"#).await;
    peer.send(0x80, br#"b"}"#).await;
    let request = connection.next().await.unwrap().unwrap();
    assert_eq!((request.request.as_str(), request.body.as_str()), ("1", "ab"));
    assert_eq!(peer.read().await, Some((PONG, b"between".to_vec())));
}

#[tokio::test]
async fn a_program_that_takes_no_requests_answers_pings_and_loses_nothing() {
    // More than the connection keeps.
    const REQUESTS: usize = 500;
    let (mut connection, mut peer) = connected().await;
    for number in 0..10 {
        peer.request(&number.to_string()).await;
    }
    peer.send(PING, b"there?").await;
    assert_eq!(peer.read().await, Some((PONG, b"there?".to_vec())));
    let sending = tokio::spawn(async move {
        for number in 10..REQUESTS {
            peer.request(&number.to_string()).await;
        }
        peer
    });
    for number in 0..REQUESTS {
        let request = connection.next().await.unwrap().unwrap();
        assert_eq!(request.request, number.to_string());
    }
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn what_the_api_says_when_it_closes_the_connection_is_kept() {
    for (code, expected) in [
        (1012, "it is full; connect again"),
        (4000, "it is full; open another relay"),
        (4001, "it is full; use another API key"),
        (4002, "it is full; connect again, and take"),
        (1007, "with code 1007: it is full; check"),
    ] {
        let (mut connection, mut peer) = connected().await;
        peer.request("1").await;
        peer.close(code, "it is full").await;
        // What arrived before is returned first.
        assert!(connection.next().await.unwrap().is_some());
        let closed = ended(&mut connection).await;
        assert!(closed.to_string().contains(expected), "{closed}");
        let kind_fits = match code {
            1012 => matches!(closed, RelayClosed::Restart { .. }),
            4000 => matches!(closed, RelayClosed::Ended { .. }),
            4001 => matches!(closed, RelayClosed::KeyInvalid { .. }),
            4002 => matches!(closed, RelayClosed::TooSlow { .. }),
            _ => matches!(closed, RelayClosed::Refused { code: 1007, .. }),
        };
        assert!(kind_fits, "{code}: {closed:?}");
        let (first, payload) = peer.read().await.unwrap();
        assert_eq!((first, &payload[..2]), (CLOSE, &code.to_be_bytes()[..]));
        let error = connection.answer(&answer("1", Some(200))).await.unwrap_err();
        assert!(matches!(error, NotAnswered::Closed { .. }), "{error}");
    }
    let (mut connection, mut peer) = connected().await;
    peer.close(1000, "").await;
    assert!(matches!(connection.next().await, Ok(None)));
}

#[tokio::test]
async fn hostile_frames_end_the_connection() {
    let large = [&[TEXT, 127][..], &(5_u64 << 20).to_be_bytes()].concat();
    let huge = [&[TEXT, 127][..], &u64::MAX.to_be_bytes()].concat();
    let masked = [&[TEXT, 0x82, 1, 2, 3, 4][..], b"{}"].concat();
    for (name, bytes) in [
        ("binary", frame(BINARY, b"{}")),
        ("no JSON", frame(TEXT, b"request")),
        (
            "another object",
            frame(TEXT, br#"{"request":7,"headers":{},"body":""}"#),
        ),
        (
            "a field is missing",
            frame(TEXT, br#"{"request":"7","headers":{}}"#),
        ),
        ("no UTF-8", frame(TEXT, b"\"\xFF\"")),
        ("masked", masked),
        ("too large", large),
        ("an impossible length", huge),
        ("a reserved bit", frame(0xC1, b"{}")),
        ("an unknown kind", frame(0x83, b"{}")),
        ("a ping of two fragments", frame(0x09, b"")),
        ("a ping that is too large", frame(PING, &[0; 126])),
        ("a continuation of nothing", frame(0x80, b"{}")),
    ] {
        let (mut connection, mut peer) = connected().await;
        peer.write(&bytes).await;
        let closed = ended(&mut connection).await;
        assert!(
            matches!(closed, RelayClosed::Unreadable { .. }),
            "{name}: {closed:?}"
        );
        assert!(!closed.is_transient(), "{name}");
        // The client does not leave the connection open.
        while peer.read().await.is_some() {}
    }
}

/// Fragments that have no end must not use up the memory.
#[tokio::test]
async fn a_message_without_an_end_is_not_kept() {
    let (mut connection, mut peer) = connected().await;
    let piece = vec![b' '; 1 << 20];
    peer.send(0x01, &piece).await;
    let sending = tokio::spawn(async move {
        for _ in 0..64 {
            peer.send(0x00, &piece).await;
        }
    });
    let closed = ended(&mut connection).await;
    assert!(matches!(closed, RelayClosed::Unreadable { .. }), "{closed:?}");
    drop(connection);
    sending.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_breaks_is_told_from_one_that_is_closed() {
    let (mut connection, peer) = connected().await;
    drop(peer);
    let closed = ended(&mut connection).await;
    assert!(matches!(closed, RelayClosed::Lost { .. }), "{closed:?}");
    assert!(closed.is_transient());
}

#[tokio::test]
async fn a_connection_on_which_nothing_arrives_is_given_up() {
    let (mut connection, peer) = connected().await;
    let began = Instant::now();
    let closed = timeout(Duration::from_mins(1), connection.next()).await.unwrap();
    let closed = closed.unwrap_err();
    assert!(matches!(closed, RelayClosed::Silent { .. }), "{closed:?}");
    assert!(
        began.elapsed() >= Duration::from_secs(29),
        "{:?}",
        began.elapsed()
    );
    drop(peer);
}

#[tokio::test]
async fn closing_sends_the_answers_first() {
    let (connection, mut peer) = connected().await;
    for number in 0..50 {
        connection
            .answer(&answer(&number.to_string(), Some(200)))
            .await
            .unwrap();
    }
    let closing = tokio::spawn(connection.close());
    for number in 0..50 {
        let (first, payload) = peer.read().await.unwrap();
        let text = String::from_utf8(payload).unwrap();
        assert!(first == TEXT && text.contains(&format!("\"{number}\"")), "{text}");
    }
    assert_eq!(peer.read().await, Some((CLOSE, 1000_u16.to_be_bytes().to_vec())));
    peer.close(1000, "").await;
    drop(peer);
    timeout(SOON, closing).await.unwrap().unwrap();
}

#[tokio::test]
async fn closing_ends_although_the_peer_does_not_reply_and_nothing_was_taken() {
    let (connection, mut peer) = connected().await;
    for number in 0..200 {
        peer.request(&number.to_string()).await;
    }
    let began = Instant::now();
    connection.close().await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(peer.read().await.map(|(first, _)| first), Some(CLOSE));
    assert_eq!(peer.read().await, None);
}

#[tokio::test]
async fn an_answer_that_is_no_websocket_is_an_error() {
    for kind in ["unauthorized", "conflict", "upgrade-required"] {
        let server = Server::start(vec![Reply::problem(409, kind)]).await;
        let error = server.client().connect_relay("ep_1").await.unwrap_err();
        assert_eq!(error.problem().unwrap().name(), kind);
    }
    // A program connects again by itself: nothing is repeated within the call.
    let server = Server::start(vec![Reply::problem(503, "broker-unavailable")]).await;
    let error = server.client().connect_relay("ep_1").await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(server.requests().len(), 1);
    let server = Server::start(vec![Reply::json(200, "{}")]).await;
    let error = server.client().connect_relay("ep_1").await.unwrap_err();
    assert!(matches!(error, Error::Unexpected { status: 200, .. }), "{error}");
    for headers in [
        "upgrade: websocket\r\n",
        "upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        "upgrade: h2c\r\n",
    ] {
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n{headers}\r\n");
        let server = Server::start(vec![Reply::Stall(answer.into_bytes())]).await;
        let error = server.client().connect_relay("ep_1").await.unwrap_err();
        assert!(
            matches!(error, Error::Unreadable { status: 101, .. }),
            "{headers}: {error}"
        );
    }
    let error = server.client().connect_relay("../endpoints").await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn a_relay_is_opened_for_what_was_named() {
    const RELAY: &str = r#"{"id":"ep_1","organization_id":"org_1","project_id":"proj_1","url":"relay:listen","events":["lead.*"],
        "enabled":true,"disabled_reason":null,"disabled_at_ms":null,"old_secret_until_ms":null,"version":1,
        "created_at_ms":1,"updated_at_ms":1,"secret":"whsec_hunter2"}"#;
    // The key's second relay replaces the first one, so that a repeat does no harm.
    let server = Server::start(vec![Reply::problem(503, "timed-out"), Reply::json(201, RELAY)]).await;
    let new = OpenRelay {
        events: Some(vec!["lead.*".to_owned()]),
        project_id: Some("proj_1".to_owned()),
    };
    let relay = server.client().open_relay(&new).await.unwrap();
    assert!(!format!("{relay:?}").contains("hunter2"), "{relay:?}");
    assert_eq!(relay.secret.unwrap().0, "whsec_hunter2");
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert!(
        requests[1].starts_with("POST /v1/relays HTTP/1.1\r\n"),
        "{}",
        requests[1]
    );
    assert!(
        requests[1].ends_with(r#"{"events":["lead.*"],"project_id":"proj_1"}"#),
        "{}",
        requests[1]
    );
    server.client().open_relay(&OpenRelay::default()).await.unwrap();
    assert!(server.requests()[2].ends_with("\r\n\r\n{}"));
}
