//! Tests that what the database refuses does not affect anything else: ids of any length, and records that
//! violate a constraint of the database.

use e2e::{
    Answer, Endpoint, Installation, Postgres, Receiver, SOON, due_headers, event, shared_broker, wait_until,
};
use lapin::{BasicProperties, Confirmation};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

const DEAD: [&str; 4] = ["delivery", "list", "--state", "dead"];
const REJECTED: [&str; 2] = ["rejected", "list"];
/// The number of events, including the one that is refused.
const COUNT: usize = 40;

fn texts<'a>(rows: &'a [Value], name: &str) -> Vec<&'a str> {
    let mut texts: Vec<_> = rows.iter().map(|row| row[name].as_str().unwrap()).collect();
    texts.sort_unstable();
    texts
}

/// Returns text that cannot be compressed in an index, so that a row is as long as its text.
fn noise(chars: u32) -> String {
    let char = |n: u32| char::from_u32(0x4e00 + n.wrapping_mul(2_654_435_761) % 20_000).unwrap();
    (0..chars).map(char).collect()
}

/// Publishes a delivery that an older version has accepted, and whose last attempt is due.
async fn publish_due(installation: &Installation, endpoint: &Endpoint, body: &str) {
    let properties = BasicProperties::default().with_headers(due_headers(endpoint));
    let sent = installation
        .amqp()
        .publish_to("deliveries", "due", body.as_bytes(), properties);
    assert_eq!(sent.await, Confirmation::Ack(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_with_long_ids_that_is_under_way_is_recorded_listed_and_sent_again() {
    let postgres = Postgres::start().await;
    let settings = [("MAGNETITE_DATABASE__URL", postgres.url())];
    let installation = Installation::with("long", &shared_broker(), &[500], &settings).await;
    let receiver = Receiver::new(|_, before| Answer::status(if before == 0 { 500 } else { 200 })).await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let worker = installation.worker().await;
    let lead = noise(3_000);
    publish_due(&installation, &endpoint, &event("org_1", "before")).await;
    publish_due(&installation, &endpoint, &event("org_1", &lead)).await;
    publish_due(&installation, &endpoint, &event("org_1", "after")).await;
    installation.amqp().wait_for_ready("dead", 3, SOON).await;
    worker.wait_for_unacked("", 0, SOON).await;
    // The recorder starts only now, so that one batch contains all of them.
    let recorder = installation.recorder().await;
    let dead = installation.wait_for_listed(&DEAD, 3, SOON).await;
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;
    assert_eq!(installation.json(&REJECTED).await, [Value::Null; 0]);
    let events = installation.json(&["event", "list"]).await;
    let leads = texts(&events, "lead_id");
    assert_eq!(leads[..2], ["after", "before"]);
    assert!(
        leads[2].len() <= 255 && lead.starts_with(leads[2].split('~').next().unwrap()),
        "{leads:?}"
    );

    let ids = texts(&dead, "id");
    installation
        .cli_ok(&[&["delivery", "resend"], &ids[..]].concat())
        .await;
    wait_until("each is sent again", SOON, || receiver.accepted() == 3).await;
    assert!(
        receiver.requests().iter().any(|request| request.lead == lead),
        "as it was"
    );
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;
    let delivered = ["delivery", "list", "--state", "delivered"];
    installation.wait_for_listed(&delivered, 3, SOON).await;
    assert!(recorder.terminate().await && worker.terminate().await);
    installation.delete().await;
}

/// Publishes [`COUNT`] events, of which the one about the lead `refused` is in the middle, and waits until
/// all deliveries are dead. Returns the other leads, sorted.
async fn publish_around_refused(installation: &Installation) -> Vec<String> {
    // Enough events at once that batches contain several records.
    let mut leads: Vec<_> = (1..COUNT).map(|number| format!("lead_{number}")).collect();
    leads.insert(COUNT / 2, "refused".to_owned());
    let events: Vec<_> = leads.iter().map(|lead| event("org_1", lead)).collect();
    installation.amqp().publish(&events).await;
    installation
        .amqp()
        .wait_for_ready("dead", COUNT as u32, SOON)
        .await;
    leads.retain(|lead| lead != "refused");
    leads.sort_unstable();
    leads
}

/// Panics unless the audit explains the two records that were set aside as gaps, and finds nothing else.
async fn assert_only_set_aside(installation: &Installation) {
    let audit = installation.audit().await;
    assert!(audit.balances, "what is missing is in a gap: {audit:#?}");
    let gaps = audit.of_kind("gap");
    let told: Vec<_> = gaps
        .iter()
        .map(|gap| {
            (
                gap["cause"].as_str(),
                gap["source"].as_str(),
                gap["count"].as_u64(),
            )
        })
        .collect();
    let set_aside = |source| (Some("set_aside"), Some(source), Some(1));
    assert_eq!(told, [set_aside("dead"), set_aside("journal")], "{audit:#?}");
}

/// Panics unless every event is recorded, none is set aside, and the gaps are closed.
async fn assert_all_recorded(installation: &Installation) {
    assert_eq!(installation.json(&["event", "list"]).await.len(), COUNT);
    assert_eq!(installation.json(&REJECTED).await.len(), 0);
    let audit = installation.audit().await;
    audit.assert_settled();
    assert!(audit.of_kind("gap").is_empty(), "{audit:#?}");
    assert_eq!(
        (audit.number("/events"), audit.number("/deliveries/dead")),
        (COUNT as u64, COUNT as u64)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_database_refuses_is_set_aside_alone_and_can_be_redriven() {
    let postgres = Postgres::start().await;
    let settings = [("MAGNETITE_DATABASE__URL", postgres.url())];
    let installation = Installation::with("refused", &shared_broker(), &[500], &settings).await;
    let receiver = Receiver::new(|_, _| Answer::status(500)).await;
    installation.endpoint("org_1", &receiver.url()).await;
    let mut database = PgConnection::connect(postgres.url()).await.unwrap();
    let mut execute = async |sql: &'static str| {
        sqlx::query(AssertSqlSafe(sql))
            .execute(&mut database)
            .await
            .unwrap();
    };
    execute("ALTER TABLE events ADD CONSTRAINT narrow CHECK (lead_id <> 'refused')").await;
    let worker = installation.worker().await;
    let others = publish_around_refused(&installation).await;
    worker.wait_for_unacked("", 0, SOON).await;
    let recorder = installation.recorder().await;
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;
    let listed = installation.json(&["event", "list"]).await;
    assert_eq!(texts(&listed, "lead_id"), others);
    let aside = installation.json(&REJECTED).await;
    assert_eq!(texts(&aside, "source"), ["dead", "journal"], "{aside:?}");
    assert!(
        aside.iter().all(|row| row["reason"] == "unrecordable"),
        "{aside:?}"
    );
    assert_only_set_aside(&installation).await;

    // The rejected messages contain everything that is needed, once the database accepts them.
    execute("ALTER TABLE events DROP CONSTRAINT narrow").await;
    let ids = texts(&aside, "id");
    installation
        .cli_ok(&[&["rejected", "redrive"], &ids[..]].concat())
        .await;
    installation.wait_for_listed(&DEAD, COUNT, SOON).await;
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;
    assert_all_recorded(&installation).await;
    assert!(recorder.terminate().await && worker.terminate().await);
    installation.delete().await;
}
