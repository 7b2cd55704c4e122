//! Tests that no event is lost when workers, and the broker, are killed again and again.

use std::time::{Duration, Instant};

use bytes::Bytes;
use e2e::{
    Answer, Installation, Ledger, Load, Node, Receipt, Receiver, Request, Role, SOON, chance, is_between,
    outside_ms, report, scaled, wait_until,
};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_mins(2);
/// The delays for ten attempts, as many as in the contract's schedule, but in 11 s instead of 151 s.
const DELAYS_MS: [u64; 9] = [200, 400, 800, 1000, 1000, 2000, 2000, 2000, 2000];

/// Starts a receiver that answers after 20 to 500 ms and fails a fifth of all attempts.
async fn unsteady(name: &'static str) -> Receiver {
    Receiver::new(move |request, before| {
        let millis = 20 + chance((name, &request.lead, before), 481);
        let fails = chance((name, &request.lead, before, "fails"), 5) == 0;
        Answer::Late(Duration::from_millis(millis), if fails { 503 } else { 200 })
    })
    .await
}

/// Kills a worker with SIGKILL, records what it held, and starts another in its place.
async fn kill(installation: &Installation, ledger: &mut Ledger, worker: &mut Role) {
    let (unacked, from) = (worker.unacked().await, Instant::now());
    let next = installation.start("worker");
    std::mem::replace(worker, next).kill().await;
    worker.wait_until_ready().await;
    ledger.broken("worker", from, Some(unacked));
}

/// Checks that the journal, which is stored only afterwards, balances, and that for each of 20 events it
/// matches what the receivers saw.
async fn tells_the_same(installation: &Installation, ledger: &Ledger) {
    let recorder = installation.recorder().await;
    installation.wait_until_recorded(&[], &recorder, LONG).await;
    installation.audit().await.assert_settled();
    let of_ledger = ledger.leads();
    for pick in 0..20 {
        let lead = &of_ledger[chance(("story", pick), of_ledger.len() as u64) as usize];
        let listed = installation.json(&["event", "list", "--lead", lead]).await;
        let id = listed[0]["id"].as_str().unwrap();
        let shown = &installation.json(&["event", "show", id]).await[0];
        for (endpoint, receiver) in ledger.endpoints() {
            let mut endpoints = shown["endpoints"].as_array().unwrap().iter();
            let told = endpoints
                .find(|told| told["endpoint_id"] == endpoint.id.as_str())
                .unwrap();
            compare(lead, told, receiver, ledger);
        }
    }
    assert!(recorder.terminate().await);
}

/// Returns the index of the receipt that belongs to an attempt in the journal, or `None` if there is none.
/// This is the receipt with the same delivery, attempt number and answer whose time is closest, if it is
/// close enough given the clock skew. A crash causes several attempts with the same number.
fn receipt_of(delivery_id: &str, attempt: &Value, seen: &[(&Request, &Receipt)]) -> Option<usize> {
    let number = |name: &str| attempt[name].as_u64().unwrap_or_default();
    // Both times are rounded down to whole milliseconds.
    let lasted_ms = number("began_ms")..=number("began_ms") + number("duration_ms") + 1;
    let is_same = |(request, receipt): &(&Request, &Receipt)| {
        request.delivery_id() == delivery_id
            && u64::from(request.attempt()) == number("number")
            && (number("status") == 0 || receipt.accepted == (number("status") == 200))
    };
    let same = (0..seen.len()).filter(|at| is_same(&seen[*at]));
    let nearest = same.min_by_key(|at| outside_ms(&lasted_ms, seen[*at].0.at_ms))?;
    is_between(&lasted_ms, seen[nearest].0.at_ms).then_some(nearest)
}

#[test]
fn an_attempt_is_matched_to_its_receipt_when_the_clocks_differ_by_2_ms() {
    let request = |delivery: &str, attempt: u32, at_ms| Request {
        at: Instant::now(),
        at_ms,
        path: "/hook".to_owned(),
        headers: [
            ("x-magnetite-delivery", delivery),
            ("x-magnetite-attempt", &attempt.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
        body: Bytes::new(),
        lead: "lead_1".to_owned(),
    };
    let requests = [
        request("dlv_1", 8, 778),
        request("dlv_2", 9, 778),
        request("dlv_1", 9, 828),
        request("dlv_1", 9, 780),
        request("dlv_1", 10, 5_000),
    ];
    let receipt = Receipt {
        at: Instant::now(),
        accepted: false,
    };
    let seen: Vec<_> = requests.iter().map(|request| (request, &receipt)).collect();
    let attempt =
        |number, status| json!({"number": number, "began_ms": 778, "duration_ms": 0, "status": status});
    assert_eq!(receipt_of("dlv_1", &attempt(9, 503), &seen), Some(3));
    assert_eq!(
        receipt_of("dlv_1", &attempt(9, 200), &seen),
        None,
        "it was answered otherwise"
    );
    assert_eq!(
        receipt_of("dlv_1", &attempt(10, 503), &seen),
        None,
        "it came much later"
    );
}

/// Compares the attempts of one lead at one endpoint in the journal with those that the receiver saw.
fn compare(lead: &str, told: &Value, receiver: &Receiver, ledger: &Ledger) {
    let of_lead = |request: &Request| request.lead == lead;
    let requests: Vec<_> = receiver.requests().into_iter().filter(of_lead).collect();
    let receipts = receiver.receipts().remove(lead).unwrap();
    let mut seen: Vec<_> = requests.iter().zip(&receipts).collect();
    let delivery = &told["deliveries"][0];
    for attempt in delivery["attempts"].as_array().unwrap() {
        let found = receipt_of(delivery["id"].as_str().unwrap(), attempt, &seen);
        let found = found.unwrap_or_else(|| panic!("{lead}: the receiver never saw {attempt}; {seen:?}"));
        seen.remove(found);
    }
    for (request, _) in seen {
        // A worker that is killed cannot record the attempts that it was making.
        assert!(
            ledger.was_broken(request.at),
            "{lead}: the journal does not know of {request:?}; {delivery}"
        );
    }
    let accepted = receipts.iter().any(|receipt| receipt.accepted);
    assert_eq!(delivery["state"] == "delivered", accepted, "{lead}: {delivery}");
    assert!(accepted || delivery["state"] == "dead", "{lead}: {delivery}");
}

/// Tests that measure under load. No other test runs at the same time.
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
        tells_the_same(&installation, &ledger).await;
        assert!(
            books.unacked_median() >= 20,
            "too little was in flight at the kills to prove anything: {books}"
        );
    }

    /// The message of an event is acknowledged without waiting for the attempt that hangs, so a crash creates
    /// copies only of recent events.
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
            // A new worker knows nothing about the endpoints, so it first attempts the hanging endpoint
            // inline.
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
            next.wait_for_unacked("events", 0, SOON).await;
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
