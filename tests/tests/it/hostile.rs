//! Tests hostile receivers: each attempt ends within its deadline, for a reason that a user understands, and
//! without affecting other endpoints.

mod rows;
mod retry_after;
mod alone;

use std::time::Duration;

use e2e::{Certificates, Hostile, Installation, event, scaled, wait_until};
use futures_util::{StreamExt as _, stream};

use self::rows::{End, ROWS, SLACK};

/// The number of commands that run concurrently.
const COMMANDS_MAX: usize = 4;

/// Returns the attempt timeout, which is that of the contract in the long form.
fn deadline() -> Duration {
    scaled(Duration::from_secs(2), Duration::from_secs(30))
}

/// Creates an installation that uses this attempt timeout and trusts the test authority.
async fn installation(name: &str, delays_ms: &[u64], certificates: &Certificates) -> Installation {
    let mut installation = Installation::with_delays(name, delays_ms).await;
    let pem = installation.directory().join("authority.pem");
    certificates.write_pem(&pem);
    installation.set("MAGNETITE_EGRESS__ROOT_CERTIFICATES", pem.to_str().unwrap());
    installation.set(
        "MAGNETITE_EGRESS__ATTEMPT_TIMEOUT",
        &format!("{}s", deadline().as_secs()),
    );
    installation
}

/// Registers each URL as the only endpoint of an organization `org_0`, `org_1` and so on, and returns the ids
/// of the endpoints.
async fn register(installation: &Installation, urls: Vec<String>) -> Vec<String> {
    let creating = urls
        .into_iter()
        .enumerate()
        .map(|(number, url)| async move { installation.endpoint(&format!("org_{number}"), &url).await.id });
    stream::iter(creating).buffered(COMMANDS_MAX).collect().await
}

#[test]
fn the_page_of_failures_has_every_text_that_these_receivers_cause() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/failures.md");
    let page = std::fs::read_to_string(page).unwrap();
    for error in ROWS.iter().filter_map(|row| row.error) {
        let text = error
            .replace("127.0.0.1", "hooks.example.com")
            .replace("{s}", "30");
        assert!(page.contains(&text), "docs/failures.md lacks {text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_receiver_fails_within_the_deadline_for_a_reason_that_a_person_understands() {
    let certificates = Certificates::new();
    let installation = installation("hostile", &[200], &certificates).await;
    let mut receivers = Vec::new();
    for row in &ROWS {
        receivers.push(Hostile::start(row.hostility, &certificates).await);
    }
    let ids = register(&installation, receivers.iter().map(Hostile::url).collect()).await;
    let worker = installation.worker().await;
    let events: Vec<_> = (0..ROWS.len())
        .map(|number| event(&format!("org_{number}"), "lead_1"))
        .collect();
    installation.amqp().publish(&events).await;
    let fail = ROWS.iter().filter(|row| row.error.is_some()).count();
    let limit = 2 * deadline() + Duration::from_secs(20);
    installation
        .amqp()
        .wait_for_ready("dead", fail as u32, limit)
        .await;
    let letters = installation.amqp().dead_letters().await;
    let mut misses = Vec::new();
    for ((row, receiver), id) in ROWS.iter().zip(&receivers).zip(&ids) {
        if let Some(letter) = letters.get(id) {
            misses.extend(row.misses_in(letter));
        }
        let visits = match (row.end, row.error) {
            (End::Unseen, _) => 0,
            (_, None) => 1,
            (_, Some(_)) => 2,
        };
        assert_eq!(receiver.visits().len(), visits, "{}", row.hostility);
        wait_until(&format!("{}: the clients are gone", row.hostility), SLACK, || {
            receiver.visits().iter().all(|visit| visit.ended.is_some())
        })
        .await;
        let seen = receiver.visits();
        misses.extend(seen.iter().flat_map(|visit| row.misses_of(visit)));
    }
    assert!(misses.is_empty(), "{misses:#?}");
    assert_eq!(letters.len(), fail, "a dead letter for each that fails");
    let delivered = worker
        .metric("magnetite_attempts_total", "outcome=\"delivered\"")
        .await;
    assert_eq!(delivered as usize, ROWS.len() - fail);
    assert!(worker.terminate().await);
    installation.delete().await;
}
