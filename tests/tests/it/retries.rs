//! Tests when failed deliveries are attempted again, and how they end.

use std::{collections::HashMap, time::Duration};

use e2e::{
    Answer, Endpoint, Found, Installation, Receiver, Request, SOON, event, has_passed, percentile, report,
    scaled, wait_until,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_410_disables_the_endpoint_and_its_other_deliveries_are_dead_letters() {
    let installation = Installation::with_delays("gone", &[300]).await;
    let receiver = Receiver::new(|request, _| {
        Answer::status(if request.json()["lead_id"] == "last" {
            410
        } else {
            500
        })
    })
    .await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let _worker = installation.worker().await;
    installation.amqp().publish(&[event("org_1", "first")]).await;
    wait_until("the first attempt", SOON, || receiver.count() == 1).await;
    installation.amqp().publish(&[event("org_1", "last")]).await;
    installation.amqp().wait_for_ready("dead", 2, SOON).await;
    let mut reasons: Vec<_> = installation
        .amqp()
        .drain("dead")
        .await
        .iter()
        .map(|letter| letter.header("magnetite-reason"))
        .collect();
    reasons.sort();
    assert_eq!(reasons, ["endpoint_disabled", "gone"]);
    e2e::wait_for("the endpoint is disabled in the database", SOON, || async {
        let shown = installation.show(&endpoint).await.to_string();
        if shown.contains("gone") {
            Ok(())
        } else {
            Err(shown)
        }
    })
    .await;
    // An endpoint that was enabled again receives what is published from then on.
    installation.cli_ok(&["endpoint", "enable", &endpoint.id]).await;
    e2e::wait_for("deliveries go on", SOON, || async {
        installation.amqp().publish(&[event("org_1", "after")]).await;
        let leads: Vec<_> = receiver
            .requests()
            .iter()
            .map(|r| r.json()["lead_id"].to_string())
            .collect();
        if leads.contains(&"\"after\"".to_owned()) {
            Ok(())
        } else {
            Err(format!("{leads:?}"))
        }
    })
    .await;
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honoured_up_to_the_longest_tier() {
    let installation = Installation::with_delays("retry-after", &[100, 1500]).await;
    let receiver = Receiver::new(|_, before| match before {
        0 => Answer::Status(503, vec![("retry-after", "1".to_owned())]),
        1 => Answer::Status(429, vec![("retry-after", "3600".to_owned())]),
        _ => Answer::status(200),
    })
    .await;
    installation.endpoint("org_1", &receiver.url()).await;
    let _worker = installation.worker().await;
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    wait_until("the third attempt", SOON, || receiver.count() == 3).await;
    for pair in receiver.requests().windows(2) {
        let gap = pair[1].at - pair[0].at;
        let tier = Duration::from_millis(1500);
        assert!(
            has_passed(tier, gap) && gap < Duration::from_millis(2500),
            "{gap:?}"
        );
    }
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_uses_the_url_of_now_and_a_deleted_endpoint_gets_nothing_more() {
    let installation = Installation::with_delays("changed", &[2000]).await;
    let [old, new, deleted] = [
        Receiver::new(|_, _| Answer::status(500)).await,
        Receiver::ok().await,
        Receiver::new(|_, _| Answer::status(500)).await,
    ];
    let moved = installation.endpoint("org_1", &old.url()).await;
    let removed = installation.endpoint("org_2", &deleted.url()).await;
    let worker = installation.worker().await;
    installation
        .amqp()
        .publish(&[event("org_1", "a"), event("org_2", "b")])
        .await;
    wait_until("the first attempts", SOON, || {
        old.count() == 1 && deleted.count() == 1
    })
    .await;
    installation
        .cli_ok(&["endpoint", "update", &moved.id, "--url", &new.url()])
        .await;
    installation.cli_ok(&["endpoint", "delete", &removed.id]).await;
    wait_until("the retry", SOON, || new.count() == 1).await;
    e2e::wait_for("the other one is cancelled", SOON, || async {
        let cancelled = worker
            .metric("magnetite_cancelled_total", "endpoint_deleted")
            .await;
        if cancelled >= 1.0 {
            Ok(())
        } else {
            Err(cancelled.to_string())
        }
    })
    .await;
    installation.wait_until_drained(SOON).await;
    assert_eq!((old.count(), deleted.count()), (1, 1));
    assert_eq!(installation.amqp().ready("dead").await, 0);
    new.requests()[0].verify(&moved.secret);
    assert_eq!(new.requests()[0].attempt(), 2);
    installation.delete().await;
}

/// A test that measures time. No other test runs at the same time.
mod alone {
    use super::*;

    const DELIVERIES: usize = 200;

    /// Publishes an event every 5 ms, and waits until all deliveries are dead.
    async fn publish_until_all_are_dead(installation: &Installation) {
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        for lead in 0..DELIVERIES {
            pace.tick().await;
            installation
                .amqp()
                .publish(&[event("org_1", &lead.to_string())])
                .await;
        }
        let limit = scaled(Duration::from_mins(1), Duration::from_mins(4));
        installation
            .amqp()
            .wait_for_ready("dead", DELIVERIES as u32, limit)
            .await;
    }

    /// Returns the requests for each event. Panics if a signature is invalid.
    fn requests_by_event(receiver: &Receiver, endpoint: &Endpoint) -> HashMap<String, Vec<Request>> {
        let mut attempts: HashMap<String, Vec<_>> = HashMap::new();
        for request in receiver.requests() {
            request.verify(&endpoint.secret);
            attempts.entry(request.event_id()).or_default().push(request);
        }
        attempts
    }

    /// Returns how late each retry of an event was, in milliseconds. Panics if one was early, or if an
    /// attempt differs from the one before in anything but its number.
    fn lateness_ms(attempts: &[Request], delays_ms: &[u64]) -> Vec<f64> {
        let numbers: Vec<_> = attempts.iter().map(Request::attempt).collect();
        assert_eq!(numbers, (1..=10).collect::<Vec<_>>());
        let mut late_ms = Vec::new();
        for (pair, delay_ms) in attempts.windows(2).zip(delays_ms) {
            assert_eq!(pair[0].body, pair[1].body);
            for same in [
                "x-magnetite-timestamp",
                "x-magnetite-delivery",
                "x-magnetite-signature",
                "webhook-id",
            ] {
                assert_eq!(pair[0].header(same), pair[1].header(same), "{same}");
            }
            let gap = pair[1].at - pair[0].at;
            let gap_ms = gap.as_secs_f64() * 1000.0;
            assert!(
                has_passed(Duration::from_millis(*delay_ms), gap),
                "an attempt came {gap_ms} ms after the one before, not {delay_ms}"
            );
            late_ms.push(gap_ms - *delay_ms as f64);
        }
        late_ms
    }

    /// Panics unless the dead letter has all details.
    fn assert_detailed(letter: &Found, endpoint: &Endpoint) {
        for (name, value) in [
            ("magnetite-reason", "exhausted"),
            ("magnetite-endpoint", endpoint.id.as_str()),
            ("magnetite-attempts", "10"),
            ("magnetite-last-status", "500"),
        ] {
            assert_eq!(letter.header(name), value, "{name}");
        }
    }

    /// No attempt is made before its delay has passed since the end of the previous attempt. Almost none is
    /// later than the broker alone is with a message of that delay at the same time. After the last attempt,
    /// there is a dead letter with all details.
    #[tokio::test(flavor = "multi_thread")]
    async fn timing_of_200_failing_deliveries() {
        let delays_ms: [u64; 9] = scaled(
            [100, 200, 400, 800, 1000, 1000, 1000, 1000, 1000],
            [1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000, 30000],
        );
        let installation = Installation::with_delays("timing", &delays_ms).await;
        let receiver = Receiver::new(|_, _| Answer::status(500)).await;
        let endpoint = installation.endpoint("org_1", &receiver.url()).await;
        let worker = installation.worker().await;
        let alone = Installation::with_delays("timing-alone", &delays_ms).await;
        let mut alone_ms = Vec::new();
        tokio::select! {
            () = publish_until_all_are_dead(&installation) => {}
            () = alone.amqp().watch_lateness(delays_ms[0], &mut alone_ms) => {}
        }
        let alone_p99 = percentile(&mut alone_ms, 99.0);

        let attempts = requests_by_event(&receiver, &endpoint);
        assert_eq!(attempts.len(), DELIVERIES);
        let late = attempts
            .values()
            .flat_map(|of_event| lateness_ms(of_event, &delays_ms));
        let mut late_ms: Vec<_> = late.collect();
        let (p50, p99) = (percentile(&mut late_ms, 50.0), percentile(&mut late_ms, 99.0));
        let retries = late_ms.len();
        report(
            "200 failing deliveries, 10 attempts each",
            format!(
                "{retries} retries, none early, late by p50 {p50:.1} ms, p99 {p99:.1} ms; the broker alone p99 {alone_p99:.1} ms"
            ),
        );
        assert!(
            p99 <= alone_p99 + 50.0,
            "p99 {p99:.1} ms late, the broker alone {alone_p99:.1} ms"
        );

        let dead = installation.amqp().drain("dead").await;
        assert_eq!(dead.len(), DELIVERIES);
        for letter in dead {
            assert_detailed(&letter, &endpoint);
            assert!(attempts.contains_key(letter.properties.message_id().as_ref().unwrap().as_str()));
        }
        assert!(worker.terminate().await);
        installation.delete().await;
        alone.delete().await;
    }
}
