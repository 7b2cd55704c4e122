//! Tests of relays against a real RabbitMQ.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use broker::{
    Config, Link, Outgoing, PublishError, Publisher, RelayError, RelayedAnswer, RelayedRequest, ReplyTo,
    Requests, Topology, follow_answers,
};
use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use webhook::{Answer, EndpointId};

/// The maximum time for what takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

struct Fixture {
    config: Config,
    link: Link,
    publisher: Publisher,
    topology: Topology,
    stop: CancellationToken,
}

fn fixture(name: &str) -> Fixture {
    let url = std::env::var("MAGNETITE_BROKER__URL").expect(
        "MAGNETITE_BROKER__URL is not set: run tests/run.sh, or export the line that \
         `deploy/local/broker.sh start DIR` prints",
    );
    let config = Config::new(&url, format!("test-relays-{name}-{}", std::process::id())).unwrap();
    let stop = CancellationToken::new();
    let link = Link::open(&config, "relay tests", stop.clone());
    Fixture {
        publisher: Publisher::new(link.clone(), &config),
        topology: Topology::new(&config.prefix, &[]),
        config,
        link,
        stop,
    }
}

impl Fixture {
    async fn receive(&self, link: &Link, endpoint: &EndpointId) -> Result<Requests, RelayError> {
        timeout(PATIENCE, Requests::receive(link, &self.topology, endpoint))
            .await
            .unwrap()
    }

    /// Receives the requests as soon as no other connection does.
    async fn receive_in_turn(&self, endpoint: &EndpointId) -> Requests {
        let receiving = async {
            loop {
                match self.receive(&self.link, endpoint).await {
                    Ok(requests) => return requests,
                    Err(RelayError::Taken) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        timeout(PATIENCE, receiving).await.unwrap()
    }

    async fn offer(
        &self,
        endpoint: &EndpointId,
        reply_to: ReplyTo,
        body: &'static str,
    ) -> Result<(), PublishError> {
        let request = RelayedRequest {
            reply_to,
            answer_within: PATIENCE,
            headers: vec![("webhook-id".to_owned(), "evt_1".to_owned())],
            body: Bytes::from(body),
        };
        let request = Outgoing::relayed(&self.topology, endpoint, request);
        self.publisher.offer(&[request]).await.pop().unwrap()
    }
}

fn reply_to(request: u128) -> ReplyTo {
    ReplyTo { answers: 1, request }
}

#[tokio::test]
async fn a_request_reaches_the_one_connection_that_receives_them() {
    let fixture = fixture("one");
    let (own, other) = (EndpointId::new("ep_1"), EndpointId::new("ep_2"));
    let missing = fixture.offer(&own, reply_to(1), "{}").await;
    assert!(
        matches!(missing, Err(PublishError::Unroutable { .. })),
        "{missing:?}"
    );
    let mut requests = fixture.receive(&fixture.link, &own).await.unwrap();
    fixture.offer(&own, reply_to(2), "{ }").await.unwrap();
    let missing = fixture.offer(&other, reply_to(3), "{}").await;
    assert!(
        matches!(missing, Err(PublishError::Unroutable { .. })),
        "{missing:?}"
    );
    let (number, request) = timeout(PATIENCE, requests.next()).await.unwrap().unwrap();
    assert_eq!((request.reply_to, &request.body[..]), (reply_to(2), &b"{ }"[..]));
    requests.taken(number).await;

    let second = Link::open(&fixture.config, "relay tests, second", fixture.stop.clone());
    for link in [&fixture.link, &second] {
        let taken = fixture.receive(link, &own).await.err();
        assert!(matches!(taken, Some(RelayError::Taken)), "{taken:?}");
    }
    drop(requests);
    let requests = fixture.receive_in_turn(&own).await;
    requests.close().await;
    let missing = fixture.offer(&own, reply_to(4), "{}").await;
    assert!(
        matches!(missing, Err(PublishError::Unroutable { .. })),
        "the queue is deleted when it is closed: {missing:?}"
    );
    fixture.stop.cancel();
}

#[tokio::test]
async fn a_connection_that_is_refused_leaves_the_queue_to_the_one_that_has_it() {
    let fixture = fixture("refused");
    let endpoint = EndpointId::new("ep_1");
    let mut requests = fixture.receive(&fixture.link, &endpoint).await.unwrap();
    for number in 0..20 {
        let taken = fixture.receive(&fixture.link, &endpoint).await.err();
        assert!(matches!(taken, Some(RelayError::Taken)), "{taken:?}");
        fixture.offer(&endpoint, reply_to(number), "{}").await.unwrap();
        let (tag, request) = timeout(PATIENCE, requests.next()).await.unwrap().unwrap();
        assert_eq!(request.reply_to, reply_to(number));
        assert!(!request.answer_within.is_zero());
        requests.taken(tag).await;
    }
    fixture.stop.cancel();
}

#[tokio::test]
async fn requests_that_are_not_taken_are_refused_when_there_are_too_many() {
    let fixture = fixture("full");
    let endpoint = EndpointId::new("ep_1");
    let _requests = fixture.receive(&fixture.link, &endpoint).await.unwrap();
    let mut refused = None;
    for request in 0..1_000 {
        refused = fixture.offer(&endpoint, reply_to(request), "{}").await.err();
        if refused.is_some() {
            break;
        }
    }
    assert!(
        matches!(refused, Some(PublishError::Nacked { .. })),
        "{refused:?}"
    );
    fixture.stop.cancel();
}

#[tokio::test]
async fn an_answer_reaches_the_worker_whose_queue_it_names() {
    let fixture = fixture("answers");
    let (opened, mut number) = watch::channel(None);
    let (answered, mut answers) = mpsc::unbounded_channel();
    let following = {
        let (link, topology, stop) = (
            fixture.link.clone(),
            fixture.topology.clone(),
            fixture.stop.clone(),
        );
        tokio::spawn(async move {
            let opened = |number| {
                opened.send_replace(number);
            };
            let answered = |answer| answered.send(answer).unwrap();
            follow_answers(&link, &topology, &stop, opened, answered).await;
        })
    };
    let queue = timeout(PATIENCE, number.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let given = RelayedAnswer {
        reply_to: ReplyTo {
            answers: queue,
            request: 5,
        },
        endpoint_id: EndpointId::new("ep_1"),
        answer: Some(Answer {
            status: 200,
            retry_after: None,
            body: Bytes::from("OK"),
        }),
        interrupted: false,
    };
    let sent = Outgoing::answer(&fixture.topology, given.clone());
    fixture.publisher.offer(&[sent]).await.pop().unwrap().unwrap();
    assert_eq!(timeout(PATIENCE, answers.recv()).await.unwrap(), Some(given));
    fixture.stop.cancel();
    following.await.unwrap();
}
