//! The events: about 1 KiB each, numbered where the receiver finds the number without parsing.

use e2e::{Amqp, now_ms};
use futures_util::future::join_all;
use lapin::{BasicProperties, Confirmation};

pub(crate) const ORGANIZATION: &str = "org_bench";

const EVENT_TYPE: &str = "lead.completed";
const BEFORE_NUMBER: &str = r#"{"event":"lead.completed","lead_id":"lead_"#;
const NUMBER_DIGITS: usize = 10;
/// What research about a lead may come to, in bytes.
const TEXT_BYTES: usize = 740;
/// What it is made of, in another order for each event: neither noise nor the same again and again.
const WORDS: [&str; 64] = [
    "revenue",
    "growth",
    "the",
    "of",
    "and",
    "platform",
    "customers",
    "in",
    "Europe",
    "a",
    "team",
    "with",
    "founded",
    "2014",
    "Series",
    "B",
    "hiring",
    "engineers",
    "market",
    "for",
    "logistics",
    "software",
    "to",
    "reduce",
    "cost",
    "by",
    "23%",
    "its",
    "competitors",
    "are",
    "slow",
    "on",
    "mobile",
    "recent",
    "news",
    "about",
    "expansion",
    "into",
    "Asia",
    "suggests",
    "that",
    "budget",
    "is",
    "planned",
    "next",
    "quarter",
    "CEO",
    "interview",
    "mentions",
    "compliance",
    "security",
    "audit",
    "integration",
    "CRM",
    "pipeline",
    "leads",
    "conversion",
    "rate",
    "below",
    "industry",
    "average",
    "opportunity",
    "content",
    "personalised",
];
/// Publishes that wait for their confirms together.
const WINDOW: usize = 256;

pub(crate) fn body(number: usize) -> String {
    let (timestamp, text) = (now_ms(), text(number, TEXT_BYTES));
    format!(
        r#"{BEFORE_NUMBER}{number:0NUMBER_DIGITS$}","timestamp":{timestamp},"organization_id":"{ORGANIZATION}","project_id":"proj_1","data":{{"lead_id":"lead_{number:0NUMBER_DIGITS$}","status":"completed","research_results":{{"company_info":"{text}"}},"generated_content":{{"contentLength":4521}},"completed_at":{timestamp}}}}}"#
    )
}

/// So many bytes of words; another number, another order.
pub(crate) fn text(number: usize, bytes: usize) -> String {
    let (mut text, mut state) = (String::with_capacity(bytes + 16), number as u64);
    while text.len() < bytes {
        // Knuth's multiplier; the upper bits are the random ones.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        text.push_str(WORDS[(state >> 58) as usize]);
        text.push(' ');
    }
    text.truncate(bytes);
    text
}

/// The number of an event's body.
pub(crate) fn number(body: &[u8]) -> Option<usize> {
    let digits = body.get(BEFORE_NUMBER.len()..BEFORE_NUMBER.len() + NUMBER_DIGITS)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Publishes events 0 to `count`, each confirmed and routed.
pub(crate) async fn preload(amqp: &Amqp, count: usize) {
    let numbers: Vec<_> = (0..count).collect();
    for window in numbers.chunks(WINDOW) {
        join_all(window.iter().map(|number| publish(amqp, *number))).await;
    }
}

/// Publishes one event as producers do, and waits for its confirm.
pub(crate) async fn publish(amqp: &Amqp, number: usize) {
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_message_id(format!("evt_{number}").into())
        .with_type(EVENT_TYPE.into());
    let confirmation = amqp
        .publish_to("events", EVENT_TYPE, body(number).as_bytes(), properties)
        .await;
    assert_eq!(confirmation, Confirmation::Ack(None), "refused or returned");
}
