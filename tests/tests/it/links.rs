//! Tests connections that are cut, stall or are slow, between workers and the broker and between workers and
//! receivers.

use std::time::{Duration, Instant};

use e2e::{
    Answer, Cut, Installation, Ledger, Load, Proxy, Receiver, Role, SOON, Way, chance, event, report, scaled,
    wait_for, wait_until,
};

const LONG: Duration = Duration::from_mins(3);
/// Short delays, so that deliveries that a broken connection has deferred are soon due.
const DELAYS_MS: [u64; 4] = [200, 400, 800, 1600];

/// Creates an installation whose roles connect to the broker through the proxy, while the test itself
/// connects directly.
async fn behind_proxy(name: &str, delays_ms: &[u64], query: &str) -> (Installation, Proxy) {
    let mut installation = Installation::with_delays(name, delays_ms).await;
    let proxy = Proxy::to(installation.broker_url()).await;
    let url = format!("{}{query}", proxy.url());
    installation.set("MAGNETITE_BROKER__URL", &url);
    (installation, proxy)
}

/// Registers an endpoint that is slow, so that something is always in flight, and that fails a fifth of the
/// first attempts.
async fn busy_endpoint(installation: &Installation, ledger: &mut Ledger) {
    let receiver = Receiver::new(|request, before| {
        let fails = before == 0 && chance(&request.lead, 5) == 0;
        let after = Duration::from_millis(20 + chance(("late", &request.lead), 80));
        Answer::Late(after, if fails { 500 } else { 200 })
    })
    .await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    ledger.endpoint("busy", endpoint, receiver);
}

async fn wait_until_unready(role: &Role, limit: Duration) {
    wait_for("the role notices", limit, || async {
        match role.get("/readyz").await {
            Ok(response) if response.starts_with("HTTP/1.1 503") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// The publisher's connection is cut as well. The publisher publishes an event again if the connection is cut
/// during its confirm.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_the_broker_that_is_cut_every_500_ms_loses_nothing() {
    let cuts = scaled(16, 120);
    let (installation, proxy) = behind_proxy("cut", &DELAYS_MS, "").await;
    let mut ledger = Ledger::new();
    busy_endpoint(&installation, &mut ledger).await;
    let workers = [installation.worker().await, installation.worker().await];
    let load = Load::start(&installation, "org_1", 100);
    let busy = ledger.receiver("busy");
    wait_until("events flow", SOON, || busy.distinct() > 50).await;
    let mut pace = tokio::time::interval(Duration::from_millis(500));
    for cut in 0..cuts {
        pace.tick().await;
        let (from, mut unacked) = (Instant::now(), 0);
        for worker in &workers {
            unacked += worker.unacked().await;
        }
        proxy.cut(if cut % 2 == 0 { Cut::Reset } else { Cut::Close });
        ledger.broken("link", from, Some(unacked));
    }
    ledger.published(load.stop().await);
    let books = ledger.settle(&installation, LONG).await;
    report("link to the broker cut every 500 ms", &books);
    books.assert_balanced();
    let in_flight: u64 = books.breaks.iter().filter_map(|cut| cut.unacked).sum();
    assert!(
        in_flight > 0,
        "nothing was in flight at the cuts: the test proves nothing"
    );
    for worker in workers {
        worker.wait_until_ready().await;
        assert!(worker.terminate().await);
    }
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_stalls_for_longer_than_the_heartbeat_is_given_up_and_made_anew() {
    let heartbeat_s = scaled(1, 10);
    let query = format!("?heartbeat={heartbeat_s}&connection_timeout=1000");
    let (installation, proxy) = behind_proxy("stall", &DELAYS_MS, &query).await;
    let mut ledger = Ledger::new();
    busy_endpoint(&installation, &mut ledger).await;
    let workers = [installation.worker().await, installation.worker().await];
    let load = Load::start(&installation, "org_1", 100);
    let busy = ledger.receiver("busy");
    wait_until("events flow", SOON, || busy.distinct() > 100).await;

    let (stalled, mut unacked) = (Instant::now(), 0);
    for worker in &workers {
        unacked += worker.unacked().await;
    }
    proxy.stall();
    // The connection is given up after two heartbeat intervals without traffic, which is checked every half
    // interval.
    let noticed_max = Duration::from_secs(4 * heartbeat_s);
    for worker in &workers {
        wait_until_unready(worker, noticed_max).await;
    }
    let noticed = stalled.elapsed();
    // Waits until the broker has also given up the connection, and has requeued its messages for any other
    // consumer.
    wait_until("the broker has its messages back", noticed_max, || {
        stalled.elapsed() > Duration::from_secs(3 * heartbeat_s)
    })
    .await;
    proxy.resume();
    let resumed = Instant::now();
    ledger.broken("link", stalled, Some(unacked));
    for worker in &workers {
        worker.wait_until_ready().await;
    }
    let busy = ledger.receiver("busy");
    let before = busy.distinct();
    // Both workers and the publisher are connected again: newly published events arrive.
    wait_until("deliveries go on", Duration::from_secs(10), || {
        busy.distinct() > before + 200
    })
    .await;
    let back = resumed.elapsed();
    assert!(back < Duration::from_secs(10), "{back:?}");

    ledger.published(load.stop().await);
    let books = ledger.settle(&installation, LONG).await;
    let times = format!("noticed after {noticed:.1?}, deliveries go on {back:.1?} after its end");
    report("link to the broker stalled", format!("{books}; {times}"));
    books.assert_balanced();
    for worker in workers {
        assert!(worker.terminate().await);
    }
    installation.delete().await;
}

/// The message that holds the delivery of a slow attempt becomes due if the broker cannot redeliver it to the
/// worker in time. It still belongs to the same attempt, however often the connection is lost: the endpoint
/// receives the request only once, and its answer counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_attempt_outlives_two_lost_connections_and_is_made_once() {
    const SLOW: Duration = Duration::from_secs(20);
    let query = "?heartbeat=1&connection_timeout=1000";
    let (installation, proxy) = behind_proxy("slow-attempt", &[200, 200], query).await;
    let receiver = Receiver::new(|_, before| match before {
        0 => Answer::status(500),
        1 => Answer::Late(SLOW, 500),
        _ => Answer::status(200),
    })
    .await;
    installation.endpoint("org_1", &receiver.url()).await;
    let worker = installation.worker().await;
    let amqp = installation.amqp();
    amqp.publish(&[event("org_1", "lead_1")]).await;
    wait_until("the second attempt begins", SOON, || receiver.count() == 2).await;
    let began = Instant::now();
    worker.wait_for_unacked("held", 1, SOON).await;
    worker.wait_for_unacked("due", 0, SOON).await;
    for _ in 0..2 {
        proxy.stall();
        proxy.cut(Cut::Reset);
        amqp.wait_for_ready("due", 1, SOON).await;
        proxy.resume();
        worker.wait_for_unacked("due", 1, SOON).await;
    }
    assert!(
        began.elapsed() < SLOW,
        "the attempt has ended meanwhile: the test proves nothing"
    );
    wait_until("the third attempt", LONG, || receiver.count() == 3).await;
    worker.wait_for_unacked("", 0, SOON).await;
    installation.wait_until_drained(SOON).await;
    receiver.assert_attempts(&[1, 2, 3]);
    assert_eq!(amqp.ready("dead").await, 0);
    assert!(worker.terminate().await);
    installation.delete().await;
}

mod alone {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn over_a_slow_link_to_the_broker_deliveries_go_on() {
        const LATENCY: Duration = Duration::from_millis(50);
        // About twice what 50 events per second need.
        const BYTES_PER_SECOND: u32 = 64 * 1024;
        let seconds = scaled(6, 60);
        let (installation, proxy) = behind_proxy("slow", &DELAYS_MS, "").await;
        let mut ledger = Ledger::new();
        busy_endpoint(&installation, &mut ledger).await;
        let worker = installation.worker().await;
        proxy.slow(LATENCY, BYTES_PER_SECOND);
        let load = Load::start(&installation, "org_1", 50);
        let busy = ledger.receiver("busy");
        wait_until("deliveries go on", LONG, || busy.distinct() >= 50 * seconds).await;
        ledger.published(load.stop().await);
        let books = ledger.settle(&installation, LONG).await;
        report("link to the broker slow", &books);
        books.assert_balanced();
        assert_eq!(books.duplicates, 0, "the link was never broken");
        assert!(worker.terminate().await);
        installation.delete().await;
    }
}

/// The worker does not know how much the endpoint has received, so it attempts the delivery again. A receiver
/// whose connection is cut while it answers receives the event twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_a_receiver_that_is_cut_is_a_failed_attempt_and_the_next_one_delivers() {
    // Part of the request's head; everything but the end of the status line.
    const PARTS: [(&str, Way, usize); 2] = [("request", Way::ToServer, 100), ("response", Way::ToClient, 12)];
    let installation = Installation::with_delays("receiver-cut", &[500, 500]).await;
    let receiver = Receiver::ok().await;
    let proxy = Proxy::to(&receiver.url()).await;
    installation.endpoint("org_1", &proxy.url()).await;
    let worker = installation.worker().await;
    let amqp = installation.amqp();
    for how in [Cut::Reset, Cut::Close] {
        for (part, way, bytes) in PARTS {
            let lead = format!("{part}-{how:?}");
            let attempts = || {
                let requests = receiver.requests();
                let of_lead = requests.iter().filter(|request| request.lead == lead);
                of_lead.map(e2e::Request::attempt).collect::<Vec<_>>()
            };
            // The connection is cut once: the second attempt delivers.
            proxy.cut_after(way, bytes, how);
            amqp.publish(&[event("org_1", &lead)]).await;
            wait_until("the link is cut", SOON, || !proxy.is_armed()).await;
            wait_until("the second attempt arrives", SOON, || attempts().contains(&2)).await;
            // Makes sure that the next cut does not affect this response, which may still be in flight.
            worker.wait_for_unacked("", 0, SOON).await;
            let whole = attempts();
            let expected: &[u32] = if way == Way::ToServer { &[2] } else { &[1, 2] };
            assert_eq!(
                whole, expected,
                "attempts that arrived whole, cut in the {part} by {how:?}"
            );

            // The connection is cut each time: the dead letter contains the reason.
            let lead = format!("always-{lead}");
            for attempt in 1..=3 {
                proxy.cut_after(way, bytes, how);
                if attempt == 1 {
                    amqp.publish(&[event("org_1", &lead)]).await;
                }
                wait_until("the link is cut again", SOON, || !proxy.is_armed()).await;
            }
            amqp.wait_for_ready("dead", 1, SOON).await;
            let dead = amqp.drain("dead").await;
            assert_eq!(dead[0].header("magnetite-attempts"), "3");
            let why = dead[0].header("magnetite-last-error");
            assert!(
                why.starts_with("connection_reset in "),
                "cut in the {part} by {how:?}: {why}"
            );
        }
    }
    assert!(worker.terminate().await);
    installation.delete().await;
}
