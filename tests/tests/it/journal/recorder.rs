//! Tests a recorder that is killed and a database that is unavailable: the journal is complete afterwards,
//! and no delivery has waited for it.

use std::time::{Duration, Instant};

use e2e::{
    Alone, Answer, Installation, Ledger, Load, Postgres, Receiver, chance, percentile, report, scaled,
    shared_broker,
};

use serde_json::Value;

use super::LONG;

const PER_SECOND: u32 = 200;

/// A test that measures under load. No other test runs at the same time.
mod alone {
    use super::*;

    /// Kills a recorder every second until the receiver has accepted this many events. After a third of them,
    /// stops the database for this time. Returns the number of kills.
    async fn kill_recorders(
        installation: &Installation,
        postgres: &Postgres,
        receiver: &Receiver,
        events: usize,
        outage: Duration,
    ) -> usize {
        let (mut pace, mut kills) = (tokio::time::interval(Duration::from_secs(1)), 0);
        pace.tick().await;
        let (mut down, mut is_up_again): (Option<Instant>, bool) = (None, false);
        while receiver.accepted() < events || !is_up_again {
            let recorder = installation.start("recorder");
            pace.tick().await;
            recorder.kill().await;
            kills += 1;
            match down {
                None if receiver.accepted() > events / 3 => {
                    postgres.stop().await;
                    down = Some(Instant::now());
                }
                Some(since) if since.elapsed() >= outage && !is_up_again => {
                    postgres.start_again().await;
                    is_up_again = true;
                }
                _ => {}
            }
        }
        kills
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_recorder_killed_every_second_and_the_database_down_leave_the_journal_complete_and_without_doubles()
     {
        let (events, outage) = scaled((3000, Duration::from_secs(3)), (20_000, Duration::from_secs(30)));
        let postgres = Postgres::start().await;
        let settings = [("MAGNETITE_DATABASE__URL", postgres.url())];
        let installation = Installation::with("recorder", &shared_broker(), &[500, 1000], &settings).await;
        let mut ledger = Ledger::new();
        let receiver = Receiver::new(|request, before| {
            let fails = before == 0 && chance(("fails", &request.lead), 10) == 0;
            Answer::status(if fails { 503 } else { 200 })
        })
        .await;
        let endpoint = installation.endpoint("org_1", &receiver.url()).await;
        ledger.endpoint("only", endpoint, receiver);
        let worker = installation.worker().await;
        let alone = Alone::start(&installation).await;
        let load = Load::start(&installation, "org_1", PER_SECOND);

        let receiver = ledger.receiver("only");
        let kills = kill_recorders(&installation, &postgres, receiver, events, outage).await;
        ledger.published(load.stop().await);
        let books = ledger.settle(&installation, LONG).await;
        books.assert_balanced();

        let begun = Instant::now();
        let recorder = installation.recorder().await;
        installation
            .wait_until_recorded(&[&worker], &recorder, LONG)
            .await;
        let caught_up = begun.elapsed();
        let audit = installation.audit().await;
        audit.assert_settled();
        assert!(audit.of_kind("gap").is_empty(), "{audit:#?}");
        assert_eq!(audit.number("/events"), books.published as u64);
        assert_eq!(audit.number("/deliveries/delivered"), books.delivered as u64);
        recorded_once(&installation, &ledger).await;

        let mut latencies = ledger.receiver("only").latencies_ms(&ledger.published_times());
        let p99 = percentile(&mut latencies, 99.0);
        report(
            "recorder killed every second, database down in between",
            format!(
                "{kills} kills, {outage:?} without a database, {books}; p99 {p99:.1} ms, caught up in {caught_up:.1?}"
            ),
        );
        let p99_max = 250.0 + alone.late_ms(99.0, |_| true);
        assert!(
            p99 <= p99_max,
            "deliveries waited for the journal: p99 {p99:.1} ms, at most {p99_max:.1} ms"
        );
        assert!(recorder.terminate().await && worker.terminate().await);
        installation.delete().await;
    }
}

/// Panics unless the journal has as many attempts as the receiver saw, each of them once.
async fn recorded_once(installation: &Installation, ledger: &Ledger) {
    let (endpoint, receiver) = ledger.endpoints().next().unwrap();
    let list = [
        "delivery",
        "list",
        "--endpoint",
        &endpoint.id,
        "--limit",
        "1000000",
    ];
    let deliveries = installation.json(&list).await;
    let mut seen = receiver.count();
    for delivery in &deliveries {
        seen -= delivery["attempt_count"].as_u64().unwrap() as usize;
    }
    assert_eq!(
        seen, 0,
        "attempts that the receiver saw and the journal does not count"
    );
    for pick in 0..50 {
        let delivery = &deliveries[chance(("once", pick), deliveries.len() as u64) as usize];
        let shown = &installation
            .json(&["delivery", "show", delivery["id"].as_str().unwrap()])
            .await[0];
        let numbers: Vec<_> = shown["attempts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|attempt| attempt["number"].clone())
            .collect();
        let expected: Vec<Value> = (1..=delivery["attempt_count"].as_u64().unwrap())
            .map(Value::from)
            .collect();
        assert_eq!(numbers, expected, "{shown}");
    }
}
