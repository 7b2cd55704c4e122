//! Tests faults of the broker itself: SIGKILL while it holds delayed messages, a memory alarm, and a disk
//! that hangs.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use e2e::{
    Amqp, Answer, Installation, Ledger, Node, Receiver, SOON, chance, event, report, scaled, wait_for,
    wait_until,
};

const LONG: Duration = Duration::from_mins(5);

/// Creates an installation on a private node, with an endpoint "only" that receives every event.
async fn scene(name: &str, node: &Node, delays_ms: &[u64], receiver: Receiver) -> (Installation, Ledger) {
    let installation = Installation::with(name, node.url(), delays_ms, &[]).await;
    let mut ledger = Ledger::new();
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    ledger.endpoint("only", endpoint, receiver);
    (installation, ledger)
}

/// Publishes events about these leads, and adds them to the ledger.
async fn publish(amqp: &Amqp, ledger: &mut Ledger, leads: Range<usize>) {
    let leads: Vec<_> = leads.map(|lead| format!("lead_{lead}")).collect();
    let events: Vec<_> = leads.iter().map(|lead| event("org_1", lead)).collect();
    amqp.publish(&events).await;
    ledger.published(leads.into_iter().map(|lead| (lead, Instant::now())));
}

/// Waits until exactly this many messages are ready in all delay queues together.
async fn wait_for_delayed(installation: &Installation, amqp: &Amqp, count: usize) {
    wait_for(&format!("{count} messages are delayed"), LONG, || async {
        let mut delayed = 0;
        for queue in installation.work_queues() {
            if queue.starts_with("delay.") {
                delayed += amqp.ready(&queue).await as usize;
            }
        }
        if delayed == count {
            Ok(())
        } else {
            Err(format!("{delayed}"))
        }
    })
    .await;
}

async fn kill(node: &Node, ledger: &mut Ledger) {
    let from = Instant::now();
    node.kill().await;
    node.start_again().await;
    ledger.broken("broker", from, None);
}

/// In each round, the events are distributed among three delay queues, and the broker is killed twice: while
/// it holds all of them, and while they come due.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_delayed_outlives_the_sigkill_of_the_broker() {
    let (rounds, messages) = scaled((1, 1500), (5, 20_000));
    // Long enough for the worker to fail all of them before the first is due.
    let delays_ms = scaled([6000, 7000, 8000], [45_000, 50_000, 55_000]);
    let node = Node::start().await;
    let receiver = Receiver::new(move |request, before| {
        let wait_s = delays_ms[chance(&request.lead, 3) as usize] / 1000;
        if before == 0 {
            Answer::Status(503, vec![("retry-after", wait_s.to_string())])
        } else {
            Answer::status(200)
        }
    })
    .await;
    let (installation, mut ledger) = scene("delayed", &node, &delays_ms, receiver).await;
    let workers = vec![installation.worker().await];
    for round in 0..rounds {
        let amqp = installation.connect().await;
        publish(&amqp, &mut ledger, round * messages..(round + 1) * messages).await;
        wait_for_delayed(&installation, &amqp, messages).await;
        kill(&node, &mut ledger).await;
        let accepted = |ledger: &Ledger| ledger.receiver("only").accepted() - round * messages;
        wait_until("some are due", LONG, || accepted(&ledger) > messages / 20).await;
        assert!(
            accepted(&ledger) < messages,
            "the second kill comes too late to prove anything"
        );
        kill(&node, &mut ledger).await;
        wait_until("all are delivered", LONG, || accepted(&ledger) == messages).await;
    }
    let books = ledger.settle_and_end(&installation, &node, workers, LONG).await;
    report(
        "broker SIGKILLed over full delay queues",
        format!("{rounds} times with {messages} delayed and {rounds} times while they come due; {books}"),
    );
    books.assert_balanced();
    assert_eq!((books.delivered, books.dead), (rounds * messages, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_under_a_memory_alarm_says_so_before_it_has_anything_to_publish() {
    let node = Node::start().await;
    let (installation, mut ledger) = scene("idle", &node, &[500, 1000], Receiver::ok().await).await;
    node.raise_memory_alarm(SOON).await;
    let worker = installation.start("worker");
    wait_for("it says what it waits for", SOON, || async {
        match worker.get("/readyz").await {
            Ok(ready) if ready.contains("alarm") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    node.end_memory_alarm().await;
    worker.wait_until_ready().await;
    publish(installation.amqp(), &mut ledger, 0..1).await;
    let books = ledger
        .settle_and_end(&installation, &node, vec![worker], LONG)
        .await;
    books.assert_balanced();
    assert_eq!(books.delivered, 1);
}

/// Waits until this many events were received at least once.
async fn wait_until_attempted(
    installation: &Installation,
    receiver: &Receiver,
    events: usize,
    limit: Duration,
) {
    wait_for("everything is attempted", limit, || async {
        let attempted = receiver.distinct();
        if attempted == events {
            Ok(())
        } else {
            let ready = installation.amqp().ready("events").await;
            Err(format!("{attempted} attempted, {ready} ready"))
        }
    })
    .await;
}

/// The worker starts during the alarm, which is harder for it than an alarm that begins while it runs.
#[tokio::test(flavor = "multi_thread")]
async fn under_a_memory_alarm_what_needs_no_retry_is_delivered_and_acked_and_the_rest_after_it() {
    let (messages, alarm) = scaled((2000, Duration::from_secs(5)), (20_000, Duration::from_mins(1)));
    // Fewer than the prefetch, which limits how many messages can wait for the end of the alarm.
    let retries_max = 400;
    let one_in = messages as u64 / 200;
    let fails = move |lead: &str| chance(lead, one_in) == 0;
    let node = Node::start().await;
    let receiver = Receiver::new(move |request, before| {
        Answer::status(if before == 0 && fails(&request.lead) {
            500
        } else {
            200
        })
    })
    .await;
    let (installation, mut ledger) = scene("alarm", &node, &[500, 1000], receiver).await;
    publish(installation.amqp(), &mut ledger, 0..messages).await;
    let retries = (0..messages)
        .filter(|lead| fails(&format!("lead_{lead}")))
        .count();
    assert!((1..retries_max).contains(&retries), "{retries} retries");

    node.raise_memory_alarm(SOON).await;
    let (raised, worker) = (Instant::now(), installation.start("worker"));
    let receiver = ledger.receiver("only");
    wait_until_attempted(&installation, receiver, messages, alarm + SOON).await;
    let owing = receiver.distinct() - receiver.accepted();
    worker.wait_for_unacked("", owing as u64, SOON).await;
    let drained = raised.elapsed();
    wait_until("the alarm has lasted", alarm + SOON, || raised.elapsed() >= alarm).await;
    assert_eq!(
        ledger.receiver("only").count(),
        messages,
        "nothing is attempted again while its retry cannot be published"
    );
    worker.wait_for_unacked("", owing as u64, SOON).await;
    assert!(
        worker.get("/readyz").await.unwrap().contains("alarm"),
        "a worker that may not publish says why it is not ready"
    );

    node.end_memory_alarm().await;
    let ended = Instant::now();
    wait_until("the retries are made", LONG, || {
        ledger.receiver("only").count() == messages + retries
    })
    .await;
    let after = ended.elapsed();
    worker.wait_until_ready().await;
    let books = ledger
        .settle_and_end(&installation, &node, vec![worker], LONG)
        .await;
    report(
        "memory alarm",
        format!(
            "{alarm:?} long; all that needs no retry delivered and acked {drained:.1?} after it began, {retries} retries \
             made {after:.1?} after its end; {books}"
        ),
    );
    books.assert_balanced();
    assert_eq!((books.delivered, books.duplicates), (messages, 0));
}

/// The broker's write-ahead log hangs, as on a disk that does not answer: heartbeats continue, but confirms
/// stop. The retries of all attempts that fail meanwhile remain unconfirmed for longer than the worker's
/// publish timeout.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_the_broker_that_stands_still_makes_no_second_chain_of_retries() {
    const ATTEMPT: Duration = Duration::from_secs(5);
    let (messages, stall) = scaled((60, Duration::from_secs(25)), (60, Duration::from_mins(2)));
    let node = Node::start().await;
    let receiver = Receiver::new(|_, before| match before {
        0 => Answer::Late(ATTEMPT, 500),
        _ => Answer::status(200),
    })
    .await;
    let (installation, mut ledger) = scene("stalled", &node, &[500, 1000], receiver).await;
    let worker = installation.worker().await;
    publish(installation.amqp(), &mut ledger, 0..messages).await;
    wait_until("all are in flight", SOON, || {
        ledger.receiver("only").count() == messages
    })
    .await;
    node.stall_disk().await;
    let began = Instant::now();
    wait_for("no retry is confirmed", stall + SOON, || async {
        let waiting = worker.metric("magnetite_unconfirmed_messages", "").await as usize;
        if waiting == messages && began.elapsed() >= stall {
            Ok(())
        } else {
            Err(format!("{waiting} of {messages}"))
        }
    })
    .await;
    assert_eq!(ledger.receiver("only").count(), messages, "no retry is due yet");
    node.end_stall().await;
    let books = ledger
        .settle_and_end(&installation, &node, vec![worker], LONG)
        .await;
    let requests = ledger.receiver("only").count();
    report(
        "the broker's disk stands still",
        format!(
            "{stall:?} long, {messages} retries to confirm: {requests} requests for {messages} events of two attempts; {books}"
        ),
    );
    books.assert_balanced();
    assert_eq!((books.delivered, requests), (messages, 2 * messages));
}
