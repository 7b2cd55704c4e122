//! Certificates that expire: who is warned, and of which.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test ends at the first surprise"
)]

use std::time::Duration;

use e2e::{
    Answer, Certificates, Endpoint, Found, Installation, Receiver, Role, event, now_ms, wait_for, wait_until,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
const DAY_S: f64 = 24.0 * 60.0 * 60.0;

/// It trusts the tests' authority, and has a queue for what the platform is told.
async fn installation(name: &str, certificates: &Certificates) -> Installation {
    let mut installation = Installation::new(name).await;
    let pem = installation.directory().join("authority.pem");
    certificates.write_pem(&pem);
    installation.set("MAGNETITE_EGRESS__ROOT_CERTIFICATES", pem.to_str().unwrap());
    installation.amqp().bind("platform", "operations", "#").await;
    installation
}

async fn receiver(certificates: &Certificates, days: u64) -> Receiver {
    Receiver::secure(certificates.good_for_days(days), |_, _| Answer::status(200)).await
}

/// Publishes an event and waits until it was delivered.
async fn deliver(installation: &Installation, receiver: &Receiver) {
    let before = receiver.count();
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    wait_until("it is delivered", SOON, || receiver.count() > before).await;
}

async fn told(installation: &Installation) -> Found {
    let told = wait_for("the platform is told", SOON, || async {
        let mut found = installation.amqp().drain("platform").await;
        assert!(found.len() < 2, "{} at once", found.len());
        found.pop().ok_or_else(|| "nothing".to_owned())
    });
    told.await
}

/// Panics unless it is what `docs/protocol.md` says, of a certificate that expires in so many days; gives its id.
fn assert_told(found: &Found, endpoint: &Endpoint, days: u64) -> String {
    let told: Value = serde_json::from_slice(&found.body).unwrap();
    let key = found.properties.kind().clone().unwrap().to_string();
    assert_eq!((&*key, &told["kind"]), ("endpoint.certificate_expiring", &key.clone().into()));
    assert_eq!(told["organization_id"], "org_1");
    assert_eq!(told["endpoint_id"], *endpoint.id);
    let expires_s = now_ms() / 1000 + days * 24 * 60 * 60;
    // A test takes some seconds.
    let days = |date: &str| date[..10].to_owned();
    let around = [expires_s, expires_s - 60].map(|unix_s| {
        let at = std::time::UNIX_EPOCH + Duration::from_secs(unix_s);
        days(&humantime::format_rfc3339_seconds(at).to_string())
    });
    let reason = told["reason"].as_str().unwrap();
    assert!(around.contains(&days(reason)) && reason.ends_with('Z'), "{told}");
    told["id"].as_str().unwrap().to_owned()
}

/// How many hosts are about to expire, and the days until the first one does.
async fn gauges(worker: &Role) -> (f64, f64) {
    let least_s = worker.metric("magnetite_certificate_expiry_min_seconds", "").await;
    (
        worker.metric("magnetite_certificates_expiring", "").await,
        least_s / DAY_S,
    )
}

async fn wait_for_days(worker: &Role, expiring: f64, days: f64) {
    wait_for("the gauges show it", SOON, || async {
        let gauges = gauges(worker).await;
        let is_there = gauges.0.total_cmp(&expiring).is_eq() && (gauges.1 - days).abs() < 0.1;
        is_there.then_some(()).ok_or_else(|| format!("{gauges:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_in_five_days_is_warned_of_by_metric_log_and_event() {
    let certificates = Certificates::new();
    let installation = installation("expiring", &certificates).await;
    let (receiver, _recorder) = (receiver(&certificates, 5).await, installation.recorder().await);
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let worker = installation.logged_worker("worker.log").await;
    deliver(&installation, &receiver).await;
    let id = assert_told(&told(&installation).await, &endpoint, 5);
    wait_for_days(&worker, 1.0, 5.0).await;

    let log = installation.directory().join("worker.log");
    let lines = || {
        let log = std::fs::read_to_string(&log).unwrap();
        log.matches("certificate of an endpoint's host expires soon").count()
    };
    assert_eq!(lines(), 1);

    // An endpoint that is new at the host is told of as well, once there is a reason to look: here the same certificate with
    // less time left.
    let replaced = receiver_for_days(&certificates, 4).await;
    let second = installation.endpoint("org_1", &replaced.url()).await;
    deliver(&installation, &replaced).await;
    let mut told_of = Vec::new();
    for _ in 0..2 {
        told_of.push(told(&installation).await);
    }
    assert_eq!(told_of.len(), 2);
    assert_eq!(lines(), 1, "once a day and host");
    drop((id, second));

    assert!(worker.terminate().await);
    installation.delete().await;
}
