//! Tests a broker that refuses records: deliveries continue, and the audit reports the gap.

use std::time::{Duration, Instant};

use e2e::{
    Alone, Installation, Ledger, Load, Node, Receiver, Role, SOON, report, scaled, wait_for, wait_until,
};

use super::LONG;

/// Creates an installation on a private node, with an endpoint that answers.
async fn scene(name: &str, node: &Node) -> (Installation, Ledger) {
    let installation = Installation::with(name, node.url(), &[500, 1000], &[]).await;
    let mut ledger = Ledger::new();
    let receiver = Receiver::ok().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    ledger.endpoint("only", endpoint, receiver);
    (installation, ledger)
}

async fn dropped(worker: &Role) -> u64 {
    worker.metric("magnetite_journal_dropped_total", "").await as u64
}

/// Checks that, after the failure, the audit reports everything that was not recorded, and that later events
/// are recorded.
async fn named(installation: &Installation, worker: &Role, campaign: &str, published: usize) {
    // The worker records the gap by itself, without further traffic.
    let recorder = installation.recorder().await;
    wait_for("the audit names the gap", LONG, || async {
        installation.wait_until_recorded(&[worker], &recorder, LONG).await;
        let audit = installation.audit().await;
        // Until the worker has recorded it, the audit reports a gap with an unknown number of records.
        let gaps = audit.of_kind("gap");
        let is_named = !gaps.is_empty() && gaps.iter().all(|gap| !gap["count"].is_null());
        if is_named {
            Ok(())
        } else {
            Err(format!("{audit:?}"))
        }
    })
    .await;
    let (audit, dropped) = (installation.audit().await, dropped(worker).await);
    let gaps = audit.of_kind("gap");
    let counted: u64 = gaps.iter().map(|gap| gap["count"].as_u64().unwrap()).sum();
    assert_eq!(counted, dropped, "{audit:#?}");
    assert!(audit.balances, "what a gap explains is no fault: {audit:#?}");
    let (events, delivered) = (audit.number("/events"), audit.number("/deliveries/delivered"));
    assert!(events < published as u64 && events > 0, "{events} of {published}");
    report(
        campaign,
        format!(
            "{published} published and delivered, {delivered} recorded, {dropped} records in {} gaps",
            gaps.len()
        ),
    );
    assert!(recorder.terminate().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_journal_holds_up_nothing_and_its_gap_is_named() {
    let node = Node::start().await;
    let (installation, mut ledger) = scene("full", &node).await;
    let worker = installation.worker().await;
    let policy = ["set_policy", "--apply-to", "queues", "small", "journal$"];
    node.ctl(&[&policy[..], &[r#"{"max-length":3,"overflow":"reject-publish"}"#]].concat())
        .await;
    let alone = Alone::start(&installation).await;
    let load = Load::start(&installation, "org_1", 200);
    let enough = scaled(1000, 10_000);
    wait_until("deliveries go on", LONG, || {
        ledger.receiver("only").accepted() >= enough
    })
    .await;
    assert!(dropped(&worker).await > 100);

    node.ctl(&["clear_policy", "small"]).await;
    let before = ledger.receiver("only").accepted();
    wait_until("more is delivered after it", SOON, || {
        ledger.receiver("only").accepted() >= before + 200
    })
    .await;
    ledger.published(load.stop().await);
    let books = ledger.settle(&installation, LONG).await;
    books.assert_balanced();
    assert_eq!(books.duplicates, 0);
    let latencies = ledger.receiver("only").latencies_ms(&ledger.published_times());
    let p99 = e2e::percentile(&mut latencies.clone(), 99.0);
    let p99_max = 250.0 + alone.late_ms(99.0, |_| true);
    assert!(
        p99 <= p99_max,
        "deliveries waited: p99 {p99:.1} ms, at most {p99_max:.1} ms"
    );
    named(
        &installation,
        &worker,
        "the journal's queue is full",
        books.published,
    )
    .await;
    assert!(worker.terminate().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_memory_alarm_records_are_dropped_after_2_s_and_the_gap_is_named() {
    let (messages, alarm) = scaled((2000, Duration::from_secs(5)), (20_000, Duration::from_mins(1)));
    let node = Node::start().await;
    let (installation, mut ledger) = scene("blocked", &node).await;
    let leads: Vec<_> = (0..messages).map(|lead| format!("lead_{lead}")).collect();
    let events: Vec<_> = leads.iter().map(|lead| e2e::event("org_1", lead)).collect();
    installation.amqp().publish(&events).await;
    ledger.published(leads.into_iter().map(|lead| (lead, Instant::now())));
    node.raise_memory_alarm(SOON).await;
    let (raised, worker) = (Instant::now(), installation.start("worker"));
    wait_for("the worker lives", SOON, || async {
        worker.get("/livez").await.map_err(|error| error.to_string())
    })
    .await;
    wait_until("everything is delivered under the alarm", alarm + SOON, || {
        ledger.receiver("only").accepted() == messages
    })
    .await;
    worker.wait_for_unacked("", 0, SOON).await;
    let acked = raised.elapsed();
    wait_until("the alarm has lasted", alarm + SOON, || raised.elapsed() >= alarm).await;
    assert!(dropped(&worker).await > 0);

    node.end_memory_alarm().await;
    worker.wait_until_ready().await;
    let books = ledger.settle(&installation, LONG).await;
    books.assert_balanced();
    assert_eq!(books.duplicates, 0);
    // The record of this event is accepted again.
    installation.amqp().publish(&[e2e::event("org_1", "after")]).await;
    let campaign = format!("alarm of {alarm:?}: {messages} acked after {acked:.1?}");
    named(&installation, &worker, &campaign, messages + 1).await;
    assert!(worker.terminate().await);
}
