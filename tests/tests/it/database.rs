//! Tests the failure of PostgreSQL: deliveries continue, and what needs the database waits.

use std::{
    fs::{self, File},
    time::{Duration, Instant},
};

use e2e::{
    Answer, Endpoint, Installation, Ledger, Load, Postgres, Receiver, Role, SOON, due_headers, event, report,
    scaled, shared_broker, wait_for, wait_until,
};
use lapin::{BasicProperties, Confirmation};

const LONG: Duration = Duration::from_mins(2);
const PER_SECOND: u32 = 100;
/// The unsteady endpoint fails three of four attempts, so that many deliveries are delayed at any time.
const DELAYS_MS: [u64; 3] = [500, 1000, 1500];

async fn on(postgres: &Postgres, name: &str, settings: &[(&str, &str)]) -> Installation {
    let mut settings = settings.to_vec();
    settings.push(("MAGNETITE_DATABASE__URL", postgres.url()));
    Installation::with(name, &shared_broker(), &DELAYS_MS, &settings).await
}

/// Checks that a worker that starts while the database is unavailable waits, and logs a warning.
async fn waits_and_says_so(installation: &Installation) {
    let log = installation.directory().join("waiting.log");
    let mut command = installation.command(&["worker"]);
    let mut waiting = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
    wait_for("a line in the log of the worker that waits", SOON, || async {
        let log = fs::read_to_string(&log).unwrap();
        let says_so = |line: &&str| line.contains("WARN") && line.contains("database");
        log.lines().find(says_so).map(|_| ()).ok_or_else(|| log.clone())
    })
    .await;
    assert!(
        waiting.try_wait().unwrap().is_none(),
        "it waits, and does not end"
    );
    waiting.kill().await.unwrap();
}

/// Checks that an event is dead-lettered after a 410. The worker remembers that it has to disable the
/// endpoint until the database is available again.
async fn is_gone(installation: &Installation, gone: &Receiver) {
    let lead = format!("gone_{}", gone.count());
    installation.amqp().publish(&[event("org_gone", &lead)]).await;
    installation.amqp().wait_for_ready("dead", 1, SOON).await;
    let letter = installation.amqp().drain("dead").await;
    assert_eq!(letter[0].header("magnetite-reason"), "gone");
}

async fn is_disabled(installation: &Installation, endpoint: &Endpoint) {
    wait_for(
        "the endpoint that is gone is disabled in the database",
        SOON,
        || async {
            let shown = installation.show(endpoint).await;
            if shown["enabled"] == true {
                Err(shown.to_string())
            } else {
                Ok(())
            }
        },
    )
    .await;
}

/// Starts a worker while the database is unavailable, and waits until its readiness says what it waits for.
async fn start_waiting(installation: &Installation) -> Role {
    let worker = installation.start("worker");
    wait_for("readiness says what the worker waits for", SOON, || async {
        let ready = worker.get("/readyz").await.map_err(|error| error.to_string())?;
        let waits = ready.starts_with("HTTP/1.1 503") && ready.contains("database");
        if waits { Ok(()) } else { Err(ready) }
    })
    .await;
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_database_delays_and_charges_nothing() {
    let outage = scaled(Duration::from_secs(3), Duration::from_mins(1));
    let postgres = Postgres::start().await;
    let installation = on(&postgres, "outage", &[]).await;
    let mut ledger = Ledger::new();
    let unsteady =
        Receiver::new(|request, _| Answer::status(if request.attempt() < 4 { 500 } else { 200 })).await;
    for (name, receiver) in [("healthy", Receiver::ok().await), ("unsteady", unsteady)] {
        let endpoint = installation.endpoint("org_1", &receiver.url()).await;
        ledger.endpoint(name, endpoint, receiver);
    }
    let gone = Receiver::new(|_, _| Answer::status(410)).await;
    let workers = [installation.worker().await, installation.worker().await];
    let load = Load::start(&installation, "org_1", PER_SECOND);
    for is_killed in [false, true] {
        let endpoint = installation.endpoint("org_gone", &gone.url()).await;
        let unsteady = ledger.receiver("unsteady");
        let before = unsteady.accepted();
        wait_until("retries are pending", SOON, || unsteady.accepted() > before + 100).await;

        if is_killed {
            postgres.kill().await;
        } else {
            postgres.stop().await;
        }
        let (down, before) = (Instant::now(), ledger.receiver("healthy").accepted());
        waits_and_says_so(&installation).await;
        let third = start_waiting(&installation).await;
        is_gone(&installation, &gone).await;
        wait_until("the outage has lasted", outage + SOON, || {
            down.elapsed() >= outage
        })
        .await;
        let delivered = ledger.receiver("healthy").accepted() - before;
        let expected = f64::from(PER_SECOND) * down.elapsed().as_secs_f64();
        assert!(
            delivered as f64 > 0.8 * expected,
            "{delivered} of {expected:.0} while it was down"
        );
        assert_eq!(
            gone.count(),
            usize::from(is_killed) + 1,
            "the third worker took nothing"
        );

        postgres.start_again().await;
        third.wait_until_ready().await;
        is_disabled(&installation, &endpoint).await;
        assert!(third.terminate().await);
    }
    ledger.published(load.stop().await);
    let books = ledger.settle(&installation, LONG).await;
    report(
        "PostgreSQL stopped, then SIGKILLed",
        format!("{outage:?} each; {books}"),
    );
    books.assert_balanced();
    assert_eq!((books.dead, books.duplicates), (0, 0), "{books}");
    ledger.receiver("healthy").assert_attempts(&[1]);
    ledger.receiver("unsteady").assert_attempts(&[1, 2, 3, 4]);
    for worker in workers {
        worker.wait_until_ready().await;
        assert!(worker.terminate().await);
    }
    installation.delete().await;
}

/// The worker is stopped while both endpoints are created, and continues while the database is unavailable.
/// It therefore has to query the database for both.
#[tokio::test(flavor = "multi_thread")]
async fn a_due_delivery_of_an_endpoint_that_only_the_database_knows_waits_for_it() {
    let postgres = Postgres::start().await;
    let installation = on(&postgres, "unknown", &[]).await;
    let receiver = Receiver::ok().await;
    let worker = installation.worker().await;
    worker.signal("STOP").await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let deleted = installation.endpoint("org_1", &receiver.url()).await;
    installation.cli_ok(&["endpoint", "delete", &deleted.id]).await;
    postgres.stop().await;
    worker.signal("CONT").await;
    for endpoint in [&endpoint, &deleted] {
        let properties = BasicProperties::default().with_headers(due_headers(endpoint));
        let body = event("org_1", "lead_1");
        let published = installation.amqp();
        let published = published
            .publish_to("deliveries", "due", body.as_bytes(), properties)
            .await;
        assert_eq!(published, Confirmation::Ack(None));
    }
    wait_for("both are put off more than once", SOON, || async {
        let deferred = worker.metric("magnetite_deferrals_total", "database").await;
        if deferred > 3.0 {
            Ok(())
        } else {
            Err(deferred.to_string())
        }
    })
    .await;
    assert_eq!(receiver.count(), 0);
    let cancelled = worker.metric("magnetite_cancelled_total", "").await;
    assert!(
        cancelled < 0.5,
        "{cancelled} cancelled while the database was unavailable"
    );

    postgres.start_again().await;
    wait_until("the delivery is made", SOON, || receiver.count() == 1).await;
    wait_for("the other is cancelled", SOON, || async {
        let cancelled = worker
            .metric("magnetite_cancelled_total", "endpoint_deleted")
            .await;
        if cancelled > 0.5 {
            Ok(())
        } else {
            Err(cancelled.to_string())
        }
    })
    .await;
    installation.wait_until_drained(SOON).await;
    let requests = receiver.requests();
    assert_eq!(
        (requests.len(), requests[0].attempt()),
        (1, 2),
        "no attempt was charged"
    );
    assert!(worker.terminate().await);
    installation.delete().await;
}
