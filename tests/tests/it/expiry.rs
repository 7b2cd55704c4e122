//! Tests the warnings about certificates that expire soon.

use std::time::UNIX_EPOCH;

use e2e::{
    Answer, Certificates, Endpoint, Installation, Postgres, Receiver, Role, SOON, event, now_ms,
    shared_broker, wait_for, wait_until,
};
use serde_json::Value;

const DAY_S: u64 = 24 * 60 * 60;

/// Creates an installation that trusts the test authority, with a queue that receives the operational events.
async fn installation(name: &str, certificates: &Certificates) -> Installation {
    prepared(Installation::new(name).await, certificates).await
}

async fn prepared(mut installation: Installation, certificates: &Certificates) -> Installation {
    let pem = installation.directory().join("authority.pem");
    certificates.write_pem(&pem);
    installation.set("MAGNETITE_EGRESS__ROOT_CERTIFICATES", pem.to_str().unwrap());
    installation.amqp().bind("platform", "operations", "#").await;
    installation
}

/// Starts a receiver whose certificate is valid for this many days. All receivers have the same host.
async fn receiver(certificates: &Certificates, days: u64) -> Receiver {
    Receiver::secure(certificates.good_for_days(days), |_, _| Answer::status(200)).await
}

/// Waits until the worker knows this many endpoints, publishes an event, and waits until it is delivered.
async fn deliver(installation: &Installation, worker: &Role, endpoints: u64, receiver: &Receiver) {
    wait_for("the worker knows the endpoints", SOON, || async {
        let known = worker.metric("magnetite_registry_endpoints", "").await;
        (known as u64 == endpoints)
            .then_some(())
            .ok_or_else(|| known.to_string())
    })
    .await;
    let before = receiver.count();
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    wait_until("it is delivered", SOON, || receiver.count() > before).await;
}

/// Waits until this many operational events have been published, and returns them.
async fn told(installation: &Installation, count: usize) -> Vec<Value> {
    let told = tokio::sync::Mutex::new(Vec::new());
    wait_for("the platform is told", SOON, || async {
        let mut told = told.lock().await;
        for found in installation.amqp().drain("platform").await {
            let object: Value = serde_json::from_slice(&found.body).unwrap();
            let property =
                |text: &Option<lapin::types::ShortString>| Value::from(text.clone().unwrap().as_str());
            assert_eq!(property(found.properties.message_id()), object["id"]);
            assert_eq!(property(found.properties.kind()), object["kind"]);
            told.push(object);
        }
        (told.len() == count)
            .then_some(())
            .ok_or_else(|| format!("{told:?}"))
    })
    .await;
    told.into_inner()
}

/// Panics unless the operational event is as `docs/protocol.md` describes it for a certificate that expires
/// in this many days.
fn assert_expiring(told: &Value, endpoint: &Endpoint, days: u64) {
    assert_eq!(told["kind"], "endpoint.certificate_expiring");
    assert_eq!(told["organization_id"], "org_1");
    assert_eq!(told["endpoint_id"], *endpoint.id);
    let expires = humantime::parse_rfc3339(told["reason"].as_str().unwrap()).unwrap();
    let left_s = expires.duration_since(UNIX_EPOCH).unwrap().as_secs() - now_ms() / 1000;
    assert!((days * DAY_S..=days * DAY_S + 3600).contains(&left_s), "{told}");
}

/// Waits until the metrics show this many hosts with expiring certificates, the first of which expires in
/// this many days.
async fn wait_for_gauges(worker: &Role, expiring: u64, days: u64) {
    wait_for("the gauges show it", SOON, || async {
        let count = worker.metric("magnetite_certificates_expiring", "").await;
        let least_s = worker
            .metric("magnetite_certificate_expiry_min_seconds", "")
            .await;
        let is_there =
            count as u64 == expiring && (days * DAY_S..=days * DAY_S + 3600).contains(&(least_s as u64));
        is_there
            .then_some(())
            .ok_or_else(|| format!("{count}, {least_s} s"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_in_five_days_is_warned_of_by_metric_log_and_event() {
    let certificates = Certificates::new();
    let installation = installation("expiring", &certificates).await;
    let first = receiver(&certificates, 5).await;
    let endpoint = installation.endpoint("org_1", &first.url()).await;
    let recorder = installation.recorder().await;
    let worker = installation.talkative_worker().await;
    deliver(&installation, &worker, 1, &first).await;
    let operations = told(&installation, 1).await;
    assert_expiring(&operations[0], &endpoint, 5);
    wait_for_gauges(&worker, 1, 5).await;

    // The same host presents another certificate. Each of its endpoints is reported with a new event id, but
    // the log already has its line for today.
    let second = receiver(&certificates, 4).await;
    let new = installation.endpoint("org_1", &second.url()).await;
    deliver(&installation, &worker, 2, &second).await;
    let mut again = told(&installation, 2).await;
    again.sort_by_key(|told| told["endpoint_id"] != *endpoint.id);
    for (told, endpoint) in again.iter().zip([&endpoint, &new]) {
        assert_expiring(told, endpoint, 4);
        assert_ne!(told["id"], operations[0]["id"]);
    }
    let log = std::fs::read_to_string(installation.directory().join("worker.log")).unwrap();
    assert_eq!(
        log.matches("certificate of an endpoint's host expires soon")
            .count(),
        1
    );

    // The same host presents a renewed certificate.
    let renewed = receiver(&certificates, 90).await;
    installation.endpoint("org_1", &renewed.url()).await;
    deliver(&installation, &worker, 3, &renewed).await;
    wait_for_gauges(&worker, 0, 90).await;
    assert!(told(&installation, 0).await.is_empty());
    assert!(worker.terminate().await && recorder.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_certificate_that_is_good_for_sixty_days_nobody_is_told() {
    let certificates = Certificates::new();
    let installation = installation("not-expiring", &certificates).await;
    let receiver = receiver(&certificates, 60).await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    deliver(&installation, &worker, 1, &receiver).await;
    wait_for_gauges(&worker, 0, 60).await;
    // Operational events are published in order, so none was published before this one.
    installation.cli_ok(&["endpoint", "disable", &endpoint.id]).await;
    let operations = told(&installation, 1).await;
    assert_eq!(operations[0]["kind"], "endpoint.disabled");
    assert!(worker.terminate().await && recorder.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_delays_the_event_and_no_delivery() {
    let (certificates, postgres) = (Certificates::new(), Postgres::start().await);
    let settings = [("MAGNETITE_DATABASE__URL", postgres.url())];
    let installation = Installation::with("expiring-outage", &shared_broker(), &[60_000], &settings).await;
    let installation = prepared(installation, &certificates).await;
    let receiver = receiver(&certificates, 5).await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    postgres.stop().await;
    deliver(&installation, &worker, 1, &receiver).await;
    wait_for_gauges(&worker, 1, 5).await;
    assert!(installation.amqp().drain("platform").await.is_empty());
    postgres.start_again().await;
    assert_expiring(&told(&installation, 1).await[0], &endpoint, 5);
    assert!(worker.terminate().await && recorder.terminate().await);
    installation.delete().await;
}
