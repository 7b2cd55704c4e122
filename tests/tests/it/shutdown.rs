//! Tests how a role shuts down: on SIGTERM under load, and on other signals.

use std::time::{Duration, Instant};

use e2e::{Answer, Installation, Ledger, Load, Receiver, SOON, chance, event, report, scaled, wait_until};

const LONG: Duration = Duration::from_mins(2);
/// The promised time limit after the deadline: by then everything is committed and the process has exited.
const AFTER_DEADLINE: Duration = Duration::from_secs(1);

/// There is only one worker, so that no other takes over its messages. One endpoint keeps some requests open
/// for longer than the deadline, and events continue to arrive.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_loses_nothing_charges_nothing_and_ends_in_time() {
    let deadline = Duration::from_secs(scaled(1, 25));
    let mut installation = Installation::new("sigterm").await;
    installation.set(
        "MAGNETITE_SHUTDOWN__DEADLINE",
        &format!("{}s", deadline.as_secs()),
    );
    let mut ledger = Ledger::new();
    let hanging = Receiver::new(|request, before| match (before, chance(&request.lead, 4)) {
        (0, 0) => Answer::Hang,
        _ => Answer::status(200),
    })
    .await;
    for (name, receiver) in [("hanging", hanging), ("healthy", Receiver::ok().await)] {
        let endpoint = installation.endpoint("org_1", &receiver.url()).await;
        ledger.endpoint(name, endpoint, receiver);
    }
    let worker = installation.worker().await;
    let load = Load::start(&installation, "org_1", 200);
    let (hanging, healthy) = (ledger.receiver("hanging"), ledger.receiver("healthy"));
    wait_until("work is in flight", SOON, || {
        healthy.accepted() > 300 && hanging.count() > hanging.accepted() + 20
    })
    .await;

    let (from, unacked) = (Instant::now(), worker.unacked().await);
    assert!(worker.terminate().await, "it ends with 0");
    let took = from.elapsed();
    assert!(took < deadline + AFTER_DEADLINE, "{took:?}");
    assert!(
        took >= deadline,
        "nothing was in flight for long enough: the test proves nothing"
    );
    ledger.broken("worker told to end", from, Some(unacked));
    ledger.receiver("hanging").release();
    let next = installation.worker().await;
    ledger.published(load.stop().await);
    let books = ledger.settle(&installation, LONG).await;
    report(
        "SIGTERM under load",
        format!("ended after {took:.2?} of at most {deadline:?} + 1 s; {books}"),
    );
    books.assert_balanced();
    assert_eq!(books.dead, 0);
    let hanging = ledger.receiver("hanging").attempts();
    let given_up = hanging.values().filter(|attempts| attempts.len() > 1).count();
    assert!(given_up > 0, "nothing was cut off: the test proves nothing");
    for (lead, attempts) in &hanging {
        assert!(
            attempts.iter().all(|attempt| *attempt == 1),
            "{lead} was charged: {attempts:?}"
        );
    }
    // What was delivered was acknowledged before the worker exited.
    ledger.receiver("healthy").assert_attempts(&[1]);
    assert!(next.terminate().await);
    installation.delete().await;
}

/// A terminal that is closed sends SIGHUP, and a shell in it sends SIGHUP again.
#[tokio::test(flavor = "multi_thread")]
async fn each_signal_that_asks_for_the_end_gets_a_clean_one() {
    let installation = Installation::new("signals").await;
    for signals in [
        &["HUP"][..],
        &["INT"],
        &["TERM"],
        &["HUP", "HUP", "HUP"],
        &["TERM", "HUP"],
    ] {
        let worker = installation.worker().await;
        for signal in signals {
            worker.signal(signal).await;
        }
        assert!(worker.ended().await, "{signals:?}: it ends with 0");
    }
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_started_by_nohup_outlives_its_terminal() {
    let mut installation = Installation::new("nohup").await;
    installation.start_by(&["nohup"]);
    let worker = installation.worker().await;
    worker.signal("HUP").await;
    let receiver = Receiver::ok().await;
    installation.endpoint("org_1", &receiver.url()).await;
    installation
        .cli_with_input(&["publish"], event("org_1", "lead_1").as_bytes())
        .await;
    wait_until("it still delivers", SOON, || receiver.accepted() == 1).await;
    assert!(worker.terminate().await);
    installation.delete().await;
}
