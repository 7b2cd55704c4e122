//! One event, many endpoints.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test ends at the first surprise"
)]

use std::time::Duration;

use e2e::{Answer, Installation, Receiver, event, wait_until};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn an_event_with_more_endpoints_than_are_attempted_inline_reaches_all_of_them() {
    const ENDPOINTS: usize = 40;
    let installation = Installation::new("many").await;
    let receiver = Receiver::ok().await;
    for n in 0..ENDPOINTS {
        installation
            .endpoint("org_1", &format!("{}/{n}", receiver.url()))
            .await;
    }
    let worker = installation.worker().await;
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    wait_until("all are reached", SOON, || receiver.count() == ENDPOINTS).await;
    installation.wait_until_drained(SOON).await;
    let mut paths: Vec<_> = receiver
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), ENDPOINTS, "each was asked once");
    assert!(worker.terminate().await);
    installation.delete().await;
}

/// The first events meet a hanging endpoint that nobody knew to hang; from then on it is attempted apart, and the event's
/// message is settled without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sibling_that_hangs_is_attempted_apart_once_it_is_known() {
    let installation = Installation::new("apart").await;
    let (healthy, hanging) = (Receiver::ok().await, Receiver::new(|_, _| Answer::Hang).await);
    installation.endpoint("org_1", &healthy.url()).await;
    installation.endpoint("org_1", &hanging.url()).await;
    let worker = installation.worker().await;
    installation.amqp().publish(&[event("org_1", "first")]).await;
    wait_until("it hangs", SOON, || hanging.count() == 1 && healthy.count() == 1).await;
    let began = hanging.requests()[0].at;
    wait_until("it has been hanging for over a second", SOON, || {
        began.elapsed() > Duration::from_millis(1100)
    })
    .await;
    installation.amqp().publish(&[event("org_1", "second")]).await;
    wait_until("both get the second", SOON, || {
        hanging.count() == 2 && healthy.count() == 2
    })
    .await;
    worker.kill().await;
    // After the crash the healthy one gets a copy of the first event, whose message was unacked, and none of the second.
    let _next = installation.worker().await;
    wait_until("what was unacked is made again", SOON, || {
        hanging.count() >= 4 && healthy.count() >= 3
    })
    .await;
    let leads: Vec<_> = healthy
        .requests()
        .iter()
        .map(|request| request.json()["lead_id"].to_string())
        .collect();
    assert_eq!(leads, ["\"first\"", "\"second\"", "\"first\""]);
    hanging.release();
    installation.wait_until_drained(SOON).await;
    installation.delete().await;
}

/// Publishing to an exchange that is not there costs the channel, and with it every publish beside it.
#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_was_deleted_is_declared_again_and_nothing_is_lost() {
    const ENDPOINTS: usize = 20;
    let installation = Installation::with_delays("deleted", &[200]).await;
    let receiver = Receiver::ok().await;
    let failing = Receiver::new(|_, before| Answer::status(if before == 0 { 500 } else { 200 })).await;
    for n in 0..ENDPOINTS {
        installation
            .endpoint("org_1", &format!("{}/{n}", receiver.url()))
            .await;
    }
    installation.endpoint("org_2", &failing.url()).await;
    let worker = installation.worker().await;
    installation.amqp().delete_exchange("deliveries").await;
    let events: Vec<_> = (0..50)
        .map(|n| event(if n % 10 == 0 { "org_1" } else { "org_2" }, &n.to_string()))
        .collect();
    installation.amqp().publish(&events).await;
    wait_until("all arrive", SOON, || {
        receiver.count() >= 5 * ENDPOINTS && failing.count() >= 90
    })
    .await;
    installation.wait_until_drained(SOON).await;
    assert!(worker.terminate().await);
    installation.delete().await;
}
