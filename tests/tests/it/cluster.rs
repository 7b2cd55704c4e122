//! Tests a cluster of three nodes that loses one: one node is stopped, so that it does not answer and its
//! connections stay open, and one is killed.

use std::time::{Duration, Instant};

use e2e::{
    Answer, Cluster, Endpoint, Installation, Ledger, Load, Receiver, Role, SOON, chance, is_long, report,
    scaled, wait_until,
};

const LONG: Duration = Duration::from_mins(4);
/// The delays for ten attempts.
const DELAYS_MS: [u64; 9] = [200, 400, 800, 1000, 1000, 2000, 2000, 2000, 2000];
const PER_SECOND: u32 = 50;

/// Starts a receiver that answers after 20 to 300 ms and fails a fifth of all attempts.
async fn unsteady(name: &'static str) -> Receiver {
    Receiver::new(move |request, before| {
        let millis = 20 + chance((name, &request.lead, before), 281);
        let fails = chance((name, &request.lead, before, "fails"), 5) == 0;
        Answer::Late(Duration::from_millis(millis), if fails { 503 } else { 200 })
    })
    .await
}

/// Starts a receiver that fails the first three attempts of each event.
async fn failing() -> Receiver {
    Receiver::new(|_, before| Answer::status(if before < 3 { 500 } else { 200 })).await
}

/// Makes sure that a worker is connected to this node. Workers choose the first node themselves, so this
/// replaces the worker until one is connected to it.
async fn have_client(cluster: &Cluster, node: usize, installation: &Installation, worker: &mut Role) {
    let until = Instant::now() + SOON;
    while cluster.clients(node).await == 0 {
        assert!(Instant::now() < until, "no worker ever connects to {node}");
        let next = installation.worker().await;
        assert!(std::mem::replace(worker, next).terminate().await);
    }
}

/// Returns the longest time between two receipts of this receiver, from that moment on.
fn longest_silence(receiver: &Receiver, from: Instant) -> Duration {
    let mut seen: Vec<_> = receiver.receipts().into_values().flatten().collect();
    seen.retain(|receipt| receipt.at >= from);
    seen.sort_by_key(|receipt| receipt.at);
    let gaps = seen.windows(2).map(|pair| pair[1].at - pair[0].at);
    gaps.max().unwrap_or_default()
}

/// Panics if an attempt's number is higher than the failures of the endpoint itself allow.
fn assert_nothing_charged(endpoint: &Endpoint, receiver: &Receiver) {
    let attempts = receiver.attempts();
    for (lead, receipts) in receiver.receipts() {
        let mut allowed = 1;
        for (receipt, attempt) in receipts.iter().zip(&attempts[&lead]) {
            let id = &endpoint.id;
            assert!(
                *attempt <= allowed,
                "{lead}: attempt {attempt} of {id} after {} failures",
                allowed - 1
            );
            allowed += u32::from(!receipt.accepted);
        }
    }
}

/// Registers three endpoints that fail in different ways.
async fn ledger(installation: &Installation) -> Ledger {
    let mut ledger = Ledger::new();
    for (name, receiver) in [
        ("first", unsteady("first").await),
        ("second", unsteady("second").await),
        ("failing", failing().await),
    ] {
        let endpoint = installation.endpoint("org_1", &receiver.url()).await;
        ledger.endpoint(name, endpoint, receiver);
    }
    ledger
}

async fn wait_until_events_flow(ledger: &Ledger) {
    let begun = ledger.receiver("first").distinct();
    wait_until("events flow", SOON, || {
        ledger.receiver("first").distinct() > begun + 100
    })
    .await;
}

async fn kill_node(cluster: &Cluster, victim: usize) {
    cluster.node(victim).kill().await;
    cluster.node(victim).start_again().await;
}

/// Stops a node for longer than it takes to detect a dead connection (20 s). In the long form, it is also
/// longer than the nodes take to detect each other's dead connections.
async fn stop_node(cluster: &Cluster, victim: usize) {
    let stopped_for = scaled(Duration::from_secs(30), Duration::from_secs(90));
    let from = Instant::now();
    cluster.node(victim).pause().await;
    wait_until("it is stopped long enough", LONG, || from.elapsed() > stopped_for).await;
    cluster.node(victim).resume().await;
    if is_long() && !cluster.heals() {
        // As `docs/operations.md` advises.
        kill_node(cluster, victim).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_and_one_that_is_killed_lose_nothing() {
    let cluster = Cluster::start().await;
    let installation = Installation::with("cluster", &cluster.urls(), &DELAYS_MS, &[]).await;
    let mut ledger = ledger(&installation).await;
    let recorder = installation.recorder().await;
    let mut workers = [installation.worker().await, installation.worker().await];
    cluster.wait_until_whole(0).await;
    let load = Load::start(&installation, "org_1", PER_SECOND);
    let events = format!("{}.events", installation.prefix());
    let mut silences = Vec::new();
    for (round, what) in ["node stopped", "node killed"].into_iter().enumerate() {
        wait_until_events_flow(&ledger).await;
        let victim = cluster.leader(&events).await;
        have_client(&cluster, victim, &installation, &mut workers[round]).await;
        let unacked = workers[0].unacked().await + workers[1].unacked().await;
        let from = Instant::now();
        if what == "node stopped" {
            stop_node(&cluster, victim).await;
        } else {
            kill_node(&cluster, victim).await;
        }
        cluster.wait_until_whole(victim).await;
        for role in workers.iter().chain([&recorder]) {
            role.wait_until_ready().await;
        }
        ledger.broken(what, from, Some(unacked));
        silences.push(format!(
            "{what} for {:.0?}, silent at most {:.1?}",
            from.elapsed(),
            longest_silence(ledger.receiver("first"), from)
        ));
    }
    ledger.published(load.stop().await);

    let books = ledger
        .settle_and_end(&installation, cluster.node(0), workers.into(), LONG)
        .await;
    installation.wait_until_recorded(&[], &recorder, LONG).await;
    // Recording never delays deliveries: records that could not be written in time are reported as a gap.
    let audit = installation.audit().await;
    let gaps = audit.of_kind("gap").into_iter();
    let unrecorded: u64 = gaps.filter_map(|gap| gap["count"].as_u64()).sum();
    report(
        "three nodes: the leader of events SIGSTOPped, then SIGKILLed",
        format!("{}; {books}; {unrecorded} records in gaps", silences.join("; ")),
    );
    books.assert_balanced();
    assert_eq!(books.dead, 0, "{books}");
    for (endpoint, receiver) in ledger.endpoints() {
        assert_nothing_charged(endpoint, receiver);
    }
    assert!(
        books.unacked_median() > 0,
        "nothing was in flight at the breaks: {books}"
    );
    assert!(audit.balances, "{audit:#?}");
    assert!(recorder.terminate().await);
}

/// `broker.url` has two addresses, one of which accepts connections and never answers.
#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_which_address_answers_and_which_it_is_connected_to() {
    let mut installation = Installation::new("addresses").await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = silent.local_addr().unwrap();
    let good = format!("127.0.0.1:{}/", installation.broker_port());
    let urls = format!(
        "amqp://guest:s3cret@{hangs}/%2f?connection_timeout=500,{}",
        installation.broker_url()
    );
    installation.set("MAGNETITE_BROKER__URL", &urls);
    let output = installation.cli(&["doctor"]).await;
    let report =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let line = |of: &str, address: &str| {
        let found = report
            .lines()
            .find(|line| line.contains(of) && line.contains(address));
        found
            .unwrap_or_else(|| panic!("no {of} of {address}: {report}"))
            .to_owned()
    };
    assert!(line("broker", &hangs.to_string()).contains("warn"), "{report}");
    assert!(line("broker", &good).contains("RabbitMQ"), "{report}");
    assert!(line("login", &good).contains("ok"), "{report}");
    assert!(!report.contains("s3cret"), "{report}");
    assert!(output.status.success(), "{report}");
    let worker = installation.worker().await;
    assert!(worker.terminate().await);
    installation.delete().await;
}
