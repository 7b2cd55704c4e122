//! Tests the health of endpoints, and the operational events about them.

use std::{collections::HashMap, time::Duration};

use e2e::{
    Answer, Endpoint, Installation, Receiver, SOON, event, has_passed, is_between, now_ms, shared_broker,
    wait_for,
};
use serde_json::Value;

/// The operational events that have arrived, by endpoint. Panics if there are two for the same endpoint.
struct Operations<'a> {
    installation: &'a Installation,
    told: HashMap<String, Value>,
}

impl<'a> Operations<'a> {
    async fn bind(installation: &'a Installation) -> Self {
        let key = "endpoint.disabled";
        installation.amqp().bind("platform", "operations", key).await;
        Self {
            installation,
            told: HashMap::new(),
        }
    }

    async fn collect(&mut self) {
        for found in self.installation.amqp().drain("platform").await {
            let json: Value = serde_json::from_slice(&found.body).unwrap();
            let text = |name: &str| json[name].as_str().unwrap().to_owned();
            let property =
                |property: &Option<lapin::types::ShortString>| property.clone().unwrap().to_string();
            assert_eq!(property(found.properties.message_id()), text("id"));
            assert_eq!(property(found.properties.kind()), text("kind"));
            assert_eq!(*found.properties.delivery_mode(), Some(2));
            let twice = self.told.insert(text("endpoint_id"), json);
            assert_eq!(twice, None);
        }
    }

    /// Waits for the operational event about this endpoint.
    async fn wait_for(&mut self, endpoint: &Endpoint) -> Value {
        let operations = tokio::sync::Mutex::new(self);
        wait_for("the operation is told", SOON, || async {
            let mut operations = operations.lock().await;
            operations.collect().await;
            let told = operations.told.get(&endpoint.id).cloned();
            told.ok_or_else(|| format!("{:?}", operations.told))
        })
        .await
    }
}

/// Panics unless the operational event has exactly the fields that `docs/protocol.md` describes.
fn assert_told(operation: &Value, endpoint: &Endpoint, reason: &str, began_ms: u64) {
    let object = operation.as_object().unwrap();
    let mut names: Vec<_> = object.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["at_ms", "endpoint_id", "id", "kind", "organization_id", "reason"]
    );
    for (name, value) in [
        ("kind", "endpoint.disabled"),
        ("organization_id", "org_1"),
        ("endpoint_id", &endpoint.id),
        ("reason", reason),
    ] {
        assert_eq!(object[name], value, "{operation}");
    }
    assert!(object["id"].as_str().unwrap().starts_with("op_"), "{operation}");
    let at_ms = object["at_ms"].as_u64().unwrap();
    assert!(is_between(&(began_ms..=now_ms()), at_ms), "{operation}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_is_told_once_of_each_endpoint_that_is_disabled() {
    const FAILING_AGE: Duration = Duration::from_secs(2);
    let settings = [("MAGNETITE_ENDPOINTS__FAILING_AGE", "2s")];
    let installation = Installation::with("operations", &shared_broker(), &[500; 9], &settings).await;
    let (began_ms, mut operations) = (now_ms(), Operations::bind(&installation).await);
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    let ok = Receiver::ok().await;
    // The endpoint fails often, but not always.
    let unsteady = Receiver::new(|request, _| {
        let fails = request.lead.ends_with(['1', '3', '5', '7', '9']);
        Answer::status(if fails { 500 } else { 200 })
    })
    .await;
    let bad = Receiver::new(|_, _| Answer::status(500)).await;
    let leaving = Receiver::new(|_, _| Answer::status(410)).await;
    let by_hand = installation.endpoint("org_1", &ok.url()).await;
    let often = installation.endpoint("org_1", &unsteady.url()).await;
    let failing = installation.endpoint("org_1", &bad.url()).await;
    let gone = installation.endpoint("org_1", &leaving.url()).await;
    let publishing = async {
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        for number in 0.. {
            pace.tick().await;
            let body = event("org_1", &format!("lead_{number}"));
            installation.amqp().publish(&[body]).await;
        }
    };
    let telling = async {
        // The second call changes nothing, so no operational event is published.
        for _ in 0..2 {
            installation.cli_ok(&["endpoint", "disable", &by_hand.id]).await;
            assert_told(&operations.wait_for(&by_hand).await, &by_hand, "manual", began_ms);
        }
        assert_told(&operations.wait_for(&gone).await, &gone, "gone", began_ms);
        let operation = operations.wait_for(&failing).await;
        assert_told(&operation, &failing, "failing", began_ms);
        let health = &installation.show(&failing).await["health"];
        let failed_ms = operation["at_ms"].as_u64().unwrap() - health["failing_since_ms"].as_u64().unwrap();
        let failed = Duration::from_millis(failed_ms);
        assert!(has_passed(FAILING_AGE, failed), "disabled after {failed:?}");
    };
    tokio::select! {
        () = publishing => unreachable!("it goes on"),
        () = telling => {}
    }
    for (endpoint, reason) in [(&by_hand, "manual"), (&gone, "gone"), (&failing, "failing")] {
        assert_eq!(installation.show(endpoint).await["disabled_reason"], reason);
    }
    assert_eq!(installation.show(&often).await["enabled"], true);
    operations.collect().await;
    assert_eq!(operations.told.len(), 3, "{:?}", operations.told);
    assert!(recorder.terminate().await && worker.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_shown_with_how_it_does() {
    const SLOW: Duration = Duration::from_millis(400);
    let installation = Installation::with_delays("health", &[60_000]).await;
    let began_ms = now_ms();
    let quick = Receiver::new(|request, _| match request.lead.as_str() {
        "lead_7" => Answer::status(500),
        "lead_8" => Answer::Late(SLOW, 200),
        _ => Answer::status(200),
    })
    .await;
    let failing = Receiver::new(|_, _| Answer::status(500)).await;
    let quick_endpoint = installation.endpoint("org_1", &quick.url()).await;
    let failing_endpoint = installation.endpoint("org_1", &failing.url()).await;
    let idle = installation.endpoint("org_2", &quick.url()).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    let events: Vec<_> = (0..10)
        .map(|lead| event("org_1", &format!("lead_{lead}")))
        .collect();
    for event in &events {
        installation.amqp().publish(std::slice::from_ref(event)).await;
    }
    let delivered = ["delivery", "list", "--state", "delivered"];
    installation.wait_for_listed(&delivered, 9, SOON).await;
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;

    let health = &installation.show(&quick_endpoint).await["health"];
    let number = |name: &str| {
        health[name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name}: {health}"))
    };
    assert_eq!(
        (number("attempts_last_hour"), &health["success_rate_last_hour"]),
        (10, &0.9.into())
    );
    assert!(
        is_between(&(began_ms..=now_ms()), number("last_success_ms")),
        "{health}"
    );
    let (p50_ms, p99_ms) = (number("p50_ms_last_hour"), number("p99_ms_last_hour"));
    assert!(p50_ms < 200 && (400..2000).contains(&p99_ms), "{health}");

    let health = &installation.show(&failing_endpoint).await["health"];
    let since_ms = health["failing_since_ms"].as_u64().unwrap();
    let first_ms = failing.requests()[0].at_ms;
    assert!(
        is_between(&(began_ms..=first_ms), since_ms),
        "{health}, not {first_ms}"
    );
    assert_eq!(
        (&health["last_success_ms"], &health["success_rate_last_hour"]),
        (&Value::Null, &0.0.into())
    );
    let health = &installation.show(&idle).await["health"];
    assert_eq!(
        (&health["attempts_last_hour"], &health["p50_ms_last_hour"]),
        (&0.into(), &Value::Null)
    );
    let text = installation
        .cli_ok(&["endpoint", "show", &quick_endpoint.id])
        .await;
    assert!(text.contains("attempts: 10, successful: 90.0%"), "{text}");
    assert!(recorder.terminate().await && worker.terminate().await);
    installation.delete().await;
}
