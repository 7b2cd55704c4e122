//! The events of the benchmarks. Each contains its number at a fixed offset, where the receiver finds it
//! without parsing the body, and has an exact size.

use e2e::{Amqp, now_ms};
use futures_util::{StreamExt as _, stream};
use lapin::{BasicProperties, Confirmation};

/// What the events of a measurement have in common.
#[derive(Clone, Copy)]
pub struct Events {
    /// The exact size of each body.
    pub body_bytes: usize,
    /// The number of organizations. Event n belongs to organization n modulo this.
    pub organizations: usize,
}

const EVENT_TYPE: &str = "lead.completed";
const BEFORE_NUMBER: &str = r#"{"event":"lead.completed","lead_id":"lead_"#;
const NUMBER_DIGITS: usize = 10;
/// The words that texts consist of, in a different order for each event: the text is neither random noise nor
/// always the same.
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
/// The number of publishes whose confirms are awaited concurrently.
const WINDOW: usize = 256;

impl Events {
    /// Events of 1 KiB, of one organization.
    pub const USUAL: Self = Self {
        body_bytes: 1024,
        organizations: 1,
    };

    /// Returns the body of the event with this number, whose timestamp is the current time.
    pub fn body(self, number: usize) -> String {
        let (timestamp, organization) = (now_ms(), organization(number % self.organizations));
        let before = format!(
            r#"{BEFORE_NUMBER}{number:0NUMBER_DIGITS$}","timestamp":{timestamp},"organization_id":"{organization}","project_id":"proj_1","data":{{"lead_id":"lead_{number:0NUMBER_DIGITS$}","status":"completed","research_results":{{"company_info":""#
        );
        let after =
            format!(r#""}},"generated_content":{{"contentLength":4521}},"completed_at":{timestamp}}}}}"#);
        let text_bytes = self.body_bytes - before.len() - after.len();
        [before, text(number, text_bytes), after].concat()
    }

    /// Publishes the events from 0 up to but not including `count`. Panics unless each is confirmed and
    /// routed.
    pub async fn preload(self, amqp: &Amqp, count: usize) {
        let publishing = stream::iter(0..count).map(|number| self.publish(amqp, number));
        publishing.buffer_unordered(WINDOW).collect::<()>().await;
    }

    /// Publishes one event as producers do, and waits for its confirm.
    pub(crate) async fn publish(self, amqp: &Amqp, number: usize) {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_message_id(format!("evt_{number}").into())
            .with_type(EVENT_TYPE.into());
        let confirmation = amqp
            .publish_to("events", EVENT_TYPE, self.body(number).as_bytes(), properties)
            .await;
        assert_eq!(confirmation, Confirmation::Ack(None), "refused or returned");
    }
}

/// Returns the id of the organization with this number.
pub fn organization(number: usize) -> String {
    format!("org_bench_{number}")
}

/// Returns a text of exactly this many bytes. Its order of words depends on `number`.
pub fn text(number: usize, bytes: usize) -> String {
    let (mut text, mut state) = (String::with_capacity(bytes + 16), number as u64);
    while text.len() < bytes {
        // A linear congruential generator with Knuth's multiplier. Its upper bits are the random ones.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        text.push_str(WORDS[(state >> 58) as usize]);
        text.push(' ');
    }
    text.truncate(bytes);
    text
}

/// Returns the number of the event with this body; `None` if there is none.
pub(crate) fn number(body: &[u8]) -> Option<usize> {
    let digits = body.get(BEFORE_NUMBER.len()..BEFORE_NUMBER.len() + NUMBER_DIGITS)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
