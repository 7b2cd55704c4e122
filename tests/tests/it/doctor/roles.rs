//! Tests that doctor reports what running roles notice, and what they fail to do.

use std::time::Duration;

use e2e::{Installation, Node, Receiver, Role, SOON, ShiftedClock, event, wait_for, wait_until};
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::FieldTable,
};

use super::{Said, doctor};

/// How many times a message is returned to its queue, which is more often than a few restarts cause.
const RETURNS: usize = 12;
/// The number of restarts within ten minutes from which on doctor reports a consumer as reconnecting.
const RESTARTS: usize = 5;
/// How many times a role has to start and end within 15 minutes until doctor reports it.
const ENDS: usize = 3;

async fn channel(url: &str) -> Channel {
    let connection = Connection::connect(url, ConnectionProperties::default());
    connection.await.unwrap().create_channel().await.unwrap()
}

/// Waits until doctor prints a line with all of these words.
async fn wait_for_line(installation: &Installation, words: &[&str]) -> Said {
    wait_for("doctor says so", SOON, async || {
        let said = doctor(installation).await;
        let has = said
            .text
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)));
        if has { Ok(said) } else { Err(said.text) }
    })
    .await
}

/// Returns the first message of the queue to it [`RETURNS`] times.
async fn return_often(channel: &Channel, queue: &str) {
    let consuming = channel.basic_consume(
        queue.into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut consumer = consuming.await.unwrap();
    for _ in 0..RETURNS {
        let delivery = consumer.next().await.unwrap().unwrap();
        let requeue = BasicNackOptions {
            requeue: true,
            ..BasicNackOptions::default()
        };
        delivery.acker.nack(requeue).await.unwrap();
    }
    channel
        .basic_cancel(consumer.tag(), <_>::default())
        .await
        .unwrap();
}

async fn restarts(worker: &Role) -> f64 {
    worker.metric("magnetite_consumer_restarts_total", "due").await
}

/// Panics unless one of the roles has a counter of each trouble for every queue.
async fn assert_counters_exist(worker: &Role, recorder: &Role) {
    let metrics = recorder.get("/metrics").await.unwrap() + &worker.get("/metrics").await.unwrap();
    for queue in ["events", "due", "held", "journal", "dead", "rejected"] {
        for name in [
            "consumer_restarts",
            "messages_returned_often",
            "messages_unreadable",
        ] {
            let name = format!("magnetite_{name}_total{{queue=\"{queue}\"}}");
            assert!(metrics.contains(&name), "{name}: {metrics}");
        }
    }
}

/// Publishes a message that is too large for a worker to read.
async fn publish_too_large(broker: &Channel, exchange: &str) {
    let large = vec![b' '; 3 * 1024 * 1024];
    broker
        .basic_publish(
            exchange.into(),
            "lead.created".into(),
            BasicPublishOptions::default(),
            &large,
            BasicProperties::default(),
        )
        .await
        .unwrap();
}

/// Deletes the queue of due deliveries [`RESTARTS`] times. Each time, the worker loses its consumer and has
/// to get a new one.
async fn delete_due_often(broker: &Channel, installation: &Installation, worker: &Role) {
    let due = format!("{}.due", installation.prefix());
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    for restart in 1..=RESTARTS {
        broker
            .queue_delete(due.as_str().into(), QueueDeleteOptions::default())
            .await
            .unwrap();
        wait_for("it was noticed", SOON, async || {
            match restarts(worker).await as usize {
                count if count >= restart => Ok(()),
                count => Err(count.to_string()),
            }
        })
        .await;
        wait_for("it is consumed again", SOON, async || {
            let asking = channel(installation.broker_url()).await;
            let found = asking
                .queue_declare(due.as_str().into(), passive, FieldTable::default())
                .await;
            match found.map(|queue| queue.consumer_count()) {
                Ok(1) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_unreadable_messages_and_lost_consumers_are_named() {
    let node = Node::start().await;
    let installation = Installation::with("troubles", node.url(), &[1000], &[]).await;
    let receiver = Receiver::ok().await;
    installation.endpoint("org_1", &receiver.url()).await;
    let broker = channel(node.url()).await;
    let events = format!("{}.events", installation.prefix());
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    return_often(&broker, &events).await;
    broker.close(200, "OK".into()).await.unwrap();

    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    assert_counters_exist(&worker, &recorder).await;
    wait_until("the message is delivered all the same", SOON, || {
        receiver.accepted() == 1
    })
    .await;
    assert!(
        worker
            .metric("magnetite_messages_returned_often_total", "events")
            .await
            >= 1.0
    );
    let said = wait_for_line(
        &installation,
        &["warn", "poison", "worker on ", "events", "was returned"],
    )
    .await;
    said.lines(&["ok", "roles", "recorder on ", "worker on "]);
    assert!(said.is_ok, "{}", said.text);

    let broker = channel(node.url()).await;
    publish_too_large(&broker, &events).await;
    wait_for_line(&installation, &["warn", "unreadable", "worker on ", "events"]).await;

    delete_due_often(&broker, &installation, &worker).await;
    wait_for_line(
        &installation,
        &[
            "warn",
            "reconnecting",
            "worker on ",
            "due",
            "lost or refused 5 times",
        ],
    )
    .await;
    assert!(worker.terminate().await);
    assert!(recorder.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_without_a_consumer_is_named_while_its_role_runs() {
    let node = Node::start().await;
    let mut installation = Installation::with("idle", node.url(), &[1000], &[]).await;
    let prefix = installation.prefix().to_owned();
    // The roles use another prefix by mistake.
    installation.set("MAGNETITE_BROKER__PREFIX", &format!("{prefix}-other"));
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    let said = doctor(&installation).await;
    assert!(said.is_ok, "{}", said.text);
    installation.set("MAGNETITE_BROKER__PREFIX", &prefix);
    let said = doctor(&installation).await;
    for (role, queue) in [
        ("worker", "events"),
        ("worker", "due"),
        ("recorder", "journal"),
        ("recorder", "dead"),
    ] {
        said.lines(&[
            "fail",
            "consumers",
            &format!("{prefix}.{queue} has no consumer, although a {role} is running"),
        ]);
    }
    assert!(!said.is_ok, "{}", said.text);
    assert!(worker.terminate().await);
    assert!(recorder.terminate().await);
}

/// The role announces its end when it is terminated, but not when it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_ends_again_and_again_is_named() {
    let installation = Installation::new("ending").await;
    for _ in 1..ENDS {
        assert!(installation.worker().await.terminate().await);
    }
    let said = doctor(&installation).await;
    assert!(!said.text.contains("started and ended"), "{}", said.text);
    installation.worker().await.kill().await;
    let times = format!("started and ended {ENDS} times in the last 15m");
    wait_for_line(&installation, &["warn", "restarts", "worker on ", &times]).await;
    let said = doctor(&installation).await;
    assert!(said.is_ok, "{}", said.text);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_whose_clock_is_40_days_ahead_is_named() {
    let installation = Installation::new("ahead").await;
    let wrong = ShiftedClock::ahead_by(Duration::from_hours(40 * 24), &installation.directory()).await;
    let recorder = installation.launch(wrong.shift(installation.command(&["recorder"])), "ahead");
    recorder.wait_until_ready().await;
    let said = wait_for_line(&installation, &["fail", "clocks", "recorder on ", "1month"]).await;
    assert!(!said.is_ok, "{}", said.text);
    assert!(recorder.terminate().await);
    installation.delete().await;
}
