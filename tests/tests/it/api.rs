//! Tests the HTTP API from outside: created endpoints receive what is published, the API waits for confirms,
//! and revoked keys are refused.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use e2e::{Answer, Answered, Api, Installation, Node, Receiver, SOON, event, report, wait_for, wait_until};
use serde_json::{Value, json};

/// Creates an endpoint over HTTP, and returns its id and secret.
async fn create(api: &Api, key: &str, url: &str) -> (String, String) {
    let json = json!({ "url": url }).to_string();
    let created = api.send("POST", "/v1/endpoints", key, &[], json).await;
    assert_eq!(created.status, 201, "{created:?}");
    let text = |name: &str| created.body[name].as_str().unwrap().to_owned();
    (text("id"), text("secret"))
}

async fn publish(api: &Api, key: &str, event: impl Into<reqwest::Body>) -> Answered {
    api.send("POST", "/v1/events", key, &[], event).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_over_http_arrives_signed_and_byte_for_byte() {
    let installation = Installation::new("http").await;
    let api = Api::start(&installation).await;
    let key = installation.key("org_1", "endpoints:write,events:write").await;
    let receiver = Receiver::ok().await;
    let (_, secret) = create(&api, &key, &receiver.url()).await;
    installation.keep_secret(&secret);
    let worker = installation.worker().await;

    let single = "{ \"event\" : \"lead.completed\",\n\t\"timestamp\":1703123456789, \"organization_id\":\"org_\\u0031\",\
                  \"project_id\":\"p\",\"lead_id\":\"single\",\"data\":{\"score\": 1.50e0, \"name\":\"J\\u00f6rg ö\"}, \"later\": null } ";
    let published = publish(&api, &key, single).await;
    assert_eq!(published.status, 202, "{published:?}");
    wait_until("it arrives", SOON, || receiver.count() == 1).await;
    let request = receiver.requests().remove(0);
    assert_eq!(request.body, single.as_bytes());
    assert_eq!(
        request.header("webhook-id"),
        published.body["id"].as_str().unwrap()
    );
    request.verify(&secret);

    let events = ["b1", "b2"].map(|lead| {
        format!("{{\"lead_id\":\"{lead}\",\n \"data\" : {{}},\"event\":\"magnet.viewed\",\"timestamp\":1703123456789,\"organization_id\":\"org_1\",\"project_id\":\"p\"}}")
    });
    let batch = format!("[\n  {} ,\n\t{}\n]", events[0], events[1]);
    let published = api.send("POST", "/v1/events/batch", &key, &[], batch).await;
    assert_eq!(published.status, 202, "{published:?}");
    wait_until("both arrive", SOON, || receiver.count() == 3).await;
    let arrived: BTreeSet<_> = receiver.requests()[1..]
        .iter()
        .map(|request| {
            (
                request.header("webhook-id").to_owned(),
                String::from_utf8(request.body.to_vec()).unwrap(),
            )
        })
        .collect();
    let ids = published.body["ids"].as_array().unwrap().iter();
    let expected = ids
        .map(|id| id.as_str().unwrap().to_owned())
        .zip(events)
        .collect();
    assert_eq!(arrived, expected);
    assert!(worker.terminate().await && api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_again_is_the_same_event() {
    let installation = Installation::new("idempotent").await;
    let api = Api::start(&installation).await;
    let key = installation.key("org_1", "events:write").await;
    let event = event("org_1", "lead_1");
    let first = publish(&api, &key, event.clone()).await;
    let again = publish(&api, &key, event.clone()).await;
    assert_eq!((first.status, again.status), (202, 202));
    assert_eq!(first.body, again.body);
    assert!(first.body["id"].as_str().unwrap().starts_with("evt_"));
    for _ in 0..2 {
        let given = [("idempotency-key", "lead_1-completed")];
        let answered = api.send("POST", "/v1/events", &key, &given, event.clone()).await;
        assert_eq!(
            (answered.status, &answered.body["id"]),
            (202, &json!("lead_1-completed"))
        );
    }
    let messages = installation.amqp().ready("events").await;
    assert_eq!(messages, 4, "nothing remembers ids here: receivers tell by them");
    assert!(api.role.terminate().await);
    installation.delete().await;
}

/// Publishes events about this lead until one is accepted.
async fn publishes_again(api: &Api, key: &str, lead: &str) {
    wait_for("it publishes again", SOON, || async {
        let answered = publish(api, key, event("org_1", lead)).await;
        if answered.status == 202 {
            Ok(())
        } else {
            Err(format!("{answered:?}"))
        }
    })
    .await;
}

/// A node that is shutting down may still confirm a publish. Every answer must be true at the moment when it
/// is given.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_blocks_or_is_away_is_told_at_once_and_nothing_is_lost() {
    let node = Node::start().await;
    let installation =
        Installation::with("broken", node.url(), &[1000, 2000, 4000, 8000, 16000, 30000], &[]).await;
    let api = Api::start(&installation).await;
    let key = installation.key("org_1", "events:write,endpoints:write").await;
    let receiver = Receiver::ok().await;
    create(&api, &key, &receiver.url()).await;
    let ok = publish(&api, &key, event("org_1", "before")).await;
    assert_eq!(ok.status, 202, "{ok:?}");

    node.raise_memory_alarm(SOON).await;
    // The first publish detects that the broker blocks.
    let refused = publish(&api, &key, event("org_1", "blocked")).await;
    assert_eq!(
        (refused.status, refused.problem()),
        (503, "broker-unavailable"),
        "{refused:?}"
    );
    let asked = Instant::now();
    let refused = publish(&api, &key, event("org_1", "blocked")).await;
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, "30"),
        "{refused:?}"
    );
    let told = asked.elapsed();
    assert!(told < Duration::from_secs(2), "{told:?}");
    node.end_memory_alarm().await;
    publishes_again(&api, &key, "after the alarm").await;

    node.kill().await;
    let refused = publish(&api, &key, event("org_1", "away")).await;
    assert_eq!(
        (refused.status, refused.problem()),
        (503, "broker-unavailable"),
        "{refused:?}"
    );
    let listed = api.get("/v1/endpoints", &key).await;
    assert_eq!(listed.status, 403, "the rest goes on: {listed:?}");
    node.start_again().await;
    publishes_again(&api, &key, "after the kill").await;
    let worker = installation.worker().await;
    let confirmed = ["before", "after the alarm", "after the kill"];
    wait_until("all that was confirmed arrives", SOON, || {
        let receipts = receiver.receipts();
        confirmed.iter().all(|lead| receipts.contains_key(*lead))
    })
    .await;
    report(
        "the API tells that the broker blocks",
        format!("after {told:.1?}"),
    );
    assert!(worker.terminate().await && api.role.terminate().await);
    drop(installation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_over_http_tells_how_the_endpoint_answered() {
    let installation = Installation::new("http-ping").await;
    let api = Api::start(&installation).await;
    let key = installation.key("org_1", "endpoints:write").await;
    let receiver = Receiver::new(|_, _| Answer::status(204)).await;
    let (id, secret) = create(&api, &key, &receiver.url()).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    let path = format!("/v1/endpoints/{id}/ping");
    let pinged = api.send("POST", &path, &key, &[], "").await;
    assert_eq!(
        (pinged.status, &pinged.body["ok"], &pinged.body["status"]),
        (200, &json!(true), &json!(204)),
        "{pinged:?}"
    );
    let request = receiver.requests().remove(0);
    request.verify(&secret);
    assert_eq!(request.event_id(), pinged.body["id"]);
    let gone = Receiver::new(|_, _| Answer::status(500)).await;
    let moved = json!({ "url": gone.url() }).to_string();
    api.send("PATCH", &format!("/v1/endpoints/{id}"), &key, &[], moved)
        .await;
    let refused = wait_for("the worker knows the new URL", SOON, || async {
        let pinged = api.send("POST", &path, &key, &[], "").await;
        if pinged.body["ok"] == json!(false) {
            Ok(pinged)
        } else {
            Err(format!("{pinged:?}"))
        }
    })
    .await;
    assert_eq!(
        (refused.status, &refused.body["status"]),
        (200, &json!(500)),
        "{refused:?}"
    );
    assert!(worker.terminate().await && recorder.terminate().await && api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_lets_nobody_in_a_second_later() {
    let installation = Installation::new("revoked-key").await;
    let api = Api::start(&installation).await;
    let key = installation.key("org_1", "endpoints:read").await;
    assert_eq!(api.get("/v1/endpoints", &key).await.status, 200);
    let listed = installation.cli_ok(&["api-key", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    installation
        .cli_ok(&["api-key", "revoke", listed["id"].as_str().unwrap()])
        .await;
    let revoked = Instant::now();
    wait_for("it is refused", Duration::from_secs(3), || async {
        let answered = api.get("/v1/endpoints", &key).await;
        if answered.status == 401 {
            Ok(())
        } else {
            Err(answered.status.to_string())
        }
    })
    .await;
    assert!(
        revoked.elapsed() < Duration::from_secs(2),
        "{:?}",
        revoked.elapsed()
    );
    assert!(api.role.terminate().await);
    let listed = installation.cli_ok(&["api-key", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    assert!(
        listed["last_used_at_ms"].is_u64(),
        "written down when the process ended: {listed}"
    );
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_with_one_version_the_second_is_told() {
    let installation = Installation::new("race").await;
    let api = Api::start(&installation).await;
    let key = installation.key("org_1", "admin").await;
    let receiver = Receiver::ok().await;
    let (id, _) = create(&api, &key, &receiver.url()).await;
    let path = format!("/v1/endpoints/{id}");
    for _ in 0..20 {
        let version = api.get(&path, &key).await.header("etag").to_owned();
        let write = |events: &str| {
            let json = json!({ "events": [events] }).to_string();
            let (api, path, key, version) = (&api, &path, &key, &version);
            async move {
                api.send("PATCH", path, key, &[("if-match", version)], json)
                    .await
                    .status
            }
        };
        let (one, other) = tokio::join!(write("lead.*"), write("magnet.*"));
        assert_eq!(BTreeSet::from([one, other]), BTreeSet::from([200, 412]));
    }
    assert!(api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_one_line_without_keys_or_bodies() {
    let mut installation = Installation::new("api-log").await;
    installation.set("MAGNETITE_LOG__FORMAT", "json");
    installation.set("MAGNETITE_LOG__FILTER", "info,api=trace,lapin=off");
    let api = Api::start(&installation).await;
    let log = installation.directory().join("api.log");
    let key = installation.key("org_1", "admin").await;
    let answered = Answered::to(
        api.request("GET", "/v1/endpoints/ep_1?secret=hunter2", &key)
            .header("x-request-id", "mine-1"),
    )
    .await;
    assert_eq!(
        (answered.status, answered.header("x-request-id")),
        (404, "mine-1")
    );
    let published = publish(&api, &key, event("org_1", "hunter2")).await;
    assert_eq!(published.status, 202);
    let platform = installation.platform_key("admin").await;
    for named in [&[("magnetite-organization", "org_2")][..], &[]] {
        let listed = api.send("GET", "/v1/event-types", &platform, named, "").await;
        assert_eq!(listed.status, 200);
    }
    let metrics = api
        .role
        .metric("magnetite_api_request_duration_seconds_count", "/v1/events")
        .await;
    assert_eq!(metrics as u64, 1);
    assert!(api.role.terminate().await);
    let log = std::fs::read_to_string(log).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let answered: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "request answered")
        .collect();
    assert_eq!(answered.len(), 4, "{log}");
    assert_eq!(answered[0]["request.id"], "mine-1");
    assert_eq!(answered[0]["http.route"], "/v1/endpoints/{id}");
    assert_eq!(answered[0]["http.status"], 404);
    let organizations: Vec<_> = answered
        .iter()
        .map(|line| line["organization.id"].as_str())
        .collect();
    assert_eq!(organizations, [Some("org_1"), Some("org_1"), Some("org_2"), None]);
    for line in &answered {
        assert!(line["api_key.id"].as_str().unwrap().starts_with("key_"), "{log}");
    }
    assert!(!log.contains("hunter2"), "{log}");
    installation.delete().await;
}
