//! Tests malformed input: it is quarantined with a reason, and all well-formed messages are delivered.

mod kinds;
mod unreadable;

use std::{collections::HashMap, time::Duration};

use e2e::{Endpoint, Found, Installation, Receiver, chance, event, report, seed, wait_until};
use futures_util::future::join_all;
use kinds::{Kind, Sent, kinds, text};
use lapin::{
    Confirmation,
    types::{AMQPValue, FieldTable, ShortString},
};

const LONG: Duration = Duration::from_mins(1);
const BAD: usize = 1000;
const GOOD: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn of_1000_bad_messages_among_1000_good_ones_each_is_quarantined_with_its_reason_and_no_good_one() {
    let installation = Installation::new("malformed").await;
    let receiver = Receiver::ok().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let workers = [installation.worker().await, installation.worker().await];
    let kinds = kinds(&endpoint);
    assert!(kinds.len() >= 30, "{} kinds", kinds.len());
    let mut messages: Vec<Sent> = (0..BAD).map(|n| kinds[n % kinds.len()].sent.clone()).collect();
    messages.extend((0..GOOD).map(|n| good(n, &endpoint)));
    publish(&installation, &messages).await;

    installation
        .amqp()
        .wait_for_ready("rejected", BAD as u32, LONG)
        .await;
    wait_until("every good one arrives", LONG, || {
        receiver.receipts().len() == GOOD
    })
    .await;
    let rejected = installation.amqp().drain("rejected").await;
    for (number, found) in numbered(&rejected) {
        assert!(number < BAD, "a good one was rejected: {found:?}");
        assert_quarantined(found, &kinds[number % kinds.len()]);
    }
    assert_eq!(numbered(&rejected).len(), BAD, "each of them once");
    for (lead, receipts) in receiver.receipts() {
        assert_eq!((lead.starts_with("good_"), receipts.len()), (true, 1), "{lead}");
    }
    let mut counted = 0.0;
    for worker in &workers {
        let panics = worker.metric("magnetite_rejected_total", "panic").await;
        assert!(panics < 0.5, "{panics} panics");
        counted += worker.metric("magnetite_rejected_total", "").await;
    }
    assert_eq!(counted as usize, BAD, "what the workers count");
    installation.wait_until_drained(LONG).await;
    report(
        "malformed input",
        format!(
            "seed {}: {BAD} bad messages of {} kinds among {GOOD} good ones, two workers: {} quarantined with the right \
             reason, {} delivered",
            seed(),
            kinds.len(),
            rejected.len(),
            receiver.count()
        ),
    );
    for worker in workers {
        assert!(worker.terminate().await);
    }
    installation.delete().await;
}

/// Publishes the messages in an order that depends on the seed. A message's number is its index.
async fn publish(installation: &Installation, messages: &[Sent]) {
    let mut order: Vec<usize> = (0..messages.len()).collect();
    order.sort_by_key(|number| chance(("order", number), u64::MAX));
    for window in order.chunks(64) {
        let confirms = window.iter().map(|number| async {
            let sent = &messages[*number];
            let (exchange, key) = sent.to.address();
            let properties = sent.properties(*number);
            installation
                .amqp()
                .publish_to(exchange, key, &sent.body, properties)
                .await
        });
        for confirmation in join_all(confirms).await {
            assert_eq!(confirmation, Confirmation::Ack(None));
        }
    }
}

/// Returns a valid message. Some of them are unusual, but still valid.
fn good(n: usize, endpoint: &Endpoint) -> Sent {
    let event = event("org_1", &format!("good_{n}"));
    match n % 8 {
        0 => Sent::event(event).with_id(&format!("evt-{n}")),
        1 => Sent::event(event.replace(',', "\n ,\t")),
        2 => Sent::event(event.replace(
            "\"data\":{",
            "\"x\":[1e99,null],\"data\":{\"event\":7,\"event\":8,",
        )),
        3 => Sent::event(event).with_header("x-death", Some(AMQPValue::FieldTable(FieldTable::default()))),
        4 => Sent::event(event).with_header("traceparent", Some(AMQPValue::Float(0.5))),
        5 => Sent::delivery(event, endpoint),
        6 => Sent::delivery(event, endpoint)
            .with_header("magnetite-attempt", Some(AMQPValue::ShortShortUInt(9))),
        _ => Sent::event(event).with_header("magnetite-reason", Some(text("not_json"))),
    }
}

/// Returns the messages that were found, by their numbers.
fn numbered(found: &[Found]) -> HashMap<usize, &Found> {
    let number = |found: &Found| found.properties.kind().as_ref()?.as_str().parse().ok();
    found
        .iter()
        .map(|found| (number(found).expect("the type is kept"), found))
        .collect()
}

fn assert_quarantined(found: &Found, kind: &Kind) {
    let (name, sent) = (kind.name, &kind.sent);
    assert_eq!(found.header("magnetite-reason"), kind.reason, "{name}");
    assert_eq!(found.header("magnetite-source"), sent.to.source(), "{name}");
    let detail = found.header("magnetite-detail");
    assert!(detail.contains(kind.word), "{name}: {detail}");
    assert!(found.body == sent.body, "{name}: the body is kept");
    let message_id = found.properties.message_id().as_ref().map(ShortString::as_str);
    assert_eq!(
        message_id,
        sent.message_id.as_deref(),
        "{name}: the message_id is kept"
    );
}

/// The message has as many of our headers as fit into one frame. The quarantined message must also fit into a
/// frame.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_headers_fill_a_frame_is_quarantined() {
    let installation = Installation::new("full-frame").await;
    let receiver = Receiver::ok().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let worker = installation.worker().await;
    let mut sent = Sent::event("{}");
    // Each header takes 519 bytes. Together they take all but 100 of the 131,064 bytes of a frame of
    // RabbitMQ's default size.
    for n in 100..352 {
        sent.headers
            .insert(format!("magnetite-{n}").into(), text(&"x".repeat(500)));
    }
    sent.headers
        .insert("magnetite-last".into(), text(&"x".repeat(150)));
    publish(&installation, &[sent, good(0, &endpoint)]).await;
    installation.amqp().wait_for_ready("rejected", 1, LONG).await;
    wait_until("the good one arrives", LONG, || receiver.count() == 1).await;
    let failures = worker.metric("magnetite_publish_failures_total", "").await;
    assert!(failures < 0.5, "{failures} publishes failed");
    let rejected = installation.amqp().drain("rejected").await;
    assert_eq!(rejected[0].header("magnetite-reason"), "missing_field");
    assert!(worker.terminate().await);
    installation.delete().await;
}
