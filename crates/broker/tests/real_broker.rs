//! Tests against a real RabbitMQ. Each test has its own topology prefix and deletes its topology afterwards.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use broker::{
    Config, DeadLetter, Incoming, Link, Outgoing, PublishError, Publisher, Server, Tailed, Topology,
    WINDOW_MAX,
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::{
    options::{
        BasicConsumeOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::FieldTable,
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use webhook::{DeadReason, Delivery, EndpointId, Event};

const TIER: Duration = Duration::from_millis(200);

struct Fixture {
    config: Config,
    link: Link,
    publisher: Publisher,
    topology: Topology,
    stop: CancellationToken,
}

async fn fixture(name: &str) -> Fixture {
    let url = std::env::var("MAGNETITE_BROKER__URL").expect(
        "MAGNETITE_BROKER__URL is not set: run tests/run.sh, or export the line that \
         `deploy/local/broker.sh start DIR` prints",
    );
    let config = Config::new(&url, format!("test-broker-{name}-{}", std::process::id())).unwrap();
    let stop = CancellationToken::new();
    let link = Link::open(&config, "broker tests", stop.clone());
    let publisher = Publisher::new(link.clone(), &config);
    let topology = Topology::new(&config.prefix, &[TIER]);
    topology.declare(&link).await.unwrap();
    Fixture {
        config,
        link,
        publisher,
        topology,
        stop,
    }
}

impl Fixture {
    async fn delete(self) {
        let channel = self
            .link
            .connection()
            .await
            .unwrap()
            .create_channel()
            .await
            .unwrap();
        for queue in self.topology.queues() {
            channel
                .queue_delete(queue.name.as_str().into(), QueueDeleteOptions::default())
                .await
                .unwrap();
        }
        for exchange in self.topology.exchanges() {
            channel
                .exchange_delete(exchange.name.as_str().into(), ExchangeDeleteOptions::default())
                .await
                .unwrap();
        }
        self.stop.cancel();
    }

    async fn ready(&self, queue: &str) -> u32 {
        let states = self.topology.check(&self.link).await.unwrap();
        states
            .into_iter()
            .map(Result::unwrap)
            .find(|state| state.name == queue)
            .unwrap()
            .ready
    }

    async fn wait_for_ready(&self, queue: &str, expected: u32) {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let ready = self.ready(queue).await;
            if ready == expected {
                return;
            }
            assert!(
                Instant::now() < until,
                "{queue} has {ready} messages, not {expected}"
            );
            tokio::task::yield_now().await;
        }
    }

    /// Consumes the due queue with `take` until the token is cancelled.
    fn consume(
        &self,
        prefetch: u16,
        take: impl FnMut(Incoming) + Send + 'static,
    ) -> (CancellationToken, JoinHandle<()>) {
        let stop = self.stop.child_token();
        let (link, topology, token) = (self.link.clone(), self.topology.clone(), stop.clone());
        let consuming = tokio::spawn(async move {
            broker::consume(&link, &topology, &topology.due(), prefetch, &token, |_| {}, take)
                .await
                .settled()
                .await;
        });
        (stop, consuming)
    }
}

fn delivery(lead: usize) -> Delivery {
    let body = format!(
        r#"{{"event":"lead.created","timestamp":1703123456789,"organization_id":"o","project_id":"p","lead_id":"{lead}","data":{{}}}}"#
    );
    let event = Event::from_message(None, None, Bytes::from(body)).unwrap();
    Delivery::first(Arc::new(event), EndpointId::new("ep_1"))
}

fn lead(incoming: &Incoming) -> String {
    incoming.message.delivery().unwrap().event.lead_id.to_string()
}

async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(15);
    while !condition() {
        assert!(Instant::now() < until, "not within 15 s: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_says_who_it_is_and_keeps_what_at_least_once_promises() {
    let fixture = fixture("server").await;
    let server = Server::of(&fixture.config).await.unwrap();
    assert_eq!(server.product, "RabbitMQ");
    // `tests/run.sh --rabbitmq` sets this: a run that claims to test version 4 and tests version 3 proves
    // nothing.
    match std::env::var("MAGNETITE_TEST_RABBITMQ") {
        Ok(major) => assert_eq!(server.major().unwrap().to_string(), major, "{server:?}"),
        Err(_) => assert!(server.major().unwrap() >= 3, "{server:?}"),
    }
    assert!(
        fixture
            .topology
            .dead_letters_at_least_once(&fixture.link, &fixture.publisher)
            .await
            .unwrap()
    );
    fixture.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_what_is_missing_and_what_is_different_and_changes_neither() {
    let fixture = fixture("check").await;
    let channel = fixture
        .link
        .connection()
        .await
        .unwrap()
        .create_channel()
        .await
        .unwrap();
    let (due, delay) = (fixture.topology.due(), fixture.topology.delay(TIER));
    for queue in [&due, &delay] {
        channel
            .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
            .await
            .unwrap();
    }
    let durable = lapin::options::QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare(delay.as_str().into(), durable, FieldTable::default())
        .await
        .unwrap();

    for _ in 0..2 {
        let checked = fixture.topology.check(&fixture.link).await.unwrap();
        let problems: Vec<_> = checked.into_iter().filter_map(Result::err).collect();
        let [missing, different] = problems.as_slice() else {
            panic!("{problems:?}")
        };
        assert_eq!(
            (missing.name.as_str(), different.name.as_str()),
            (due.as_str(), delay.as_str())
        );
        assert!(missing.detail.contains("NOT_FOUND"), "{missing:?}");
        assert!(different.detail.contains("PRECONDITION_FAILED"), "{different:?}");
    }
    channel
        .queue_delete(delay.as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    fixture.topology.declare(&fixture.link).await.unwrap();
    fixture.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_copies_is_deleted_when_its_reader_stops() {
    let fixture = fixture("tail").await;
    // The connection of the reader, because a private queue is locked for others.
    let connection = fixture.link.connection().await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let names = format!("{}.names", fixture.config.prefix);
    let (queue, exchange) = (names.as_str(), fixture.topology.changes_exchange());
    let (options, none) = (QueueDeclareOptions::default, FieldTable::default);
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..options()
    };
    let passive = QueueDeclareOptions {
        passive: true,
        ..options()
    };
    let declared = channel.queue_declare(queue.into(), exclusive, none()).await;
    declared.unwrap();
    let binding = QueueBindOptions::default();
    let bound = channel.queue_bind(queue.into(), exchange.as_str().into(), "".into(), binding, none());
    bound.await.unwrap();
    let stop = CancellationToken::new();
    let reading = broker::tail(&fixture.link, &fixture.topology, &stop, |tailed| {
        assert_eq!(tailed, Tailed::Connected);
        stop.cancel();
    });
    reading.await;
    let consuming = channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), none());
    let told = consuming.await.unwrap().next().await.unwrap().unwrap();
    let of_reader = String::from_utf8_lossy(&told.data).into_owned();
    let found = channel
        .queue_declare(of_reader.as_str().into(), passive, none())
        .await;
    let error = found.unwrap_err().to_string();
    assert!(error.contains("NOT_FOUND"), "{of_reader}: {error}");
    fixture.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_full_window_only_the_returned_messages_fail() {
    let fixture = fixture("returned").await;
    let nowhere = Topology::new(format!("{}-nowhere", fixture.config.prefix), &[TIER]);
    let letter = DeadLetter {
        reason: DeadReason::Gone,
        attempts: 1,
        last_status: None,
        last_error: String::new(),
        dead_ms: 0,
    };
    let is_lost = |n: usize| n.is_multiple_of(3);
    let messages: Vec<_> = (0..2 * WINDOW_MAX + 7)
        .map(|n| {
            let topology = if is_lost(n) { &nowhere } else { &fixture.topology };
            Outgoing::dead(topology, &delivery(n), &letter)
        })
        .collect();
    let results = fixture.publisher.publish_all(&messages).await;
    for (n, result) in results.iter().enumerate() {
        let unroutable = matches!(result, Err(PublishError::Unroutable { .. }));
        assert!(
            unroutable == is_lost(n) && result.is_ok() != is_lost(n),
            "{n}: {result:?}"
        );
    }
    let kept = results.iter().filter(|result| result.is_ok()).count();
    fixture
        .wait_for_ready(&fixture.topology.dead(), kept as u32)
        .await;
    fixture.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_side_by_side_never_take_each_others_answers() {
    let fixture = fixture("side-by-side").await;
    let nowhere = Topology::new(format!("{}-nowhere", fixture.config.prefix), &[TIER]);
    let publishing = (0..64).map(|n| {
        let publisher = fixture.publisher.clone();
        let topology = if n % 2 == 0 {
            fixture.topology.clone()
        } else {
            nowhere.clone()
        };
        tokio::spawn(async move {
            let delayed = Outgoing::delay(&topology, &delivery(n), TIER);
            (n, publisher.publish(&delayed).await)
        })
    });
    for published in publishing.collect::<Vec<_>>() {
        let (n, result) = published.await.unwrap();
        assert_eq!(result.is_ok(), n % 2 == 0, "{n}: {result:?}");
    }
    fixture.wait_for_ready(&fixture.topology.due(), 32).await;
    fixture.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_delivery_comes_due_after_its_tier_and_unchanged() {
    let fixture = fixture("delay").await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (stop, consuming) = fixture.consume(10, {
        let seen = Arc::clone(&seen);
        move |incoming| {
            seen.lock()
                .unwrap()
                .push((Instant::now(), incoming.message.delivery().unwrap()));
            incoming.ack.ack();
        }
    });
    let sent = Delivery {
        attempt: 4,
        first_attempt_ms: Some(5),
        ..delivery(1)
    };
    let before = Instant::now();
    fixture
        .publisher
        .publish(&Outgoing::delay(&fixture.topology, &sent, TIER))
        .await
        .unwrap();
    wait_for("the delivery is due", || !seen.lock().unwrap().is_empty()).await;
    let (at, received) = seen.lock().unwrap()[0].clone();
    assert!(at - before >= TIER, "after {:?}", at - before);
    assert_eq!(received, sent);
    stop.cancel();
    consuming.await.unwrap();
    fixture.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_open_message_holds_back_no_ack_of_ten_thousand_behind_it() {
    const BEHIND: usize = 10_000;
    let fixture = fixture("behind").await;
    let messages: Vec<_> = (0..=BEHIND)
        .map(|n| Outgoing::due(&fixture.topology, &delivery(n)))
        .collect();
    assert!(
        fixture
            .publisher
            .publish_all(&messages)
            .await
            .iter()
            .all(Result::is_ok)
    );
    let (open, acked) = (Arc::new(Mutex::new(None)), Arc::new(AtomicUsize::new(0)));
    // The prefetch is far below the number of messages, so they arrive only if acks are written one by one.
    let (stop, consuming) = fixture.consume(50, {
        let (open, acked) = (Arc::clone(&open), Arc::clone(&acked));
        move |incoming| {
            let mut open = open.lock().unwrap();
            if open.is_none() {
                *open = Some(incoming.ack);
            } else {
                incoming.ack.ack();
                acked.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    wait_for("all behind are acked", || acked.load(Ordering::Relaxed) == BEHIND).await;
    stop.cancel();
    drop(open.lock().unwrap().take());
    consuming.await.unwrap();
    fixture.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_it_stops_what_was_not_taken_goes_back_and_what_was_taken_can_still_be_acked() {
    let fixture = fixture("stop").await;
    let messages: Vec<_> = (0..100)
        .map(|n| Outgoing::due(&fixture.topology, &delivery(n)))
        .collect();
    assert!(
        fixture
            .publisher
            .publish_all(&messages)
            .await
            .iter()
            .all(Result::is_ok)
    );
    let taken = Arc::new(Mutex::new(Vec::new()));
    let (stop, consuming) = fixture.consume(40, {
        let taken = Arc::clone(&taken);
        move |incoming| taken.lock().unwrap().push(incoming)
    });
    wait_for("the prefetch is full", || taken.lock().unwrap().len() == 40).await;
    stop.cancel();
    let acked: HashSet<String> = taken
        .lock()
        .unwrap()
        .drain(..30)
        .map(|incoming| {
            incoming.ack.ack();
            lead(&incoming)
        })
        .collect();
    taken
        .lock()
        .unwrap()
        .drain(..)
        .for_each(|incoming| incoming.ack.requeue());
    consuming.await.unwrap();
    assert_eq!(acked.len(), 30);
    fixture.wait_for_ready(&fixture.topology.due(), 70).await;
    fixture.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_comes_back_after_its_queue_was_deleted_under_it() {
    let fixture = fixture("deleted").await;
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let (stop, consuming) = fixture.consume(10, {
        let seen = Arc::clone(&seen);
        move |incoming| {
            seen.lock().unwrap().insert(lead(&incoming));
            incoming.ack.ack();
        }
    });
    fixture
        .publisher
        .publish(&Outgoing::due(&fixture.topology, &delivery(1)))
        .await
        .unwrap();
    wait_for("the first message", || seen.lock().unwrap().contains("1")).await;
    let channel = fixture
        .link
        .connection()
        .await
        .unwrap()
        .create_channel()
        .await
        .unwrap();
    channel
        .queue_delete(
            fixture.topology.due().as_str().into(),
            QueueDeleteOptions::default(),
        )
        .await
        .unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while let Err(error) = fixture
        .publisher
        .publish(&Outgoing::due(&fixture.topology, &delivery(2)))
        .await
    {
        assert!(
            matches!(error, PublishError::Unroutable { .. }) && Instant::now() < until,
            "{error}"
        );
    }
    wait_for("the message after", || seen.lock().unwrap().contains("2")).await;
    stop.cancel();
    consuming.await.unwrap();
    fixture.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_keeps_coming_back_ends_in_the_rejected_queue() {
    let fixture = fixture("poison").await;
    let returned = Arc::new(AtomicUsize::new(0));
    let (stop, consuming) = fixture.consume(1, {
        let returned = Arc::clone(&returned);
        move |incoming| {
            returned.fetch_add(1, Ordering::Relaxed);
            incoming.ack.requeue();
        }
    });
    fixture
        .publisher
        .publish(&Outgoing::due(&fixture.topology, &delivery(1)))
        .await
        .unwrap();
    fixture.wait_for_ready(&fixture.topology.rejected(), 1).await;
    let returned = returned.load(Ordering::Relaxed);
    assert!((100..=102).contains(&returned), "after {returned} returns");
    stop.cancel();
    consuming.await.unwrap();
    fixture.delete().await;
}
