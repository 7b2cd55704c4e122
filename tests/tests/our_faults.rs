//! What is wrong with this machine spends no attempt of anybody's: no file descriptors, no name server.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test ends at the first surprise"
)]

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use e2e::{
    Answer, Installation, Ledger, Load, Names, Receiver, Reply, Role, report, scaled, wait_for, wait_until,
};

const SOON: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_mins(2);
/// Also the steps by which a delivery is put off.
const DELAYS_MS: [u64; 4] = [200, 400, 800, 1600];

async fn deferrals(worker: &Role) -> u64 {
    worker.metric("magnetite_deferrals_total", "fault").await as u64
}

/// Everything is delivered, by each endpoint's first attempt.
async fn assert_nothing_was_charged(
    installation: &Installation,
    ledger: &mut Ledger,
    load: Load,
    names: &[&str],
) {
    ledger.published(load.stop().await);
    let books = ledger.settle(installation, LONG).await;
    books.assert_balanced();
    assert_eq!((books.dead, books.duplicates), (0, 0), "{books}");
    for name in names {
        ledger.receiver(name).assert_attempts(&[1]);
    }
}

/// Endpoints that take their time need more sockets than the worker may open.
#[tokio::test(flavor = "multi_thread")]
async fn with_64_file_descriptors_under_load_no_attempt_is_charged() {
    const NAMES: [&str; 4] = ["first", "second", "third", "fourth"];
    let lasts = scaled(Duration::from_secs(5), Duration::from_mins(1));
    let installation = Installation::with_delays("descriptors", &DELAYS_MS).await;
    let mut ledger = Ledger::new();
    for name in NAMES {
        let receiver = Receiver::new(|_, _| Answer::Late(Duration::from_millis(400), 200)).await;
        let endpoint = installation.endpoint("org_1", &receiver.url()).await;
        ledger.endpoint(name, endpoint, receiver);
    }
    let worker = installation.start_with_descriptors("worker", 64);
    worker.wait_until_ready().await;
    let (began, load) = (Instant::now(), Load::start(&installation, "org_1", 50));
    wait_until("the load has lasted", lasts + SOON, || began.elapsed() >= lasts).await;
    assert_nothing_was_charged(&installation, &mut ledger, load, &NAMES).await;
    let deferrals = deferrals(&worker).await;
    report(
        "ulimit -n 64 under load",
        format!("{lasts:?}, {deferrals} deferrals; {}", ledger.books()),
    );
    assert!(deferrals > 0, "the descriptors sufficed: the test proves nothing");
    assert!(worker.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_name_server_is_silent_no_attempt_is_charged() {
    let silence = scaled(Duration::from_secs(6), Duration::from_secs(20));
    let (is_silent, questions) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (silent, asked) = (Arc::clone(&is_silent), Arc::clone(&questions));
    let names = Names::start(move |_, _| {
        asked.fetch_add(1, SeqCst);
        if silent.load(SeqCst) {
            Reply::Silence
        } else {
            Reply::Addresses(vec![Ipv4Addr::LOCALHOST.into()])
        }
    })
    .await;
    let mut installation = Installation::with_delays("silent", &DELAYS_MS).await;
    installation.set("MAGNETITE_EGRESS__NAME_SERVERS", &names.address().to_string());
    let mut ledger = Ledger::new();
    let receiver = Receiver::new(|_, _| Answer::Status(200, vec![("connection", "close".to_owned())])).await;
    let url = receiver.url().replace("127.0.0.1", "customer.example");
    let endpoint = installation.endpoint("org_1", &url).await;
    ledger.endpoint("named", endpoint, receiver);
    let worker = installation.worker().await;
    let load = Load::start(&installation, "org_1", 50);
    let accepted = |ledger: &Ledger| ledger.receiver("named").accepted();
    wait_until("events flow", SOON, || accepted(&ledger) > 50).await;

    let (fell_silent, before) = (Instant::now(), questions.load(SeqCst));
    is_silent.store(true, SeqCst);
    wait_for("deliveries are put off", silence, || async {
        let deferred = deferrals(&worker).await;
        if deferred > 0 {
            Ok(())
        } else {
            Err(deferred.to_string())
        }
    })
    .await;
    let meanwhile = accepted(&ledger);
    wait_until("the silence has lasted", silence + SOON, || {
        fell_silent.elapsed() >= silence
    })
    .await;
    assert_eq!(accepted(&ledger), meanwhile, "nobody knows the name");
    assert!(questions.load(SeqCst) > before, "nobody asks");
    is_silent.store(false, SeqCst);
    let asked = Instant::now();
    wait_until("deliveries go on", SOON, || accepted(&ledger) > meanwhile + 50).await;
    let back = asked.elapsed();
    assert_nothing_was_charged(&installation, &mut ledger, load, &["named"]).await;
    report(
        "name server silent",
        format!(
            "{silence:?}, {} deferrals, deliveries go on {back:.1?} after it; {}",
            deferrals(&worker).await,
            ledger.books()
        ),
    );
    assert!(worker.terminate().await);
    installation.delete().await;
}
