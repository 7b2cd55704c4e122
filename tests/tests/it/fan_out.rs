//! Tests events with several endpoints.

use std::time::Duration;

use e2e::{Answer, Installation, Receiver, SOON, event, wait_until};

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

/// The backlog needs many times more slots than there are. A delivery that waited too long for one would be
/// deferred for a second.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_for_endpoints_that_answer_fast_is_delivered_without_putting_anything_off() {
    const EVENTS: usize = 400;
    let mut installation = Installation::new("backlog").await;
    installation.set("MAGNETITE_WORKER__IN_FLIGHT_MAX", "64");
    let mut receivers = Vec::new();
    for _ in 0..4 {
        let receiver = Receiver::new(|_, _| Answer::Late(Duration::from_millis(20), 200)).await;
        installation.endpoint("org_1", &receiver.url()).await;
        receivers.push(receiver);
    }
    let events: Vec<_> = (0..EVENTS)
        .map(|lead| event("org_1", &format!("lead_{lead}")))
        .collect();
    installation.amqp().publish(&events).await;
    let worker = installation.worker().await;
    wait_until("all have everything", SOON, || {
        receivers.iter().all(|receiver| receiver.count() >= EVENTS)
    })
    .await;
    installation.wait_until_drained(SOON).await;
    let deferred = worker.metric("magnetite_deferrals_total", "no_slot").await;
    assert!(deferred < 1.0, "{deferred} deliveries were put off");
    for receiver in &receivers {
        assert_eq!((receiver.count(), receiver.distinct()), (EVENTS, EVENTS));
    }
    assert!(worker.terminate().await);
    installation.delete().await;
}

/// The worker does not know yet that the endpoint hangs when the first event arrives. After a second, a
/// separate message takes over that delivery. Later events are delivered to this endpoint separately from the
/// start. A crash therefore creates no copies at the healthy endpoint, while the hanging endpoint receives
/// all of its deliveries again.
#[tokio::test(flavor = "multi_thread")]
async fn a_sibling_that_hangs_does_not_keep_its_events_unacked() {
    let installation = Installation::new("apart").await;
    let (healthy, hanging) = (Receiver::ok().await, Receiver::new(|_, _| Answer::Hang).await);
    installation.endpoint("org_1", &healthy.url()).await;
    installation.endpoint("org_1", &hanging.url()).await;
    let worker = installation.worker().await;
    installation.amqp().publish(&[event("org_1", "first")]).await;
    wait_until("it hangs", SOON, || hanging.count() == 1 && healthy.count() == 1).await;
    let began = hanging.requests()[0].at;
    worker.wait_for_unacked("held", 1, SOON).await;
    worker.wait_for_unacked("events", 0, SOON).await;
    let after = began.elapsed();
    println!("the event was acked {after:?} after the attempt that hangs began");
    assert!(after < Duration::from_secs(2), "{after:?}");
    installation.amqp().publish(&[event("org_1", "second")]).await;
    wait_until("both get the second", SOON, || {
        hanging.count() == 2 && healthy.count() == 2
    })
    .await;
    worker.wait_for_unacked("events", 0, SOON).await;
    worker.kill().await;
    let next = installation.worker().await;
    wait_until("what was in its hands is attempted again", SOON, || {
        hanging.count() == 4
    })
    .await;
    assert!(hanging.requests().iter().all(|request| request.attempt() == 1));
    hanging.release();
    next.wait_for_unacked("", 0, SOON).await;
    installation.wait_until_drained(SOON).await;
    assert_eq!(healthy.count(), 2, "the healthy one got a copy");
    assert_eq!(hanging.count(), 4);
    assert!(next.terminate().await);
    installation.delete().await;
}

/// A slow attempt that succeeds settles the message that held its delivery, and nothing is attempted again.
#[tokio::test(flavor = "multi_thread")]
async fn a_sibling_that_answers_late_is_asked_once() {
    let installation = Installation::with_delays("late", &[200]).await;
    let healthy = Receiver::ok().await;
    let late = Receiver::new(|_, before| {
        Answer::Late(Duration::from_millis(1500), if before == 0 { 500 } else { 200 })
    })
    .await;
    installation.endpoint("org_1", &healthy.url()).await;
    installation.endpoint("org_1", &late.url()).await;
    let worker = installation.worker().await;
    let events: Vec<_> = (0..50).map(|lead| event("org_1", &lead.to_string())).collect();
    installation.amqp().publish(&events).await;
    wait_until(
        "every first attempt failed and every second one went well",
        SOON,
        || late.count() == 2 * events.len(),
    )
    .await;
    worker.wait_for_unacked("", 0, SOON).await;
    installation.wait_until_drained(SOON).await;
    assert_eq!((healthy.count(), late.count()), (events.len(), 2 * events.len()));
    let seconds = late
        .requests()
        .iter()
        .filter(|request| request.attempt() == 2)
        .count();
    assert_eq!(seconds, events.len(), "the attempts were charged");
    assert!(worker.terminate().await);
    installation.delete().await;
}

/// A publish to an exchange that does not exist closes the channel, and all other publishes on it fail too.
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
