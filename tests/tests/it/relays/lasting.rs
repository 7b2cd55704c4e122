//! Tests of relays that last minutes, most of which they wait: a program that was killed, a machine that was suspended,
//! and a database that is away.

use std::time::Duration;

use e2e::{Installation, Postgres, SOON, event, shared_broker, wait_for};
use tokio::time::{Instant, interval};

use super::{Listen, Rig};

/// The time within which a relay without a program ends: its lease of a minute, the minute for which a recorder watches
/// the database first, and the interval of its searches.
const ENDED: Duration = Duration::from_secs(150);
/// How long the database is away: longer than a lease.
const AWAY: Duration = Duration::from_secs(80);
/// The time after which a recorder would have ended a relay: the minute for which it watches the database first, and the
/// interval of its searches.
const SEARCHED: Duration = Duration::from_secs(85);
/// The pace of events.
const EVERY: Duration = Duration::from_secs(2);

/// Publishes events for this time, without the API, and waits until `listen` has received each.
async fn receives_for(time: Duration, rig: &Rig, listen: &mut Listen) {
    let (began, mut pace) = (Instant::now(), interval(EVERY));
    for number in 0.. {
        if began.elapsed() >= time {
            return;
        }
        pace.tick().await;
        let lead = format!("lead_{}_{number}", time.as_secs());
        rig.installation.amqp().publish(&[event("org_1", &lead)]).await;
        listen.prints_lead(&lead).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_ends_after_its_program_was_killed_and_no_longer_gets_events() {
    let rig = Rig::new("relay-killed").await;
    let mut listen = rig.listen(&[]).await;
    listen.child.kill().await.unwrap();
    let id = rig.publish("lead_1").await;
    rig.wait_until_gone(&listen.endpoint, ENDED).await;
    let path = format!("/v1/deliveries?event_id={id}");
    let listed = rig.api.get(&path, &rig.key).await;
    let state = listed.body["data"][0]["state"].as_str().unwrap_or_default();
    assert!(matches!(state, "dead" | "cancelled"), "{listed:?}");
    let changes = rig.api.get("/v1/changes", &rig.key).await;
    let data = changes.body["data"].as_array().unwrap();
    let deleted = data
        .iter()
        .any(|change| change["subject"] == listen.endpoint.as_str() && change["kind"] == "endpoint.deleted");
    assert!(deleted, "{changes:?}");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listen_opens_another_relay_after_the_machine_was_suspended() {
    let rig = Rig::new("relay-suspended").await;
    let mut listen = rig.listen(&[]).await;
    listen.signal("STOP").await;
    rig.wait_until_gone(&listen.endpoint, ENDED).await;
    rig.publish("lead_lost").await;
    listen.signal("CONT").await;
    let told = listen.tells("were not received", SOON).await;
    assert!(told.contains(&listen.endpoint), "{told}");
    let endpoint = super::last_word(&told);
    assert_ne!(endpoint, listen.endpoint);
    rig.publish("lead_after").await;
    assert_eq!(listen.prints().await["lead"], "lead_after");
    listen.signal("TERM").await;
    assert_eq!(listen.ends().await.0, Some(0));
    assert!(rig.is_gone(&endpoint).await);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_relay_outlives_an_outage_of_the_database_and_gets_events_meanwhile() {
    let postgres = Postgres::start().await;
    let settings = [("MAGNETITE_DATABASE__URL", postgres.url())];
    let delays_ms = [200, 500, 1000];
    let installation = Installation::with("relay-database", &shared_broker(), &delays_ms, &settings).await;
    let rig = Rig::on(installation).await;
    let mut listen = rig.listen(&[]).await;
    postgres.stop().await;
    receives_for(AWAY, &rig, &mut listen).await;
    postgres.start_again().await;
    wait_for("the database answers the API", SOON, || async {
        let path = format!("/v1/endpoints/{}", listen.endpoint);
        let found = rig.api.get(&path, &rig.key).await;
        (found.status == 200)
            .then_some(())
            .ok_or_else(|| format!("{found:?}"))
    })
    .await;
    // The recorder's searches have found no lease that it may end.
    receives_for(SEARCHED, &rig, &mut listen).await;
    assert!(!rig.is_gone(&listen.endpoint).await);
    listen.signal("TERM").await;
    assert_eq!(listen.ends().await.0, Some(0));
    rig.end().await;
}
