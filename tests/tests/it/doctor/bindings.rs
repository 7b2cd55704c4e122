//! Tests bindings that were removed.

use std::time::Duration;

use e2e::{Answer, Installation, Load, Node, Receiver, Role, SOON, event, wait_for, wait_until};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{BasicPublishOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions},
    types::{FieldTable, ShortString},
};

use super::{check, doctor};

/// Workers check the bindings every minute, and the broker retries messages without a binding after 10 s. The
/// limit is twice that, for a busy machine.
const MENDED: Duration = Duration::from_secs(140);
const DELAYS_MS: [u64; 1] = [1000];

async fn channel(installation: &Installation) -> Channel {
    let connection = Connection::connect(installation.broker_url(), ConnectionProperties::default());
    connection.await.unwrap().create_channel().await.unwrap()
}

fn failing_once() -> impl Fn(&e2e::Request, usize) -> Answer + Send + Sync {
    |request, _| Answer::status(if request.attempt() == 1 { 500 } else { 200 })
}

async fn missing(worker: &Role, exchange: &str) -> f64 {
    worker.metric("magnetite_bindings_missing_total", exchange).await
}

/// Panics unless the worker counts missing bindings of every exchange, and has counted none.
async fn assert_none_missing(worker: &Role) {
    let metrics = worker.get("/metrics").await.unwrap();
    for exchange in ["events", "deliveries", "changes"] {
        assert!(
            metrics.contains(&format!(
                "magnetite_bindings_missing_total{{exchange=\"{exchange}\"}} 0"
            )),
            "{metrics}"
        );
    }
}

/// Unbinds the queue of due deliveries, and checks that both commands and the worker notice.
async fn unbind_due(installation: &Installation, worker: &Role) {
    installation.amqp().unbind("deliveries", "due", "due").await;
    let said = doctor(installation).await;
    said.lines(&["fail", "bindings", ".deliveries --due-->", ".due"]);
    said.lines(&["fix: run `magnetite topology declare`"]);
    assert!(!said.is_ok, "{}", said.text);
    let said = check(installation).await;
    said.lines(&["missing", ".due", ".deliveries --due-->"]);
    assert!(!said.is_ok, "{}", said.text);
    wait_for("the worker has seen it", MENDED, async || {
        match missing(worker, "deliveries").await {
            0.0 => Err("no".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
}

/// Unbinds the queue of events, and waits until it accepts an event again.
async fn unbind_events(installation: &Installation) {
    installation.amqp().unbind("events", "events", "#").await;
    doctor(installation)
        .await
        .lines(&["fail", "bindings", ".events --#-->"]);
    let body = event("org_1", "lead_after");
    wait_for("events are taken again", MENDED, async || {
        let output = installation
            .cli_with_input(&["publish"], format!("{body}\n").as_bytes())
            .await;
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    })
    .await;
}

/// Panics unless the messages that the checks published are gone, and the journal has this many events.
async fn assert_only_events_recorded(installation: &Installation, worker: &Role, events: usize) {
    installation.wait_until_drained(SOON).await;
    assert_eq!(installation.amqp().ready("rejected").await, 0);
    assert_eq!(installation.json(&["rejected", "list"]).await.len(), 0);
    assert!(worker.metric("magnetite_rejected_total", "").await < 1.0);
    let audit = installation.cli(&["audit", "--since", "1h"]).await;
    let audit = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert!(audit.contains(&format!("events   {events}\n")), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unbound_queue_is_named_and_bound_again_within_about_a_minute() {
    let node = Node::start().await;
    let installation = Installation::with("unbound", node.url(), &DELAYS_MS, &[]).await;
    let receiver = Receiver::new(failing_once()).await;
    installation.endpoint("org_1", &receiver.url()).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    assert_none_missing(&worker).await;

    let load = Load::start(&installation, "org_1", 20);
    wait_until("retries succeed", SOON, || receiver.accepted() > 20).await;
    unbind_due(&installation, &worker).await;
    let published = load.stop().await.len();
    wait_until("every retry was made", MENDED, || {
        receiver.accepted() == published
    })
    .await;
    doctor(&installation).await.lines(&["ok", "bindings"]);

    unbind_events(&installation).await;
    wait_until("it is delivered", SOON, || receiver.accepted() == published + 1).await;
    assert!(missing(&worker, "changes").await < 1.0);
    assert_only_events_recorded(&installation, &worker, published + 1).await;
    assert!(worker.terminate().await);
    assert!(recorder.terminate().await);
    installation.delete().await;
}

/// The exchange was created again by hand, with the type that the management UI proposes. Its binding routes
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_of_another_type_is_named() {
    let installation = Installation::new("exchange-type").await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    assert!(worker.terminate().await);
    let name = format!("{}.events", installation.prefix());
    let broker = channel(&installation).await;
    let exchange = || lapin::types::ShortString::from(name.as_str());
    broker
        .exchange_delete(exchange(), ExchangeDeleteOptions::default())
        .await
        .unwrap();
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    broker
        .exchange_declare(exchange(), ExchangeKind::Direct, durable, FieldTable::default())
        .await
        .unwrap();
    broker
        .queue_bind(
            exchange(),
            exchange(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    let said = doctor(&installation).await;
    said.lines(&["fail", &name, "inequivalent arg 'type'"]);
    let said = check(&installation).await;
    said.lines(&["different", &name]);
    assert!(!said.is_ok, "{}", said.text);
    broker
        .exchange_delete(exchange(), ExchangeDeleteOptions::default())
        .await
        .unwrap();
    assert!(recorder.terminate().await);
    installation.delete().await;
}

/// The messages are as a worker of an earlier version has rejected them, and a recorder finds them.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_an_earlier_version_rejected_is_dropped_and_nothing_else_is() {
    let installation = Installation::new("canary").await;
    let recorder = installation.recorder().await;
    let broker = channel(&installation).await;
    let publish = async |body: &[u8], kind: &str| {
        let headers = [
            ("magnetite-rejection", "rej_00000000000000000000000000000001"),
            ("magnetite-reason", "not_json"),
            ("magnetite-detail", "expected value"),
            ("magnetite-source", "events"),
        ];
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert(name.into(), lapin::types::AMQPValue::LongString(value.into()));
        }
        table.insert(
            "magnetite-rejected-ms".into(),
            lapin::types::AMQPValue::LongLongInt(1_795_900_000_000),
        );
        let properties = BasicProperties::default()
            .with_type(ShortString::from(kind))
            .with_headers(table);
        let queue = format!("{}.rejected", installation.prefix());
        broker
            .basic_publish(
                "".into(),
                queue.as_str().into(),
                BasicPublishOptions::default(),
                body,
                properties,
            )
            .await
            .unwrap();
    };
    publish(b"", "magnetite.canary").await;
    publish(b"not json", "magnetite.canary").await;
    let listed = wait_for(
        "the rejected message is listed",
        SOON,
        async || match installation.json(&["rejected", "list"]).await {
            listed if listed.is_empty() => Err("none".to_owned()),
            listed => Ok(listed),
        },
    )
    .await;
    installation.amqp().wait_for_ready("rejected", 0, SOON).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(recorder.terminate().await);
    installation.delete().await;
}

/// A worker whose queue of changes is unbound only looks for changes at intervals, so it declares a new
/// queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_not_told_of_changes_any_more_makes_a_new_queue() {
    let node = Node::start().await;
    let installation = Installation::with("untold", node.url(), &DELAYS_MS, &[]).await;
    let worker = installation.worker().await;
    let queues = async || {
        let listed = node.ctl(&["-q", "list_queues", "name"]).await;
        let prefix = format!("{}.changes.", installation.prefix());
        let found = listed
            .lines()
            .find_map(|name| name.strip_prefix(&prefix).map(str::to_owned));
        found.ok_or("no queue of changes")
    };
    let first = wait_for("it has a queue", SOON, async || {
        queues().await.map_err(str::to_owned)
    })
    .await;
    let remove = format!(
        "rabbit_binding:remove({{binding, {{resource, <<\"/\">>, exchange, <<\"{0}.changes\">>}}, <<>>, \
         {{resource, <<\"/\">>, queue, <<\"{0}.changes.{first}\">>}}, []}}, <<\"test\">>).",
        installation.prefix()
    );
    node.ctl(&["-q", "eval", &remove]).await;
    wait_for("it has another queue", MENDED, async || match queues().await {
        Ok(now) if now != first => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let missing = missing(&worker, "changes").await;
    assert!((missing - 1.0).abs() < 0.5, "{missing}");
    assert!(worker.terminate().await);
    installation.delete().await;
}
