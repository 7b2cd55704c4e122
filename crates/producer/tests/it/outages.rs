//! Tests with a broker that is unreachable, is restarted, or blocks publishing.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use producer::{Config, Error, NotReady, Producer};
use tokio::net::TcpListener;

use crate::rig::{Node, Rig, event, wait_for};

/// Additional time that a bounded wait may take on a busy machine.
const SLACK: Duration = Duration::from_secs(3);
const BOUND: Duration = Duration::from_millis(500);
/// The time for recovery: a node takes seconds to restart, and its queues take some more to elect a leader.
const RECOVERY: Duration = Duration::from_mins(1);

fn impatient(mut config: Config) -> Producer {
    config.publish_timeout = BOUND;
    Producer::connect(config)
}

async fn in_time<T>(call: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let result = call.await;
    assert!(began.elapsed() < BOUND + SLACK, "took {:?}", began.elapsed());
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_every_call_ends_in_time_and_says_where_it_looked() {
    // The test keeps the port bound and never accepts a connection, so that clients get no answer.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap().port();
    for port in [1, silent] {
        let config = Config::new(&format!("amqp://guest:guest@127.0.0.1:{port}/%2f"), "none").unwrap();
        let producer = impatient(config);
        let not_ready = in_time(producer.ready(BOUND)).await.unwrap_err();
        assert!(matches!(not_ready, NotReady::NotConnected { .. }), "{not_ready}");
        assert!(
            not_ready.to_string().contains(&format!("127.0.0.1:{port}")),
            "{not_ready}"
        );

        let one = event(1);
        let error = in_time(producer.publish(&one)).await.unwrap_err();
        assert!(matches!(error, Error::NotConnected { .. }), "{error}");
        assert!(error.to_string().contains(one.id.as_str()), "{error}");

        let events: Vec<_> = (0..1000).map(event).collect();
        let results = in_time(producer.publish_batch(&events)).await;
        assert_eq!(results.len(), events.len());
        for (event, result) in events.iter().zip(results) {
            let error = result.unwrap_err();
            assert_eq!(error.event_id(), &event.id);
            assert!(
                matches!(error, Error::NotConnected { .. } | Error::Skipped { .. }),
                "{error}"
            );
        }
        in_time(producer.shutdown()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_loses_nothing_confirmed_and_the_producer_finds_it_again() {
    let (node, url) = Node::start().await;
    let rig = Rig::new(&url).await;
    rig.declare().await;
    // RabbitMQ persists the name of a new quorum queue up to a second late. If the node is killed earlier, it
    // restarts with an empty queue without a leader, and the messages that it had confirmed are lost. A
    // graceful stop persists everything.
    node.stop().await;
    node.start_again().await;
    let producer = impatient(rig.config.clone());
    let mut confirmed = BTreeSet::new();
    wait_for("the first event", RECOVERY, async || {
        producer
            .publish(&event(1))
            .await
            .map(|id| confirmed.insert(id))
            .is_ok()
    })
    .await;
    let batch: Vec<_> = (0..500).map(event).collect();
    confirmed.extend(producer.publish_batch(&batch).await.into_iter().flatten());

    node.kill().await;
    let during = event(2);
    let error = in_time(producer.publish(&during)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let error = in_time(producer.publish(&during)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");

    node.start_again().await;
    wait_for("the same event, published again", RECOVERY, async || {
        producer
            .publish(&during)
            .await
            .map(|id| confirmed.insert(id))
            .is_ok()
    })
    .await;
    let rig = Rig::of(&url, rig.config.prefix.clone()).await;
    let arrived: BTreeSet<_> = rig.take_all().await.iter().map(|m| m.id().to_owned()).collect();
    let lost: Vec<_> = confirmed
        .iter()
        .filter(|id| !arrived.contains(id.as_str()))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(arrived.contains(during.id.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_memory_alarm_events_are_blocked_in_time_and_published_once_it_is_over() {
    let (node, url) = Node::start().await;
    let rig = Rig::new(&url).await;
    rig.declare().await;
    let producer = impatient(rig.config.clone());
    wait_for("the first event", RECOVERY, async || {
        producer.publish(&event(1)).await.is_ok()
    })
    .await;

    node.set_memory_watermark("0.0001").await;
    // The broker only notifies a connection that it is blocked when the connection publishes, and that
    // publish may still succeed.
    let mut last = None;
    wait_for("a blocked event", RECOVERY, async || {
        last = in_time(producer.publish(&event(2))).await.err();
        matches!(last, Some(Error::Blocked { .. }))
    })
    .await;
    let error = last.unwrap();
    assert!(error.to_string().contains("alarm"), "{error}");
    let not_ready = in_time(producer.ready(BOUND)).await.unwrap_err();
    assert!(matches!(not_ready, NotReady::Blocked { .. }), "{not_ready}");
    let batch: Vec<_> = (0..1000).map(event).collect();
    let results = in_time(producer.publish_batch(&batch)).await;
    assert!(
        matches!(results[0], Err(Error::Blocked { .. })),
        "{:?}",
        results[0]
    );
    assert!(
        matches!(results[999], Err(Error::Skipped { .. })),
        "{:?}",
        results[999]
    );

    node.set_memory_watermark("0.6").await;
    producer.ready(RECOVERY).await.unwrap();
    let after = event(3);
    wait_for("an event after the alarm", RECOVERY, async || {
        producer.publish(&after).await.is_ok()
    })
    .await;
    let arrived = rig.take_all().await;
    assert!(arrived.iter().any(|message| message.id() == after.id.as_str()));
}
