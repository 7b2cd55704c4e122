//! Tests of the connections of relays, with a real broker. The tests are the worker and the program.

use std::time::Duration;

use broker::{Link, Outgoing, Publisher, RelayedAnswer, RelayedRequest, ReplyTo, Topology, follow_answers};
use futures_util::{SinkExt as _, Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, ClientRequestBuilder, Message},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use webhook::EndpointId;
use wire::RelayRequest;

use super::bed::Bed;

/// The maximum time for what takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for what must not happen.
const NEVER: Duration = Duration::from_millis(300);

type Socket = WebSocketStream<TcpStream>;

/// A worker that publishes requests, and receives their answers.
struct Worker {
    publisher: Publisher,
    topology: Topology,
    /// The number of its queue of answers.
    queue: u128,
    answers: mpsc::UnboundedReceiver<RelayedAnswer>,
    _stop: DropGuard,
}

impl Worker {
    async fn start(bed: &Bed) -> Self {
        let stop = CancellationToken::new();
        let link = Link::open(&bed.broker, "tests of the API", stop.clone());
        let topology = Topology::new(&bed.broker.prefix, &[]);
        let (opened, mut number) = watch::channel(None);
        let (answered, answers) = mpsc::unbounded_channel();
        let (over, of, until) = (link.clone(), topology.clone(), stop.clone());
        tokio::spawn(async move {
            let opened = |number| {
                opened.send_replace(number);
            };
            // An error means that the test has ended.
            let answered = |answer| drop(answered.send(answer));
            follow_answers(&over, &of, &until, opened, answered).await;
        });
        let queue = timeout(PATIENCE, number.wait_for(Option::is_some))
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        Self {
            publisher: Publisher::new(link, &bed.broker),
            topology,
            queue,
            answers,
            _stop: stop.drop_guard(),
        }
    }

    async fn ask(&self, relay: &EndpointId, request: u128, body: &str) {
        let request = RelayedRequest {
            reply_to: ReplyTo {
                answers: self.queue,
                request,
            },
            answer_within: PATIENCE,
            headers: vec![("webhook-id".to_owned(), "evt_1".to_owned())],
            body: body.to_owned().into(),
        };
        let message = Outgoing::relayed(&self.topology, relay, request);
        self.publisher.offer(&[message]).await.pop().unwrap().unwrap();
    }

    async fn answer(&mut self) -> RelayedAnswer {
        timeout(PATIENCE, self.answers.recv()).await.unwrap().unwrap()
    }

    /// Returns the number of the next request that is answered without a response.
    async fn closed(&mut self) -> u128 {
        let closed = self.answer().await;
        assert_eq!(closed.answer, None);
        closed.reply_to.request
    }
}

/// A relay that a key has opened, at an API that is served.
struct Relay {
    id: EndpointId,
    uri: String,
    key: String,
}

impl Relay {
    async fn open(bed: &Bed) -> Self {
        let key = bed.key("org_1", "endpoints:write").await;
        let opened = bed.post("/v1/relays", &key, "{}").await;
        let id = opened.body["id"].as_str().unwrap();
        let address = bed.served().await;
        Self {
            uri: format!("ws://{address}/v1/relays/{id}/connection"),
            id: EndpointId::new(id),
            key,
        }
    }

    async fn connect(&self) -> Socket {
        let uri: axum::http::Uri = self.uri.parse().unwrap();
        let stream = TcpStream::connect(uri.authority().unwrap().as_str())
            .await
            .unwrap();
        let request =
            ClientRequestBuilder::new(uri).with_header("Authorization", format!("Bearer {}", self.key));
        let connecting = timeout(PATIENCE, client_async(request, stream));
        let (socket, _) = connecting.await.unwrap().unwrap();
        socket
    }
}

/// Returns the next request, if it arrives within this time.
async fn request_within(socket: &mut Socket, time: Duration) -> Option<RelayRequest> {
    let deadline = Instant::now() + time;
    loop {
        match timeout_at(deadline, socket.next()).await.ok()?.unwrap().unwrap() {
            Message::Text(text) => return Some(serde_json::from_str(&text).unwrap()),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn request(socket: &mut Socket) -> RelayRequest {
    request_within(socket, PATIENCE).await.expect("a request")
}

/// Returns the code and the reason with which the API closes the connection.
async fn close_code(
    frames: &mut (impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin),
) -> (u16, String) {
    loop {
        match timeout(PATIENCE, frames.next()).await.unwrap().unwrap().unwrap() {
            Message::Close(Some(frame)) => return (frame.code.into(), frame.reason.to_string()),
            Message::Close(None) => panic!("the connection was closed without a reason"),
            _ => {}
        }
    }
}

async fn send(socket: &mut Socket, answer: &Value) {
    socket.send(Message::text(answer.to_string())).await.unwrap();
}

#[tokio::test]
async fn an_answer_reaches_the_worker_that_has_asked_and_nothing_else_does() {
    let bed = Bed::with_broker().await;
    let (mut worker, relay) = (Worker::start(&bed).await, Relay::open(&bed).await);
    let mut socket = relay.connect().await;
    worker.ask(&relay.id, 7, "{ \"ü\": 1 }").await;
    let first = request(&mut socket).await;
    assert_eq!(first.body, "{ \"ü\": 1 }");
    assert_eq!(first.headers["webhook-id"], "evt_1");
    send(&mut socket, &json!({ "request": "999", "status": 200 })).await;
    send(&mut socket, &json!({ "request": "", "status": 200 })).await;
    let later = json!({ "request": first.request, "status": 503, "retry_after": "7", "body": "later" });
    send(&mut socket, &later).await;
    let answered = worker.answer().await;
    assert_eq!((answered.reply_to.request, &answered.endpoint_id), (7, &relay.id));
    let answer = answered.answer.unwrap();
    assert_eq!(
        (answer.status, answer.retry_after.as_deref(), &answer.body[..]),
        (503, Some("7"), &b"later"[..])
    );
    // A second answer, and one to a request of another connection, are ignored.
    send(&mut socket, &later).await;
    worker.ask(&relay.id, 8, "{}").await;
    let second = request(&mut socket).await;
    send(&mut socket, &json!({ "request": second.request, "status": null })).await;
    assert_eq!(worker.closed().await, 8);
    assert!(timeout(NEVER, worker.answers.recv()).await.is_err());
}

#[tokio::test]
async fn what_is_not_an_answer_closes_the_connection_and_ends_the_attempts_in_progress() {
    let bed = Bed::with_broker().await;
    let (mut worker, relay) = (Worker::start(&bed).await, Relay::open(&bed).await);
    for (number, (frame, code)) in [
        (Message::text("[]"), 1007),
        (Message::text(r#"{"request":"1","status":600}"#), 1007),
        (Message::binary("{}"), 1003),
        (Message::text(" ".repeat(256 * 1024 + 1)), 1009),
    ]
    .into_iter()
    .enumerate()
    {
        let mut socket = relay.connect().await;
        worker.ask(&relay.id, number as u128, "{}").await;
        request(&mut socket).await;
        let (mut sink, mut frames) = socket.split();
        // The API may close the connection before it has read all of the frame.
        let (_, (closed_with, reason)) = tokio::join!(sink.send(frame), close_code(&mut frames));
        assert_eq!(closed_with, code, "{reason}");
        assert!(!reason.is_empty());
        assert_eq!(worker.closed().await, number as u128);
    }
}

#[tokio::test]
async fn a_program_gets_64_requests_before_it_answers_one() {
    let bed = Bed::with_broker().await;
    let (mut worker, relay) = (Worker::start(&bed).await, Relay::open(&bed).await);
    let mut socket = relay.connect().await;
    for number in 0..70 {
        worker.ask(&relay.id, number, "{}").await;
    }
    let mut first = request(&mut socket).await;
    for _ in 1..64 {
        first = request(&mut socket).await;
    }
    assert_eq!(request_within(&mut socket, NEVER).await, None);
    send(&mut socket, &json!({ "request": first.request, "status": 200 })).await;
    assert_eq!(worker.answer().await.reply_to.request, 63);
    request(&mut socket).await;
    assert_eq!(request_within(&mut socket, NEVER).await, None);
    drop(socket);
    let mut closed = Vec::new();
    for _ in 0..69 {
        closed.push(worker.closed().await);
    }
    closed.sort_unstable();
    let expected: Vec<u128> = (0..70).filter(|number| *number != 63).collect();
    assert_eq!(closed, expected, "also those that had not been sent");
}

#[tokio::test]
async fn a_further_connection_receives_the_requests_when_the_former_one_has_ended() {
    let bed = Bed::with_broker().await;
    let (mut worker, relay) = (Worker::start(&bed).await, Relay::open(&bed).await);
    let mut former = relay.connect().await;
    let (further, ()) = tokio::join!(relay.connect(), async {
        worker.ask(&relay.id, 1, "{}").await;
        request(&mut former).await;
        former.close(None).await.unwrap();
        while let Some(Ok(_)) = former.next().await {}
    });
    assert_eq!(worker.closed().await, 1);
    let mut further = further;
    worker.ask(&relay.id, 2, "{}").await;
    let asked = request(&mut further).await;
    send(&mut further, &json!({ "request": asked.request, "status": 200 })).await;
    assert_eq!(worker.answer().await.reply_to.request, 2);
}

#[tokio::test]
async fn a_shutdown_closes_all_connections_at_once_and_asks_them_to_connect_again() {
    let bed = Bed::with_broker().await;
    let (mut worker, relay) = (Worker::start(&bed).await, Relay::open(&bed).await);
    let mut socket = relay.connect().await;
    worker.ask(&relay.id, 1, "{}").await;
    request(&mut socket).await;
    bed.stop.cancel();
    let ((code, _), ()) = tokio::join!(close_code(&mut socket), async {
        let began = Instant::now();
        bed.context.relays.shutdown().await;
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    });
    assert_eq!(code, 1012);
    assert_eq!(worker.closed().await, 1);
}
