//! Tests messages whose properties an AMQP library cannot decode, and which only a raw publisher can send.

use std::{iter, time::Duration};

use e2e::{
    Endpoint, Installation, Load, Raw, RawMessage, Receiver, Role, event, long, report, short, wait_for,
};
use serde_json::Value;

use super::LONG;

/// The limit on the time of an event while such messages are processed, in milliseconds.
const DELAY_MAX_MS: f64 = 5000.0;
const PER_SECOND: u32 = 100;

/// The result for a message that the broker has accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is quarantined, because its properties cannot be decoded.
    Unreadable,
    /// It is delivered, because it is a valid event nevertheless.
    Delivered,
}

struct Odd {
    name: String,
    message: RawMessage,
    fate: Fate,
}

const CONTENT_TYPE: u16 = 1 << 15;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const TYPE: u16 = 1 << 5;

/// Returns the properties of a persistent message, with one more property before or after the delivery mode.
fn properties(flag: u16, part: &[u8]) -> Vec<u8> {
    let flags = (flag | DELIVERY_MODE).to_be_bytes();
    if flag > DELIVERY_MODE {
        [&flags[..], part, &[2]].concat()
    } else {
        [&flags[..], &[2], part].concat()
    }
}

fn headers(entries: &[u8]) -> Vec<u8> {
    properties(HEADERS, &long(entries))
}

/// Returns properties with a header `k` of this type.
fn value(letter: u8, value: &[u8]) -> Vec<u8> {
    headers(&[&short(b"k")[..], &[letter], value].concat())
}

/// Returns properties with a header that consists of `depth` nested arrays or tables.
fn nested(letter: u8, depth: usize) -> Vec<u8> {
    let name: &[u8] = if letter == b'F' { &[1, b'n'] } else { &[] };
    let inner =
        iter::repeat_n((), depth).fold(Vec::new(), |inner, ()| [name, &[letter], &long(&inner)].concat());
    if letter == b'F' {
        headers(&inner)
    } else {
        headers(&[&short(b"k")[..], &inner].concat())
    }
}

/// A part of the names of kinds with deeply nested headers.
const DEEP: &str = " deep: ";

/// Publishes an event, and waits until it is received, which means that all earlier messages have been
/// processed.
async fn passed(raw: &mut Raw, receiver: &Receiver, lead: &str) {
    let message = RawMessage {
        exchange: "events",
        routing_key: b"test".to_vec(),
        properties: DELIVERY_MODE.to_be_bytes().into_iter().chain([2]).collect(),
        body: event("org_1", lead).into_bytes(),
    };
    raw.publish(&message).await.unwrap();
    wait_for(lead, LONG, || async {
        let has_come = receiver.receipts().contains_key(lead);
        has_come.then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;
}

/// A name, properties, and the result for a message with them.
type Kind = (String, Vec<u8>, Fate);

/// Returns every text property in every wrong encoding.
fn wrong_texts() -> Vec<Kind> {
    let mut odd: Vec<Kind> = Vec::new();
    let mut add = |name: String, properties, fate| odd.push((name, properties, fate));
    let texts = [
        ("content_type", 15),
        ("content_encoding", 14),
        ("correlation_id", 10),
        ("reply_to", 9),
        ("message_id", 7),
        ("type", 5),
        ("app_id", 3),
        ("cluster_id", 2),
    ];
    let wrong: [(&str, &[u8]); 5] = [
        ("Latin-1", b"pipeline-\xe9"),
        ("UTF-16", b"\xff\xfee\x00"),
        ("a surrogate", b"\xed\xa0\x80"),
        ("an overlong slash", b"\xc0\xaf"),
        ("cut in a character", b"lead-\xe6\x97"),
    ];
    for (property, bit) in texts {
        for (encoding, text) in wrong {
            add(
                format!("{property}: {encoding}"),
                properties(1 << bit, &short(text)),
                Fate::Unreadable,
            );
        }
    }
    odd
}

/// Returns headers of every type, and with every kind of fault.
fn headers_of_all_kinds() -> Vec<Kind> {
    let mut odd: Vec<Kind> = Vec::new();
    let mut add = |name: String, properties, fate| odd.push((name, properties, fate));
    add(
        "a header's name in Latin-1".into(),
        headers(&[&short(b"\xe9")[..], b"V"].concat()),
        Fate::Unreadable,
    );
    for (letter, depth) in [
        (b'A', 33),
        (b'A', 1000),
        (b'A', 20_000),
        (b'F', 33),
        (b'F', 1000),
        (b'F', 15_000),
    ] {
        let name = format!(
            "{}{DEEP}{depth}",
            if letter == b'A' { "arrays" } else { "tables" }
        );
        add(name, nested(letter, depth), Fate::Unreadable);
    }
    let types: [(u8, &[u8]); 15] = [
        (b't', &[7]),
        (b'b', &[0x80]),
        (b's', &[0x80, 0]),
        (b'I', &[0x80, 0, 0, 0]),
        (b'l', &[0xff; 8]),
        (b'f', &[0x7f, 0xc0, 0, 1]),
        (b'd', &[0x7f, 0xf8, 0, 0, 0, 0, 0, 1]),
        (b'D', &[255, 0xff, 0xff, 0xff, 0xff]),
        (b'T', &[0xff; 8]),
        (b'S', &[0, 0, 0, 2, 0xff, 0xfe]),
        (b'x', &[0, 0, 0, 2, 0, 0xff]),
        (b'V', &[]),
        (b'A', &[0, 0, 0, 0]),
        (b'F', &[0, 0, 0, 0]),
        (b'A', &[0, 0, 0, 3, b'V', b't', 0]),
    ];
    for (letter, bytes) in types {
        add(
            format!("a header of type {}", letter as char),
            value(letter, bytes),
            Fate::Delivered,
        );
    }
    add(
        "the same header twice".into(),
        headers(&[&short(b"k")[..], b"V", &short(b"k"), b"V"].concat()),
        Fate::Delivered,
    );
    add("a header without a name".into(), headers(b"\0V"), Fate::Delivered);
    add(
        "as large as a frame".into(),
        value(b'S', &long(&vec![b'x'; 131_030])),
        Fate::Delivered,
    );
    add("30 levels deep".into(), nested(b'A', 30), Fate::Delivered);
    add(
        "a content type that is empty".into(),
        properties(CONTENT_TYPE, &short(b"")),
        Fate::Delivered,
    );
    add(
        "a type with a NUL".into(),
        properties(TYPE, &short(b"a\0b")),
        Fate::Delivered,
    );
    odd
}

/// Returns all messages. They are for the events exchange, and some have a routing key that is not UTF-8.
fn corpus() -> Vec<Odd> {
    let odd = wrong_texts().into_iter().chain(headers_of_all_kinds());
    odd.enumerate()
        .map(|(number, (name, properties, fate))| Odd {
            name,
            message: RawMessage {
                exchange: "events",
                routing_key: if number % 7 == 0 {
                    b"lead.\xe9".to_vec()
                } else {
                    b"test".to_vec()
                },
                properties,
                body: event("org_1", &format!("odd_{number}")).into_bytes(),
            },
            fate,
        })
        .collect()
}

/// Returns messages that outgrow a frame because RabbitMQ adds headers with the queues that they have been
/// in.
fn outgrown(endpoint: &Endpoint) -> Vec<RawMessage> {
    let header =
        |name: &str, letter: u8, value: &[u8]| [&short(name.as_bytes())[..], &[letter], value].concat();
    let delivery = [
        header("magnetite-endpoint", b'S', &long(endpoint.id.as_bytes())),
        header("magnetite-run", b'l', &[0; 8]),
        header("magnetite-attempt", b'l', &[0, 0, 0, 0, 0, 0, 0, 1]),
        header("magnetite-deferrals", b'l', &[0; 8]),
        header("magnetite-trigger", b'S', &long(b"event")),
    ]
    .concat();
    let room = 131_064 - 12 - 2 - 4 - 1 - delivery.len();
    let filler = header("x", b'S', &long(&vec![b'x'; room - 2 - 1 - 4]));
    let body = event("org_1", "outgrown").into_bytes();
    ["delay.500", "delay.1000"]
        .map(|queue| RawMessage {
            exchange: "",
            routing_key: queue.as_bytes().to_vec(),
            properties: headers(&[&delivery[..], &filler].concat()),
            body: body.clone(),
        })
        .to_vec()
}

/// What became of the messages of [`corpus`] at the broker.
struct Published {
    taken: Vec<Odd>,
    /// The number of messages that the broker refused.
    refused: usize,
    /// The number of events that were published between them.
    apart: usize,
}

async fn connect(installation: &Installation) -> Raw {
    Raw::connect(installation.broker_url(), installation.prefix()).await
}

async fn publish_corpus(installation: &Installation, raw: &mut Raw, receiver: &Receiver) -> Published {
    let (mut taken, mut refused, mut apart) = (Vec::new(), 0, 0);
    for odd in corpus() {
        if raw.publish(&odd.message).await.is_ok() {
            // RabbitMQ 4 itself takes 2 to 3 s to deliver a header with 20,000 levels. The limit therefore
            // applies to each of these messages separately.
            if odd.name.contains(DEEP) {
                apart += 1;
                passed(raw, receiver, &format!("after_{apart}")).await;
            }
            taken.push(odd);
        } else {
            // A message that the broker refuses does not reach a worker.
            refused += 1;
            *raw = connect(installation).await;
        }
    }
    Published {
        taken,
        refused,
        apart,
    }
}

/// Waits until the receiver has this many events.
async fn wait_until_received(receiver: &Receiver, events: usize) {
    wait_for("all others arrive", LONG, || async {
        let distinct = receiver.distinct();
        if distinct == events {
            Ok(())
        } else {
            Err(format!("{distinct} of {events}"))
        }
    })
    .await;
}

/// Tests that measure under load. No other test runs at the same time.
mod alone {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn messages_that_no_library_can_read_hold_up_nothing_and_are_found_with_their_bytes() {
        let installation = Installation::with_delays("unreadable", &[500, 1000]).await;
        let receiver = Receiver::ok().await;
        let endpoint = installation.endpoint("org_1", &receiver.url()).await;
        let (worker, recorder) = (installation.worker().await, installation.recorder().await);
        let load = Load::start(&installation, "org_1", PER_SECOND);
        let mut raw = connect(&installation).await;
        let Published {
            taken,
            refused,
            apart,
        } = publish_corpus(&installation, &mut raw, &receiver).await;
        let outgrown = outgrown(&endpoint);
        for message in &outgrown {
            raw.publish(message).await.unwrap();
        }
        let unreadable: Vec<_> = taken.iter().filter(|odd| odd.fate == Fate::Unreadable).collect();
        assert!(unreadable.len() >= 30, "the broker took {}", unreadable.len());

        let count = unreadable.len() + outgrown.len();
        let rejected = recorded(&installation, count).await;
        let published = load.stop().await;
        for odd in &unreadable {
            assert_found(odd, &rejected);
        }
        let of_outgrown = rejected
            .iter()
            .filter(|one| text(one, "detail").contains("frame-max"));
        assert_eq!(of_outgrown.count(), outgrown.len());
        assert_eq!(rejected.len(), count, "no neighbour is rejected");

        let delivered = taken.len() - unreadable.len() + published.len() + apart;
        wait_until_received(&receiver, delivered).await;
        let mut latencies = receiver.latencies_ms(&published);
        latencies.sort_by(f64::total_cmp);
        let slowest = latencies.last().copied().unwrap();
        assert!(slowest < DELAY_MAX_MS, "an event took {slowest} ms");
        assert_counted(&installation, &worker, count).await;
        redriven(&installation, &receiver, unreadable[0], &rejected).await;
        report(
            "properties that no library can read",
            format!(
                "{count} among {} events at {PER_SECOND}/s ({refused} more kinds the broker refuses): the slowest event took \
                 {slowest:.0} ms, none was rejected",
                published.len()
            ),
        );
        assert!(worker.terminate().await && recorder.terminate().await);
        installation.delete().await;
    }

    /// RabbitMQ 3.10 accepts bodies of up to 128 MiB, 4.x of up to 16 MiB, and delivers as many of them as
    /// the prefetch allows. How long the events behind them take depends on the broker, which stores and
    /// sends 480 MiB first.
    #[tokio::test(flavor = "multi_thread")]
    async fn bodies_that_would_fill_the_memory_are_cut_and_quarantined() {
        const LARGE: usize = 40;
        const BODY_BYTES: usize = 12 * 1024 * 1024;
        const MEMORY_MAX_MIB: u64 = 256;
        let installation = Installation::with_delays("large", &[500]).await;
        let receiver = Receiver::ok().await;
        installation.endpoint("org_1", &receiver.url()).await;
        let (worker, recorder) = (installation.worker().await, installation.recorder().await);
        let load = Load::start(&installation, "org_1", PER_SECOND);
        let mut raw = connect(&installation).await;
        for _ in 0..LARGE {
            let large = RawMessage {
                exchange: "events",
                routing_key: b"test".to_vec(),
                properties: properties(CONTENT_TYPE, &short(b"application/json")),
                body: vec![b'x'; BODY_BYTES],
            };
            raw.publish(&large).await.unwrap();
        }
        wait_for("they are recorded", LONG, || async {
            match installation.json(&["rejected", "list"]).await {
                rejected if rejected.len() == LARGE => {
                    for one in &rejected {
                        assert_eq!(text(one, "reason"), "too_large");
                        assert!(text(one, "detail").contains(&BODY_BYTES.to_string()));
                        let told = text(&one["headers"], "magnetite-body-bytes");
                        assert_eq!(told, BODY_BYTES.to_string());
                    }
                    Ok(())
                }
                rejected => Err(format!("{} of {LARGE}", rejected.len())),
            }
        })
        .await;
        let published = load.stop().await;
        wait_until_received(&receiver, published.len()).await;
        let slowest = receiver.latencies_ms(&published).into_iter().fold(0.0, f64::max);
        let memory = [&worker, &recorder].map(Role::memory_max_mib);
        report(
            "bodies that are far too large",
            format!(
                "{LARGE} of 12 MiB among {} events at {PER_SECOND}/s: the slowest event took {slowest:.0} ms; worker and recorder at \
                 most {memory:?} MiB",
                published.len()
            ),
        );
        assert!(
            memory.into_iter().all(|mib| mib < MEMORY_MAX_MIB),
            "{memory:?} MiB"
        );
        assert!(worker.terminate().await && recorder.terminate().await);
        installation.delete().await;
    }
}

/// Waits until `rejected list` shows this many messages, and returns them with the body of each as `body`.
async fn recorded(installation: &Installation, count: usize) -> Vec<Value> {
    let mut rejected = wait_for("they are recorded", LONG, || async {
        let rejected = installation.json(&["rejected", "list"]).await;
        if rejected.len() >= count {
            Ok(rejected)
        } else {
            Err(format!("{} of {count}", rejected.len()))
        }
    })
    .await;
    for one in &mut rejected {
        let body = installation
            .cli_ok(&["rejected", "show", text(one, "id"), "--body"])
            .await;
        one["body"] = body.into();
    }
    rejected
}

fn text<'a>(rejected: &'a Value, name: &str) -> &'a str {
    rejected[name].as_str().unwrap_or_default()
}

fn lead(odd: &Odd) -> String {
    let body: Value = serde_json::from_slice(&odd.message.body).unwrap();
    body["lead_id"].as_str().unwrap().to_owned()
}

fn assert_found(odd: &Odd, rejected: &[Value]) {
    let lead = format!("\"{}\"", lead(odd));
    let mut found = rejected.iter().filter(|one| text(one, "body").contains(&lead));
    let (one, more) = (
        found.next().unwrap_or_else(|| panic!("{} is missing", odd.name)),
        found.next(),
    );
    assert!(more.is_none(), "{}", odd.name);
    assert_eq!(text(one, "reason"), "unreadable_properties", "{}", odd.name);
    assert!(!text(one, "detail").is_empty(), "{}", odd.name);
    let kept = one["headers"]["magnetite-unreadable-properties"]
        .as_str()
        .unwrap();
    let raw = hex::encode(&odd.message.properties);
    // RabbitMQ 4 encodes the properties again, so the bytes can differ. Their length is bounded in any case.
    assert!(
        raw.starts_with(kept) || kept.len() <= raw.len() + 64,
        "{}: {kept}",
        odd.name
    );
}

/// Panics unless the worker, doctor and the audit have counted this many rejected messages.
async fn assert_counted(installation: &Installation, worker: &Role, count: usize) {
    let rejected = worker
        .metric("magnetite_rejected_total", "unreadable_properties")
        .await;
    assert_eq!(rejected as usize, count);
    let doctor = installation.cli_ok(&["doctor"]).await;
    assert!(
        doctor.contains(&format!("unreadable_properties {count}")),
        "{doctor}"
    );
    let audit = installation.audit().await;
    assert_eq!(audit.number("/rejected"), count as u64);
}

/// Redrives the message. Its body is a valid event, so it is delivered.
async fn redriven(installation: &Installation, receiver: &Receiver, odd: &Odd, rejected: &[Value]) {
    let lead = lead(odd);
    let id = rejected
        .iter()
        .find(|one| text(one, "body").contains(&format!("\"{lead}\"")));
    installation
        .cli_ok(&["rejected", "redrive", text(id.unwrap(), "id")])
        .await;
    wait_for("it arrives", Duration::from_secs(10), || async {
        if receiver.receipts().contains_key(&lead) {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    })
    .await;
}
