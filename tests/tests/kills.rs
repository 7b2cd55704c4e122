//! Workers that are killed again and again, and the broker under them: the ledger balances.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test ends at the first surprise"
)]

use std::time::{Duration, Instant};

use e2e::{Answer, Installation, Ledger, Load, Node, Receiver, Role, chance, report, scaled, wait_until};

const SOON: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_mins(2);
/// Ten attempts, as many as the contract's schedule has, in 11 s instead of 151.
const DELAYS_MS: [u64; 9] = [200, 400, 800, 1000, 1000, 2000, 2000, 2000, 2000];

/// Takes 20 to 500 ms and fails a fifth of all attempts.
async fn unsteady(name: &'static str) -> Receiver {
    Receiver::new(move |request, before| {
        let millis = 20 + chance((name, &request.lead, before), 481);
        let fails = chance((name, &request.lead, before, "fails"), 5) == 0;
        Answer::Late(Duration::from_millis(millis), if fails { 503 } else { 200 })
    })
    .await
}

/// SIGKILLs a worker, notes what it held, and starts another in its place.
async fn kill(installation: &Installation, ledger: &mut Ledger, worker: &mut Role) {
    let (unacked, from) = (worker.unacked().await, Instant::now());
    let next = installation.start("worker");
    std::mem::replace(worker, next).kill().await;
    worker.wait_until_ready().await;
    ledger.broken("worker", from, Some(unacked));
}

/// Measures under load: nothing else runs beside it.
mod alone {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn workers_killed_every_3_s_and_the_broker_twice_lose_nothing() {
        let node = Node::start().await;
        let installation = Installation::with("kills", node.url(), &DELAYS_MS, &[]).await;
        let mut ledger = Ledger::new();
        for name in ["first", "second", "third"] {
            let receiver = unsteady(name).await;
            let endpoint = installation.endpoint("org_1", &receiver.url()).await;
            ledger.endpoint(name, endpoint, receiver);
        }
        let failing = Receiver::new(|_, _| Answer::status(500)).await;
        let endpoint = installation.endpoint("org_1", &failing.url()).await;
        ledger.endpoint("failing", endpoint, failing);
        let mut workers = [installation.worker().await, installation.worker().await];
        let load = Load::start(&installation, "org_1", 100);

        let rounds = scaled(6, 20);
        let broker_dies_in = [rounds / 3, 2 * rounds / 3];
        let mut pace = tokio::time::interval(Duration::from_secs(3));
        pace.tick().await;
        for round in 0..rounds {
            pace.tick().await;
            if broker_dies_in.contains(&round) {
                let from = Instant::now();
                node.kill().await;
                node.start_again().await;
                ledger.broken("broker", from, None);
            } else {
                kill(&installation, &mut ledger, &mut workers[round % 2]).await;
            }
        }
        ledger.published(load.stop().await);

        let books = ledger
            .settle_and_end(&installation, &node, workers.into(), LONG)
            .await;
        report("kills: worker every 3 s, broker twice", &books);
        books.assert_balanced();
        assert!(
            books.unacked_median() >= 20,
            "too little was in flight at the kills to prove anything: {books}"
        );
    }

    /// The message of an event is acked without the attempt that hangs; so a crash makes copies of young events only.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_crash_beside_a_hanging_sibling_copies_only_what_is_younger_than_2_s() {
        const YOUNG: Duration = Duration::from_secs(2);
        let mut installation = Installation::new("siblings").await;
        installation.set("MAGNETITE_SHUTDOWN__DEADLINE", "0s");
        let mut ledger = Ledger::new();
        for name in ["first", "second", "third"] {
            let receiver = Receiver::new(|_, _| Answer::Late(Duration::from_millis(20), 200)).await;
            let endpoint = installation.endpoint("org_1", &receiver.url()).await;
            ledger.endpoint(name, endpoint, receiver);
        }
        let hanging = Receiver::new(|_, _| Answer::Hang).await;
        installation.endpoint("org_1", &hanging.url()).await;
        let mut copied = 0;
        for round in 0..scaled(3, 10) {
            // A fresh worker knows nothing of any endpoint: the hanging one is attempted inline at first.
            let worker = installation.worker().await;
            let before = ledger.receiver("first").distinct();
            let load = Load::numbered(&installation, "org_1", 100, before);
            wait_until("events flow", SOON, || {
                ledger.receiver("first").distinct() >= before + 150 + 50 * round
            })
            .await;
            let killed = Instant::now();
            worker.kill().await;
            ledger.published(load.stop().await);
            let next = installation.worker().await;
            ledger.broken("worker", killed, None);
            ledger.wait_until_accounted(installation.amqp(), LONG).await;
            next.wait_for_unacked(".events", 0, SOON).await;
            for name in ["first", "second", "third"] {
                for (lead, receipts) in ledger.receiver(name).receipts() {
                    let [first, copies @ ..] = &receipts[..] else {
                        continue;
                    };
                    let of_this_kill = copies.iter().any(|copy| copy.at > killed) && first.at < killed;
                    if of_this_kill {
                        copied += 1;
                        let age = killed - ledger.published_at(&lead);
                        assert!(age < YOUNG, "{name} got {lead} again, {age:?} old at the kill");
                    }
                }
            }
            assert!(next.terminate().await);
        }
        let books = ledger.books();
        report(
            "fan-out of 4, one hangs, SIGKILL",
            format!("{copied} copies, all younger than 2 s; {books}"),
        );
        books.assert_balanced();
        installation.delete().await;
    }
}
