//! Tests that faults on our side do not count as attempts: too few file descriptors, a silent name server, a
//! wrong clock, a stopped worker.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use e2e::{
    Answer, Installation, Ledger, Load, Names, Proxy, Receiver, Reply, Role, SOON, due_headers, event,
    now_ms, report, scaled, wait_for, wait_until,
};
use lapin::{BasicProperties, types::AMQPValue};

const LONG: Duration = Duration::from_mins(2);
/// The delays between attempts in milliseconds, which are also the delays of deferrals.
const DELAYS_MS: [u64; 4] = [200, 400, 800, 1600];

async fn deferrals(worker: &Role) -> u64 {
    worker.metric("magnetite_deferrals_total", "fault").await as u64
}

/// Panics unless everything is delivered with the first attempt at each endpoint.
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

/// The endpoints are slow, so the worker would need more sockets than it may open.
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
    assert_eq!(accepted(&ledger), meanwhile, "the name cannot be resolved");
    assert!(questions.load(SeqCst) > before, "the workers ask the name server");
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

/// The name servers fail only for one customer's name. That is the customer's failure, and ends as any
/// failure of an endpoint does.
#[tokio::test(flavor = "multi_thread")]
async fn a_customers_broken_name_servers_are_charged_to_that_customer_alone() {
    const EVENTS: u32 = 5;
    let names = Names::start(|name, _| match name {
        "good.example" => Reply::Addresses(vec![Ipv4Addr::LOCALHOST.into()]),
        "broken.example" => Reply::ServerFailure,
        _ => Reply::NoName,
    })
    .await;
    let mut installation = Installation::with_delays("one-name", &[100, 200]).await;
    installation.set("MAGNETITE_EGRESS__NAME_SERVERS", &names.address().to_string());
    installation.set("MAGNETITE_EGRESS__ALLOW_HTTP", "true");
    let receiver = Receiver::ok().await;
    for name in ["good.example", "broken.example"] {
        let url = receiver.url().replace("127.0.0.1", name);
        installation.endpoint("org_1", &url).await;
    }
    let worker = installation.worker().await;
    let events: Vec<_> = (0..EVENTS)
        .map(|lead| event("org_1", &lead.to_string()))
        .collect();
    installation.amqp().publish(&events).await;
    installation.amqp().wait_for_ready("dead", EVENTS, SOON).await;
    for letter in installation.amqp().drain("dead").await {
        let told = ["magnetite-reason", "magnetite-attempts"].map(|name| letter.header(name));
        assert_eq!(told, ["exhausted", "3"]);
        let error = letter.header("magnetite-last-error");
        assert!(error.starts_with("name_server_failed in resolve: "), "{error}");
    }
    wait_until("the other name's endpoint has everything", SOON, || {
        receiver.accepted() == EVENTS as usize
    })
    .await;
    assert_eq!(deferrals(&worker).await, 0);
    assert!(worker.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_our_faults_hold_up_for_too_long_is_dead_uncharged_and_can_be_sent_again() {
    let fails = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&fails);
    let names = Names::start(move |_, _| {
        if told.load(SeqCst) {
            Reply::ServerFailure
        } else {
            Reply::Addresses(vec![Ipv4Addr::LOCALHOST.into()])
        }
    })
    .await;
    let mut installation = Installation::with_delays("fault-age", &[200, 400]).await;
    installation.set("MAGNETITE_EGRESS__NAME_SERVERS", &names.address().to_string());
    installation.set("MAGNETITE_EGRESS__ALLOW_HTTP", "true");
    installation.set("MAGNETITE_DEFER__FAULT_AGE_MAX", "1s");
    let receiver = Receiver::ok().await;
    let url = receiver.url().replace("127.0.0.1", "customer.example");
    let endpoint = installation.endpoint("org_1", &url).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    let command = ["delivery", "list", "--endpoint", &endpoint.id, "--state", "dead"];
    let dead = installation.wait_for_listed(&command, 1, SOON).await;
    assert_eq!(
        (&dead[0]["reason"], &dead[0]["attempt_count"]),
        (&"fault".into(), &0.into())
    );
    fails.store(false, SeqCst);
    installation
        .cli_ok(&["delivery", "resend", dead[0]["id"].as_str().unwrap()])
        .await;
    wait_until("it is delivered", SOON, || receiver.accepted() == 1).await;
    assert!(worker.terminate().await && recorder.terminate().await);
    installation.delete().await;
}

/// A message of an earlier version contains the time since which it has been waiting for a slot, by the clock
/// of a worker that was 11 minutes behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_moment_of_another_hosts_clock_makes_no_delivery_dead() {
    let mut installation = Installation::with_delays("skew", &[200, 400]).await;
    installation.set("MAGNETITE_WORKER__IN_FLIGHT_MAX", "1");
    let receiver = Receiver::new(|_, _| Answer::Hang).await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let worker = installation.worker().await;
    installation.amqp().publish(&[event("org_1", "first")]).await;
    wait_until("its slot is taken", SOON, || receiver.count() == 1).await;

    let mut headers = due_headers(&endpoint);
    let behind_ms = now_ms() as i64 - 11 * 60 * 1000;
    headers.insert(
        "magnetite-no-slot-since-ms".into(),
        AMQPValue::LongLongInt(behind_ms),
    );
    headers.insert("magnetite-deferrals".into(), AMQPValue::LongLongInt(1));
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id("evt_of_another_host".into())
        .with_headers(headers);
    installation
        .amqp()
        .publish_to(
            "deliveries",
            "due",
            event("org_1", "second").as_bytes(),
            properties,
        )
        .await;
    wait_for("it waits, or is attempted", SOON, || async {
        let put_off = worker.metric("magnetite_deferrals_total", "no_slot").await;
        let dead = worker.metric("magnetite_dead_total", "").await;
        assert!(dead < 1.0, "it is dead");
        if put_off > 0.0 || receiver.count() > 1 {
            Ok(())
        } else {
            Err(format!("{put_off}"))
        }
    })
    .await;
    receiver.release();
    wait_until("both are delivered", SOON, || receiver.accepted() == 2).await;
    assert!(worker.terminate().await);
    installation.delete().await;
}

/// The attempt timeout is 2 s, and the endpoint answers after 1 s. The worker is stopped for most of the
/// timeout, and then for longer than it. Only attempts that failed are made again, with the same number.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_and_goes_on_charges_nothing() {
    const EVENTS: usize = 40;
    let mut installation = Installation::with_delays("stopped", &DELAYS_MS).await;
    installation.set("MAGNETITE_EGRESS__ATTEMPT_TIMEOUT", "2s");
    let receiver = Receiver::new(|_, _| Answer::Late(Duration::from_secs(1), 200)).await;
    installation.endpoint("org_1", &receiver.url()).await;
    let worker = installation.worker().await;
    let mut published = 0;
    for stop in [Duration::from_millis(1800), Duration::from_millis(3500)] {
        let events: Vec<_> = (0..EVENTS)
            .map(|number| event("org_1", &(published + number).to_string()))
            .collect();
        let seen = receiver.count();
        installation.amqp().publish(&events).await;
        published += EVENTS;
        wait_until("all of them are asked", SOON, || {
            receiver.count() >= seen + EVENTS
        })
        .await;
        worker.signal("STOP").await;
        let stopped = Instant::now();
        wait_until("it has stood still", SOON, || stopped.elapsed() >= stop).await;
        worker.signal("CONT").await;
        wait_until("all are delivered", SOON, || receiver.distinct() == published).await;
        installation.wait_until_drained(SOON).await;
    }
    for (delivery, attempts) in receiver.attempts() {
        assert!(
            attempts.iter().all(|number| *number == 1),
            "{delivery}: attempts {attempts:?}"
        );
    }
    let retried = worker.metric("magnetite_attempts_total", "retry").await;
    assert!(retried < 1.0, "{retried} attempts were charged");
    assert!(
        deferrals(&worker).await > 0,
        "every answer came in time: the test proves nothing"
    );
    assert!(worker.terminate().await);
    installation.delete().await;
}

/// The broker confirms what the worker published before it was stopped. When the worker continues, its timers
/// fire before it reads these confirms. The connection is slow, so that a batch of records is unconfirmed at
/// any moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_while_it_records_drops_no_records() {
    const STOPPED: Duration = Duration::from_millis(2500);
    let mut installation = Installation::new("standstill").await;
    let receiver = Receiver::ok().await;
    installation.endpoint("org_1", &receiver.url()).await;
    let load = Load::start(&installation, "org_1", 100);
    let proxy = Proxy::to(installation.broker_url()).await;
    installation.set("MAGNETITE_BROKER__URL", &proxy.url());
    let worker = installation.worker().await;
    proxy.slow(Duration::from_millis(200), 16 * 1024 * 1024);
    for _ in 0..4 {
        let seen = receiver.count();
        wait_until("events flow", SOON, || receiver.count() > seen + 100).await;
        worker.signal("STOP").await;
        let stopped = Instant::now();
        wait_until("it has stood still", SOON, || stopped.elapsed() >= STOPPED).await;
        worker.signal("CONT").await;
    }
    let published = load.stop().await.len();
    wait_until("all are delivered", SOON, || receiver.distinct() == published).await;
    installation.wait_until_drained(SOON).await;
    let dropped = worker.metric("magnetite_journal_dropped_total", "").await;
    assert!(dropped < 0.5, "{dropped} records were dropped");
    assert!(worker.terminate().await);
    installation.delete().await;
}
