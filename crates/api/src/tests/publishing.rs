//! Tests of publishing without a broker: what is refused, and that nothing is reported as published.

use axum::body::Body;
use serde_json::{Value, json};

use super::bed::{Answer, Bed, request};
use runtime::now_ms;

fn event(organization: &str) -> Value {
    json!({
        "event": "lead.completed", "timestamp": 1_703_123_456_789_u64,
        "organization_id": organization, "project_id": "proj_1", "lead_id": "lead_1", "data": {}
    })
}

/// Returns the event without a field, or with another value for it.
fn with(field: &str, value: Option<Value>) -> Value {
    let mut event = event("org_1");
    let fields = event.as_object_mut().unwrap();
    match value {
        Some(value) => fields.insert(field.to_owned(), value),
        None => fields.remove(field),
    };
    event
}

fn pointers(answer: &Answer) -> Vec<&str> {
    let errors = answer.body["errors"].as_array().unwrap();
    errors
        .iter()
        .map(|error| error["pointer"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn what_a_worker_would_reject_is_refused_with_the_field() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "events:write").await;
    for (event, pointer) in [
        (with("event", None), "/event"),
        (with("event", Some(json!("lead.complete"))), "/event"),
        (with("timestamp", Some(json!("now"))), "/timestamp"),
        (with("timestamp", Some(json!(-1))), "/timestamp"),
        (with("timestamp", Some(json!(1_703_123_456))), "/timestamp"),
        (
            with("timestamp", Some(json!(now_ms() + 25 * 60 * 60 * 1000))),
            "/timestamp",
        ),
        (with("organization_id", Some(json!(""))), "/organization_id"),
        (with("project_id", None), "/project_id"),
        (with("lead_id", Some(json!(7))), "/lead_id"),
        (with("data", Some(json!([]))), "/data"),
        (json!([]), ""),
    ] {
        let refused = bed.post("/v1/events", &key, &event.to_string()).await;
        assert_eq!(refused.problem(), "invalid-fields", "{event}: {refused:?}");
        assert_eq!(pointers(&refused), [pointer], "{event}");
    }
    let seconds = json!({ "event": "lead_completed", "timestamp": 1_703_123_456, "data": {} });
    let refused = bed.post("/v1/events", &key, &seconds.to_string()).await;
    let all = [
        "/event",
        "/timestamp",
        "/organization_id",
        "/project_id",
        "/lead_id",
    ];
    assert_eq!(pointers(&refused), all, "{refused:?}");
    for (index, word) in ["did you mean \"lead.completed\"?", "look like seconds"]
        .iter()
        .enumerate()
    {
        let detail = refused.body["errors"][index]["detail"].as_str().unwrap();
        assert!(detail.contains(word), "{detail}");
    }
    let deep = "[".repeat(200) + &"]".repeat(200);
    let mut twice = event("org_1").to_string();
    twice.insert_str(1, "\"lead_id\":\"other\",");
    for (body, problem) in [
        (twice, "invalid-fields"),
        (format!("{{\"data\":{deep}}}"), "invalid-fields"),
        ("{".to_owned(), "malformed-request"),
        (String::new(), "malformed-request"),
        (
            with("data", Some(json!({ "a": "x".repeat(256 * 1024) }))).to_string(),
            "too-large",
        ),
    ] {
        let refused = bed.post("/v1/events", &key, &body).await;
        assert_eq!(refused.problem(), problem, "{body:.100}: {refused:?}");
    }
    let body = Body::from(b"{\"event\":\"\xff\"}".to_vec());
    let request = request("POST", "/v1/events", &key).header("content-type", "application/json");
    assert_eq!(
        bed.ask(request.body(body).unwrap()).await.problem(),
        "malformed-request"
    );
}

#[tokio::test]
async fn an_idempotency_key_that_can_be_no_id_is_refused() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "events:write").await;
    for (path, id) in [
        ("/v1/events", "a.b"),
        ("/v1/events", ""),
        ("/v1/events", &"a".repeat(129)),
        ("/v1/events/batch", "a"),
    ] {
        let request = request("POST", path, &key)
            .header("content-type", "application/json")
            .header("idempotency-key", id);
        let refused = bed
            .ask(request.body(Body::from(event("org_1").to_string())).unwrap())
            .await;
        assert_eq!(refused.problem(), "malformed-request", "{path} {id}");
        assert_eq!(refused.body["errors"][0]["parameter"], "Idempotency-Key");
    }
}

#[tokio::test]
async fn a_batch_with_one_bad_event_is_refused_as_a_whole_and_every_bad_one_is_told() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "events:write").await;
    let good = event("org_1");
    let batch = json!([
        good,
        with("lead_id", None),
        good,
        7,
        with("event", Some(json!("x")))
    ]);
    let refused = bed.post("/v1/events/batch", &key, &batch.to_string()).await;
    assert_eq!(refused.status, 422);
    assert_eq!(pointers(&refused), ["/1/lead_id", "/3", "/4/event"]);
    for (batch, detail) in [
        (json!([]), "1 to 500"),
        (json!(vec![7; 501]), "1 to 500"),
        (json!({}), "sequence"),
    ] {
        let refused = bed.post("/v1/events/batch", &key, &batch.to_string()).await;
        let text = refused.body["errors"][0]["detail"].as_str().unwrap().to_owned();
        assert!(refused.status == 422 && text.contains(detail), "{refused:?}");
    }
}

#[tokio::test]
async fn events_of_another_organization_are_told_with_their_places_in_the_batch() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "events:write").await;
    let refused = bed.post("/v1/events", &key, &event("org_2").to_string()).await;
    assert_eq!(refused.problem(), "other-organization", "{refused:?}");
    assert_eq!(pointers(&refused), ["/organization_id"]);
    let (good, foreign, invalid) = (event("org_1"), event("org_2"), with("lead_id", None));
    let first_20: Vec<_> = (0..20).map(|index| format!("/{index}/organization_id")).collect();
    let first_20: Vec<_> = first_20.iter().map(String::as_str).collect();
    let mixed = ["/3/lead_id", "/0/organization_id", "/2/organization_id"];
    for (batch, problem, expected) in [
        (
            json!([good, foreign, good, event("Org_1")]),
            "other-organization",
            &["/1/organization_id", "/3/organization_id"][..],
        ),
        (json!(vec![&foreign; 21]), "other-organization", &first_20),
        // What is not valid comes first, and decides what the problem is.
        (json!([foreign, good, foreign, invalid]), "invalid-fields", &mixed),
    ] {
        let refused = bed.post("/v1/events/batch", &key, &batch.to_string()).await;
        assert_eq!(refused.problem(), problem, "{refused:?}");
        assert_eq!(pointers(&refused), expected, "{refused:?}");
        let last = refused.body["errors"].as_array().unwrap().last().unwrap();
        let detail = last["detail"].as_str().unwrap();
        assert!(detail.contains("expected org_1,"), "{detail}");
    }
    let mut all_invalid = vec![foreign];
    all_invalid.resize(22, invalid);
    let batch = json!(all_invalid).to_string();
    let refused = bed.post("/v1/events/batch", &key, &batch).await;
    assert_eq!(refused.problem(), "invalid-fields", "{refused:?}");
    assert!(
        pointers(&refused)
            .iter()
            .all(|pointer| pointer.ends_with("lead_id")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn without_a_broker_nothing_is_said_to_be_published() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "events:write").await;
    let event = event("org_1");
    for (path, body) in [
        ("/v1/events", event.clone()),
        ("/v1/events/batch", json!([event])),
    ] {
        let answer = bed.post(path, &key, &body.to_string()).await;
        assert_eq!(
            (answer.problem(), answer.header("retry-after")),
            ("broker-unavailable", "5"),
            "{path}"
        );
    }
}
