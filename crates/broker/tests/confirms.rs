//! 64 publishes are in flight on one channel, and a few of them fail. Exactly these must return an error, and
//! the right one. Every message whose result is Ok must be in its queue exactly once.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use broker::{Config, DeadLetter, Link, Outgoing, PublishError, Publisher, Topology};
use bytes::Bytes;
use e2e::{Amqp, Confirms, Strike, chance, wait_for};
use lapin::{
    Connection, ConnectionProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use tokio_util::sync::CancellationToken;
use webhook::{DeadReason, Delivery, EndpointId, Event};

const IN_FLIGHT: usize = 64;
/// Far more than a broker needs for a confirm.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);
const CONFIRM_AGE_MAX: Duration = Duration::from_secs(4);

struct Fixture {
    confirms: Confirms,
    publisher: Publisher,
    topology: Topology,
    /// A connection to the broker that bypasses the proxy.
    amqp: Amqp,
    stop: CancellationToken,
}

type Results = Vec<Result<(), PublishError>>;

impl Fixture {
    async fn new(name: &str) -> Self {
        let (url, prefix) = (url(), prefix(name));
        let confirms = Confirms::to(&url).await;
        let mut config = Config::new(&confirms.url(), prefix.as_str()).unwrap();
        config.publish_timeout = PUBLISH_TIMEOUT;
        config.confirm_age_max = CONFIRM_AGE_MAX;
        let stop = CancellationToken::new();
        let link = Link::open(&config, "broker tests", stop.clone());
        let topology = Topology::new(&prefix, &[]);
        topology.declare(&link).await.unwrap();
        Self {
            publisher: Publisher::new(link, &config),
            amqp: Amqp::connect(&url, &prefix).await,
            confirms,
            topology,
            stop,
        }
    }

    /// Publishes all messages at once. The proxy holds back every answer until the last message is published.
    async fn publish(&self, messages: &[Outgoing]) -> Results {
        self.confirms.hold_until(messages.len());
        self.publisher.publish_all(messages).await
    }

    fn letters(&self) -> Vec<Outgoing> {
        (0..IN_FLIGHT).map(|lead| letter(&self.topology, lead)).collect()
    }

    /// Takes the messages out of the queue of dead letters, and returns how often each lead's message was
    /// there.
    async fn arrived(&self) -> BTreeMap<usize, usize> {
        let mut arrived = BTreeMap::new();
        for found in self.amqp.drain("dead").await {
            let json = String::from_utf8(found.body.to_vec()).unwrap();
            let lead = json.split(r#""lead_id":"lead_"#).nth(1).unwrap();
            *arrived
                .entry(lead.split('"').next().unwrap().parse().unwrap())
                .or_default() += 1;
        }
        arrived
    }

    /// Checks that every Ok is a message in the queue, and that no message is there twice.
    async fn assert_ok_is_there_once(&self, results: &Results) {
        let arrived = self.arrived().await;
        for (lead, result) in results.iter().enumerate() {
            let copies = arrived.get(&lead).copied().unwrap_or_default();
            assert!(
                copies == 1 || (copies == 0 && result.is_err()),
                "lead {lead}: {result:?}, {copies} copies"
            );
        }
    }

    /// Checks that the publisher can publish new messages, and that no late answer is mistaken for one of
    /// their answers.
    async fn assert_goes_on(&self) {
        let results = self.publish(&self.letters()).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        self.assert_ok_is_there_once(&results).await;
        for lead in 0..IN_FLIGHT {
            let published = self.confirms.published(&marker(lead));
            assert!(
                published.iter().all(|it| it.together == IN_FLIGHT),
                "{published:?}"
            );
        }
    }

    async fn delete(self) {
        self.amqp.delete(&[]).await;
        self.stop.cancel();
    }
}

fn url() -> String {
    std::env::var("MAGNETITE_BROKER__URL").expect(
        "MAGNETITE_BROKER__URL is not set: run tests/run.sh, or export the line that \
         `deploy/local/broker.sh start DIR` prints",
    )
}

fn prefix(name: &str) -> String {
    format!("test-confirms-{name}-{}", std::process::id())
}

fn letter(topology: &Topology, lead: usize) -> Outgoing {
    let body = format!(
        r#"{{"event":"lead.created","timestamp":1703123456789,"organization_id":"o","project_id":"p","lead_id":"lead_{lead}","data":{{}}}}"#
    );
    let event = Event::from_message(None, None, Bytes::from(body)).unwrap();
    let delivery = Delivery::first(Arc::new(event), EndpointId::new("ep_1"));
    let letter = DeadLetter {
        reason: DeadReason::Gone,
        attempts: 1,
        last_status: None,
        last_error: String::new(),
        dead_ms: 0,
    };
    Outgoing::dead(topology, &delivery, &letter)
}

/// Returns a text that only the body of this lead's event contains.
fn marker(lead: usize) -> String {
    format!(r#""lead_{lead}""#)
}

/// Returns the first message, the last one, and one in between.
fn victims() -> [usize; 3] {
    [
        0,
        1 + chance("victim", IN_FLIGHT as u64 - 2) as usize,
        IN_FLIGHT - 1,
    ]
}

fn assert_only(victims: &[usize], results: &Results, is_right: impl Fn(&PublishError) -> bool) {
    assert_eq!(results.len(), IN_FLIGHT);
    for (lead, result) in results.iter().enumerate() {
        match result {
            Ok(()) => assert!(!victims.contains(&lead), "a false Ok for lead {lead}"),
            Err(error) => assert!(victims.contains(&lead) && is_right(error), "lead {lead}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_in_flight_only_the_nacked_publish_fails() {
    let fixture = Fixture::new("nack").await;
    for victim in victims() {
        fixture.confirms.strike(marker(victim), Strike::Nack);
        let results = fixture.publish(&fixture.letters()).await;
        assert_only(&[victim], &results, |error| {
            matches!(error, PublishError::Nacked { .. })
        });
        fixture.assert_ok_is_there_once(&results).await;
    }
    fixture.assert_goes_on().await;
    fixture.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_in_flight_only_the_publish_without_a_confirm_fails_and_in_time() {
    let fixture = Fixture::new("silence").await;
    for victim in victims() {
        fixture.confirms.strike(marker(victim), Strike::Silence);
        let began = std::time::Instant::now();
        let results = fixture.publish(&fixture.letters()).await;
        let took = began.elapsed();
        assert!(took >= PUBLISH_TIMEOUT && took < PUBLISH_TIMEOUT * 2, "{took:?}");
        assert_only(&[victim], &results, |error| {
            matches!(error, PublishError::Unconfirmed { .. })
        });
        fixture.assert_ok_is_there_once(&results).await;
    }
    fixture.assert_goes_on().await;
    fixture.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_in_flight_only_the_returned_publish_fails() {
    let fixture = Fixture::new("return").await;
    let nowhere = Topology::new(prefix("nowhere"), &[]);
    for victim in victims() {
        let mut messages = fixture.letters();
        messages[victim] = letter(&nowhere, victim);
        let results = fixture.publish(&messages).await;
        assert_only(&[victim], &results, |error| {
            matches!(error, PublishError::Unroutable { .. })
        });
        fixture.assert_ok_is_there_once(&results).await;
    }
    fixture.assert_goes_on().await;
    fixture.delete().await;
}

/// lapin attaches a return to whichever confirm comes next, even if that confirm never arrives or is a nack.
#[tokio::test(flavor = "multi_thread")]
async fn a_nack_a_return_and_a_missing_confirm_in_one_window_fail_three_publishes() {
    let fixture = Fixture::new("all").await;
    let nowhere = Topology::new(prefix("nowhere"), &[]);
    let first = 1 + chance("first", IN_FLIGHT as u64 - 4) as usize;
    // The three messages are adjacent, in each order.
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let [nacked, returned, silent] = order.map(|offset| first + offset);
        fixture.confirms.strike(marker(nacked), Strike::Nack);
        fixture.confirms.strike(marker(silent), Strike::Silence);
        let mut messages = fixture.letters();
        messages[returned] = letter(&nowhere, returned);
        let results = fixture.publish(&messages).await;
        assert_only(&[nacked, returned, silent], &results, |_| true);
        let kinds = (&results[nacked], &results[returned], &results[silent]);
        assert!(
            matches!(
                kinds,
                (
                    Err(PublishError::Nacked { .. }),
                    Err(PublishError::Unroutable { .. }),
                    Err(PublishError::Unconfirmed { .. })
                )
            ),
            "{order:?}: {kinds:?}"
        );
        fixture.assert_ok_is_there_once(&results).await;
    }
    fixture.assert_goes_on().await;
    fixture.delete().await;
}

/// A message that is not answered in time has no result until it is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_confirm_is_waited_for_and_counts() {
    let fixture = Fixture::new("late").await;
    let letters = fixture.letters();
    let [_, victim, _] = victims();
    fixture.confirms.strike(marker(victim), Strike::Late);
    fixture.confirms.hold_until(letters.len());
    let (results, late) = fixture
        .publisher
        .publish_once(&letters.iter().collect::<Vec<_>>())
        .await;
    assert!(results[victim].is_none(), "{results:?}");
    assert!(results.iter().flatten().all(Result::is_ok), "{results:?}");
    let unanswered = results.iter().filter(|result| result.is_none()).count();
    // The late message's channel is not reused in the meantime, and does not block other channels.
    fixture.confirms.hold_until(IN_FLIGHT);
    let others = fixture.publisher.publish_all(&letters).await;
    assert!(others.iter().all(Result::is_ok), "{others:?}");
    fixture.confirms.release();
    let late = late.unwrap().results().await;
    assert_eq!(late.len(), unanswered);
    assert!(late.iter().all(Result::is_ok), "{late:?}");
    let arrived = fixture.arrived().await;
    assert!((0..IN_FLIGHT).all(|lead| arrived[&lead] == 2), "{arrived:?}");
    fixture.assert_goes_on().await;
    fixture.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_that_never_comes_is_waited_for_until_the_connection_is_replaced() {
    let fixture = Fixture::new("never").await;
    let letters = fixture.letters();
    let [first, ..] = victims();
    fixture.confirms.strike(marker(first), Strike::Silence);
    fixture.confirms.hold_until(letters.len());
    let (results, late) = fixture
        .publisher
        .publish_once(&letters.iter().collect::<Vec<_>>())
        .await;
    assert!(results[first].is_none(), "{results:?}");
    let began = std::time::Instant::now();
    let late = late.unwrap().results().await;
    assert!(began.elapsed() >= CONFIRM_AGE_MAX);
    assert!(
        matches!(
            late.as_slice(),
            [Err(PublishError::Broken { .. } | PublishError::Unconfirmed { .. })]
        ),
        "{late:?}"
    );
    wait_for("there is a connection again", PUBLISH_TIMEOUT * 5, || async {
        let letter = letter(&fixture.topology, IN_FLIGHT);
        fixture
            .publisher
            .publish(&letter)
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    fixture.arrived().await;
    fixture.assert_goes_on().await;
    fixture.delete().await;
}

/// Nacks by the broker itself, not by the proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_fails_what_it_refused_and_holds_what_was_ok() {
    const ROOM: i32 = 40;
    let prefix = prefix("full");
    let connection = Connection::connect(&url(), ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let topology = Topology::new(&prefix, &[]);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(ROOM));
    arguments.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    let durable = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare(topology.dead().into(), durable, arguments)
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let config = Config::new(&url(), prefix.as_str()).unwrap();
    let publisher = Publisher::new(Link::open(&config, "broker tests", stop.clone()), &config);

    let messages: Vec<_> = (0..IN_FLIGHT).map(|lead| letter(&topology, lead)).collect();
    let results = publisher.publish_all(&messages).await;
    let refused = results
        .iter()
        .filter(|result| matches!(result, Err(PublishError::Nacked { .. })))
        .count();
    let ok = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(
        (ok, refused),
        (ROOM as usize, IN_FLIGHT - ROOM as usize),
        "{results:?}"
    );
    let amqp = Amqp::connect(&url(), &prefix).await;
    assert_eq!(amqp.ready("dead").await, ROOM as u32);
    channel
        .queue_delete(topology.dead().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    stop.cancel();
}
