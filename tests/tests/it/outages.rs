//! Tests that no event is lost when workers are killed, the broker restarts or endpoints hang.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use e2e::{
    Answer, Installation, Ledger, Load, Node, Receiver, SOON, chance, event, has_passed, report, wait_for,
    wait_until,
};

const LONG: Duration = Duration::from_secs(90);

/// Two workers are under load. One is killed while it has deliveries in flight, then the broker is killed,
/// and both recover.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_and_a_restarted_broker_lose_nothing_and_everyone_is_back_within_10_s() {
    let node = Node::start().await;
    let installation =
        Installation::with("kill", node.url(), &[200, 400, 800, 1000, 2000, 2000, 2000], &[]).await;
    let mut ledger = Ledger::new();
    // One endpoint is slow, so that at any moment there are events in flight whose other attempts are
    // complete. Another fails a fifth of the first attempts.
    let slow = Receiver::new(|_, _| Answer::Late(Duration::from_millis(150), 200)).await;
    let flaky = Receiver::new(|request, before| {
        let fails = before == 0 && chance(&request.lead, 5) == 0;
        Answer::status(if fails { 500 } else { 200 })
    })
    .await;
    let failing = Receiver::new(|_, _| Answer::status(503)).await;
    for (name, receiver) in [
        ("slow", slow),
        ("flaky", flaky),
        ("healthy", Receiver::ok().await),
        ("failing", failing),
    ] {
        let endpoint = installation.endpoint("org_1", &receiver.url()).await;
        ledger.endpoint(name, endpoint, receiver);
    }
    let (first, second) = (installation.worker().await, installation.worker().await);
    let load = Load::start(&installation, "org_1", 200);

    let healthy = ledger.receiver("healthy");
    wait_until("events flow", SOON, || healthy.distinct() > 200).await;
    let (killed, unacked) = (Instant::now(), first.unacked().await);
    first.kill().await;
    let first = installation.worker().await;
    ledger.broken("worker", killed, Some(unacked));
    let healthy = ledger.receiver("healthy");
    wait_until("events flow on", SOON, || healthy.distinct() > 500).await;
    let killed = Instant::now();
    node.kill().await;
    node.start_again().await;
    ledger.broken("broker", killed, None);
    let healthy = ledger.receiver("healthy");
    let (back, before) = (Instant::now(), healthy.distinct());
    // Both workers and the publisher have to be connected again: newly published events have to arrive.
    wait_until("deliveries go on", Duration::from_secs(10), || {
        healthy.distinct() > before + 300
    })
    .await;
    for worker in [&first, &second] {
        worker.wait_until_ready().await;
    }
    println!("back {:?} after the broker", back.elapsed());
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());

    ledger.published(load.stop().await);
    let books = ledger
        .settle_and_end(&installation, &node, vec![first, second], LONG)
        .await;
    report("a worker and the broker killed once", &books);
    books.assert_balanced();
    assert!(
        books.duplicates > 0,
        "nothing was in flight at the kills: the test proves nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_attempt_that_hangs_for_30_s_holds_back_none_of_10000_messages() {
    const MESSAGES: usize = 10_000;
    let installation = Installation::new("hang").await;
    let hanging = Receiver::new(|_, _| Answer::Hang).await;
    let healthy = Receiver::ok().await;
    installation.endpoint("org_hangs", &hanging.url()).await;
    installation.endpoint("org_1", &healthy.url()).await;
    let worker = installation.worker().await;
    installation.amqp().publish(&[event("org_hangs", "hangs")]).await;
    wait_until("the attempt hangs", SOON, || hanging.count() == 1).await;
    let began = hanging.requests()[0].at;
    let events: Vec<_> = (0..MESSAGES)
        .map(|lead| event("org_1", &lead.to_string()))
        .collect();
    installation.amqp().publish(&events).await;
    wait_until("all the others arrive", Duration::from_secs(28), || {
        healthy.distinct() == MESSAGES
    })
    .await;
    // Almost all of them are acknowledged as well: none is ready, and at most 1,024 messages, the prefetch,
    // can be unacked.
    installation.amqp().wait_for_ready("events", 0, SOON).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(29), "{took:?}");
    println!("{MESSAGES} delivered while one attempt hung, {took:?} after it began");
    // The attempt ends at its deadline and is made again.
    wait_until("the second attempt", Duration::from_secs(40), || {
        hanging.count() >= 2
    })
    .await;
    let second = &hanging.requests()[1];
    let gap = second.at - began;
    assert!(
        has_passed(Duration::from_secs(31), gap) && gap < Duration::from_secs(33),
        "30 s of attempt and 1 s of delay, not {gap:?}"
    );
    assert_eq!(second.attempt(), 2);
    assert_eq!(healthy.count(), MESSAGES, "nothing was delivered twice");
    drop(worker);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_published_500_ms_after_its_endpoint_was_created_arrives_200_of_200_with_two_workers() {
    const ENDPOINTS: usize = 200;
    let installation = Arc::new(Installation::new("fresh").await);
    let receiver = Arc::new(Receiver::ok().await);
    let _workers = (installation.worker().await, installation.worker().await);
    let slots = Arc::new(tokio::sync::Semaphore::new(8));
    let creating: Vec<_> = (0..ENDPOINTS)
        .map(|n| {
            let (installation, receiver, slots) = (
                Arc::clone(&installation),
                Arc::clone(&receiver),
                Arc::clone(&slots),
            );
            tokio::spawn(async move {
                let organization = format!("org_{n}");
                {
                    let _slot = slots.acquire().await.unwrap();
                    installation.endpoint(&organization, &receiver.url()).await;
                }
                // This delay is what the test is about; it does not wait for a condition.
                tokio::time::sleep(Duration::from_millis(500)).await;
                installation
                    .amqp()
                    .publish(&[event(&organization, &organization)])
                    .await;
            })
        })
        .collect();
    for created in creating {
        created.await.unwrap();
    }
    wait_until("200 of 200 arrive", SOON, || receiver.distinct() == ENDPOINTS).await;
    Arc::into_inner(installation).unwrap().delete().await;
}

/// The connection is cut after the endpoint has answered and before the ack is written, so the broker
/// redelivers the message.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_back_to_the_worker_that_settled_it_is_not_posted_again() {
    let node = Node::start().await;
    let installation = Installation::with("recall", node.url(), &[200, 400, 30_000], &[]).await;
    let receiver = Receiver::new(
        |request, before| match (request.json()["lead_id"].as_str(), before) {
            (Some("hangs"), 0) => Answer::Hang,
            _ => Answer::status(200),
        },
    )
    .await;
    installation.endpoint("org_1", &receiver.url()).await;
    let worker = installation.worker().await;
    installation.amqp().publish(&[event("org_1", "hangs")]).await;
    wait_until("the attempt hangs", SOON, || receiver.count() == 1).await;
    node.ctl(&["close_all_connections", "test"]).await;
    // The worker is connected again and has received the message: it is unacked, not ready. After a second,
    // its delivery is held in a separate message.
    let events = format!("{}.events", installation.prefix());
    let columns = [
        "list_queues",
        "-q",
        "name",
        "consumers",
        "messages_ready",
        "messages_unacknowledged",
    ];
    wait_for("the worker consumes again", SOON, || async {
        let queues = node.ctl(&columns).await;
        let consumes = queues.contains(&format!("{events}\t1\t"));
        let held = queues.lines().filter(|line| line.ends_with("\t0\t1")).count();
        if consumes && held == 1 {
            Ok(())
        } else {
            Err(queues)
        }
    })
    .await;
    receiver.release();
    let amqp = installation.connect().await;
    wait_for("it is acknowledged", SOON, || async {
        let queues = node.ctl(&columns).await;
        let is_left = queues.lines().any(|line| line.ends_with("\t1"));
        if is_left { Err(queues) } else { Ok(()) }
    })
    .await;
    assert_eq!(receiver.count(), 1, "the endpoint was asked once");
    amqp.publish(&[event("org_1", "after")]).await;
    wait_until("deliveries go on", SOON, || receiver.count() == 2).await;
    assert!(worker.terminate().await);
}

/// Two messages with the same content cannot be told apart when they are redelivered. Both have to be
/// acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn equal_messages_that_come_back_together_are_both_settled() {
    let node = Node::start().await;
    let installation = Installation::with("equal", node.url(), &[200, 400], &[]).await;
    let receiver = Receiver::new(|_, _| Answer::Hang).await;
    installation.endpoint("org_1", &receiver.url()).await;
    let worker = installation.worker().await;
    let twice = event("org_1", "twice");
    installation.amqp().publish(&[&twice, &twice]).await;
    wait_until("both attempts hang", SOON, || receiver.count() == 2).await;
    node.ctl(&["close_all_connections", "test"]).await;
    wait_until("one of them is taken for new", SOON, || receiver.count() == 3).await;
    receiver.release();
    wait_for("both are acked", SOON, || async {
        let left = node
            .ctl(&["list_queues", "-q", "--no-table-headers", "name", "messages"])
            .await;
        // The journal's queue is not empty, because no recorder is running.
        let is_left = |line: &str| !line.ends_with("\t0") && !line.contains(".journal\t");
        if left.lines().any(is_left) {
            Err(left)
        } else {
            Ok(())
        }
    })
    .await;
    assert!(worker.terminate().await);
}
