//! Tests of what the journal contains, over HTTP. There is no broker: nothing is sent again here, and nothing
//! is requested either.

use std::sync::Arc;

use serde_json::{Value, json};
use service::tail::Filter;
use store::DeliveryFilter;
use webhook::{
    AttemptId, DeadReason, EndpointId, Event, FailureKind, Phase, Trigger,
    journal::{AttemptRecord, Books, DeliveryRef, EventRecord, Record, Then},
};

use crate::{caller::Caller, config::STREAMS_MAX};

use super::bed::{Answer, Bed};

/// The time of the first sample, in Unix milliseconds.
pub(super) const T: u64 = 1_703_123_456_789;

/// Returns the event with this number, for which this endpoint was considered. It was received a second after
/// the event with the number before.
pub(super) fn event(organization: &str, number: u64, endpoint: &str, verdict: &str) -> EventRecord {
    let body = format!(
        r#"{{"event":"lead.completed","timestamp":{T},"organization_id":"{organization}","project_id":"proj_1","lead_id":"lead_{number}","data":{{}}}}"#
    );
    let id = format!("evt_{organization}_{number}");
    let event = Event::from_message(Some(&id), None, body.into()).unwrap();
    EventRecord {
        event: Arc::new(event),
        received_ms: T + 1000 * number,
        considered: format!("{endpoint}:{verdict}").parse().unwrap(),
        seen: None,
    }
}

/// Returns the only attempt of the event's delivery, after which the delivery is dead.
pub(super) fn dead(event: &EventRecord, endpoint: &str) -> AttemptRecord {
    let began_ms = event.received_ms + 10;
    AttemptRecord {
        id: AttemptId::generate(began_ms, [event.received_ms as u8; 10]),
        delivery: DeliveryRef {
            organization_id: event.event.organization_id.clone(),
            event_id: event.event.id.clone(),
            endpoint_id: EndpointId::new(endpoint),
            run: 0,
            trigger: Trigger::Event,
        },
        number: 1,
        began_ms,
        duration_ms: 20,
        status: None,
        phase: Some(Phase::Connect),
        failure: Some(FailureKind::ConnectionRefused),
        error: "connection refused".to_owned(),
        response: b"\xff\0oops".as_slice().into(),
        then: Then::Dead {
            reason: DeadReason::Exhausted,
        },
    }
}

pub(super) async fn record(bed: &Bed, records: impl IntoIterator<Item = Record>) {
    let mut books = Books::default();
    for record in records {
        books.add(record);
    }
    bed.context.store.record(&books, &[]).await.unwrap();
}

/// Creates an endpoint and this many events whose deliveries to it are dead. Returns the endpoint's id and
/// the id of the last delivery.
pub(super) async fn with_dead(bed: &Bed, organization: &str, count: u64) -> (String, String) {
    let endpoint = bed.endpoint(organization).await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut last = String::new();
    for number in 1..=count {
        let event = event(organization, number, &endpoint, "matched");
        let attempt = dead(&event, &endpoint);
        last = attempt.delivery.id().to_string();
        record(bed, [Record::Event(event), Record::Attempt(attempt)]).await;
    }
    (endpoint, last)
}

fn ids(listing: &Answer) -> Vec<&str> {
    let data = listing.body["data"].as_array().unwrap().iter();
    data.map(|row| row["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn events_are_listed_newest_first_in_pages_and_by_what_they_are() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "deliveries:read").await;
    let (endpoint, _) = with_dead(&bed, "org_1", 3).await;
    with_dead(&bed, "org_2", 1).await;
    let missed = event("org_1", 4, &endpoint, "project");
    record(&bed, [Record::Event(missed)]).await;

    let first = bed.get("/v1/events?limit=3", &key).await;
    assert_eq!(ids(&first), ["evt_org_1_4", "evt_org_1_3", "evt_org_1_2"]);
    let cursor = first.body["next_cursor"].as_str().unwrap();
    let second = bed
        .get(&format!("/v1/events?limit=3&cursor={cursor}"), &key)
        .await;
    assert_eq!(ids(&second), ["evt_org_1_1"]);
    assert_eq!(second.body["next_cursor"], Value::Null);

    let since = T + 2000;
    for (query, count) in [
        ("state=dead", 3),
        ("state=delivered", 0),
        ("type=lead.completed", 4),
        ("type=lead.created", 0),
        ("type=webhook.ping", 0),
        ("project_id=proj_1", 4),
        ("project_id=proj_2", 0),
        ("lead_id=lead_3", 1),
        ("lead_id=%00", 0),
        (&format!("since_ms={since}"), 3),
        (&format!("since_ms={since}&until_ms={}", since + 1), 1),
        (&format!("since_ms={}", i64::MAX), 0),
    ] {
        let listed = bed.get(&format!("/v1/events?{query}"), &key).await;
        assert_eq!(ids(&listed).len(), count, "{query}: {listed:?}");
    }
    for query in [
        "state=melted",
        "type=lead.melted",
        "since_ms=yesterday",
        "since_ms=-1",
        "since_ms=1703123456",
        "until_ms=1703123456",
        "until_ms=9223372036854775808",
        "nothing=1",
    ] {
        let refused = bed.get(&format!("/v1/events?{query}"), &key).await;
        assert_eq!(refused.problem(), "malformed-request", "{query}: {refused:?}");
        let (name, _) = query.split_once('=').unwrap();
        assert_eq!(refused.body["errors"][0]["parameter"], name, "{refused:?}");
    }
}

/// An event's id is unique only within its organization.
#[tokio::test]
async fn events_with_the_same_id_and_time_are_each_listed_once_for_all_organizations() {
    let bed = Bed::new().await;
    let key = bed.platform_key("deliveries:read").await;
    let mut expected = Vec::new();
    for (number, organization) in [
        (1, "org_1"),
        (1, "org_2"),
        (1, "org_3"),
        (2, "org_1"),
        (2, "org_2"),
    ] {
        let (distinct, id) = (
            event(organization, number, "ep_1", "project"),
            format!("evt_{number}"),
        );
        let same = Event::from_message(Some(&id), None, distinct.event.body.clone()).unwrap();
        let same = EventRecord {
            event: Arc::new(same),
            ..distinct
        };
        record(&bed, [Record::Event(same)]).await;
        expected.insert(0, [id, organization.to_owned()]);
    }
    let (mut read, mut cursor) = (Vec::new(), String::new());
    while read.len() < 10 {
        let page = bed.get(&format!("/v1/events?limit=1{cursor}"), &key).await;
        let event = &page.body["data"][0];
        read.push(["id", "organization_id"].map(|field| event[field].as_str().unwrap().to_owned()));
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(read, expected);
}

#[tokio::test]
async fn no_answer_says_where_a_name_leads_in_our_network() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "endpoints:read,deliveries:read").await;
    let endpoint = bed.endpoint("org_1").await["id"].as_str().unwrap().to_owned();
    let event = event("org_1", 1, &endpoint, "matched");
    let attempt = AttemptRecord {
        phase: Some(Phase::Resolve),
        failure: Some(FailureKind::AddressRefused),
        error: "address_refused in resolve: hooks.example.com resolves to 10.0.0.5, a private address (10.0.0.0/8), and webhooks are sent to \
                public addresses only. To allow it, set `egress.allow = [\"10.0.0.0/8\"]`"
            .to_owned(),
        ..dead(&event, &endpoint)
    };
    let delivery = attempt.delivery.id().to_string();
    record(&bed, [Record::Event(event), Record::Attempt(attempt)]).await;
    for path in [
        "/v1/events/evt_org_1_1".to_owned(),
        "/v1/deliveries".to_owned(),
        format!("/v1/deliveries/{delivery}"),
        format!("/v1/deliveries/{delivery}/attempts"),
        "/v1/endpoints?failing=true".to_owned(),
    ] {
        let answer = bed.get(&path, &key).await;
        let text = answer.body.to_string();
        assert!(
            text.contains("address_refused in resolve: the URL leads to an address that is not public"),
            "{path}: {text}"
        );
        assert!(
            !text.contains("10.0.0.") && !text.contains("egress"),
            "{path}: {text}"
        );
    }
}

#[tokio::test]
async fn an_event_tells_its_whole_story() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "deliveries:read").await;
    let (endpoint, delivery) = with_dead(&bed, "org_1", 1).await;
    let later = bed.endpoint("org_1").await["id"].as_str().unwrap().to_owned();
    let told = bed.get("/v1/events/evt_org_1_1", &key).await;
    assert_eq!(told.status, 200, "{told:?}");
    let body: Value = serde_json::from_str(told.body["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["lead_id"], "lead_1");
    let [first, second] = &told.body["endpoints"].as_array().unwrap()[..] else {
        panic!("{told:?}")
    };
    assert_eq!(
        (&first["endpoint_id"], &first["verdict"], &first["url"]),
        (
            &json!(endpoint),
            &json!("matched"),
            &json!("https://93.184.216.34/hook")
        )
    );
    assert_eq!(
        (&second["endpoint_id"], &second["verdict"]),
        (&json!(later), &json!("created_after"))
    );
    let run = &first["deliveries"][0];
    assert_eq!(
        [
            &run["id"],
            &run["state"],
            &run["reason"],
            &run["attempts"][0]["failure"]
        ],
        [
            &json!(delivery),
            &json!("dead"),
            &json!("exhausted"),
            &json!("connection_refused")
        ]
    );

    let shown = bed.get(&format!("/v1/deliveries/{delivery}"), &key).await;
    assert_eq!(
        (&shown.body["id"], &shown.body["attempt_count"]),
        (&json!(delivery), &json!(1))
    );
    let attempts = bed
        .get(&format!("/v1/deliveries/{delivery}/attempts"), &key)
        .await;
    assert_eq!(
        attempts.body["data"].as_array().unwrap(),
        run["attempts"].as_array().unwrap()
    );
}

#[tokio::test]
async fn deliveries_are_listed_newest_first_in_pages_and_by_what_they_are() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "deliveries:read").await;
    let (endpoint, last) = with_dead(&bed, "org_1", 3).await;
    let (foreign, _) = with_dead(&bed, "org_2", 1).await;
    let all = bed.get("/v1/deliveries", &key).await;
    assert_eq!((ids(&all).len(), ids(&all)[0]), (3, last.as_str()));
    let (mut read, mut cursor) = (Vec::new(), String::new());
    for _ in 0..2 {
        let page = bed.get(&format!("/v1/deliveries?limit=2{cursor}"), &key).await;
        read.extend(ids(&page).into_iter().map(str::to_owned));
        cursor = format!(
            "&cursor={}",
            page.body["next_cursor"].as_str().unwrap_or_default()
        );
    }
    assert_eq!(read, ids(&all));
    for (query, count) in [
        (format!("endpoint_id={endpoint}"), 3),
        (format!("endpoint_id={foreign}"), 0),
        ("event_id=evt_org_1_2".to_owned(), 1),
        ("event_id=evt_org_2_1".to_owned(), 0),
        ("state=dead".to_owned(), 3),
        ("state=pending".to_owned(), 0),
        (format!("until_ms={}", T + 1500), 1),
    ] {
        let listed = bed.get(&format!("/v1/deliveries?{query}"), &key).await;
        assert_eq!(ids(&listed).len(), count, "{query}: {listed:?}");
    }
}

#[tokio::test]
async fn health_is_of_the_last_hour_and_has_no_rate_without_attempts() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "endpoints:read").await;
    let (endpoint, _) = with_dead(&bed, "org_1", 2).await;
    let health = bed.get(&format!("/v1/endpoints/{endpoint}/health"), &key).await;
    assert_eq!(
        health.body,
        json!({
            "last_success_ms": null, "failing_since_ms": T + 1010, "attempts_last_hour": 0,
            "success_rate_last_hour": null, "p50_ms_last_hour": null, "p99_ms_last_hour": null,
        })
    );
}

#[tokio::test]
async fn without_a_broker_nothing_is_asked_to_be_sent_again() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "deliveries:write").await;
    let (endpoint, delivery) = with_dead(&bed, "org_1", 1).await;
    let ids = json!({ "ids": [delivery] }).to_string();
    for (path, body) in [
        (format!("/v1/deliveries/{delivery}/resend"), ""),
        ("/v1/deliveries/resend".to_owned(), ids.as_str()),
        (format!("/v1/endpoints/{endpoint}/recover"), r#"{"since_ms":0}"#),
    ] {
        let answer = bed.post(&path, &key, body).await;
        assert_eq!(answer.problem(), "broker-unavailable", "{path}: {answer:?}");
        assert!(!answer.header("retry-after").is_empty(), "{path}");
    }
    let all = DeliveryFilter::default();
    assert_eq!(
        bed.context.store.deliveries(&all, None, 10).await.unwrap().len(),
        1
    );
}

#[tokio::test]
async fn what_is_to_be_sent_again_is_bounded_and_checked() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "deliveries:write").await;
    let many = json!({ "ids": vec!["dlv_1"; 101] }).to_string();
    for (body, pointer) in [
        (r#"{"ids":[]}"#, "/ids"),
        (&many, "/ids"),
        (r#"{"ids":[1]}"#, "/ids/0"),
    ] {
        let refused = bed.post("/v1/deliveries/resend", &key, body).await;
        assert_eq!(
            refused.body["errors"][0]["pointer"], pointer,
            "{body}: {refused:?}"
        );
    }
    let unknown = bed
        .post("/v1/deliveries/resend", &key, r#"{"ids":["dlv_1"]}"#)
        .await;
    assert_eq!(
        unknown.body["results"],
        json!([{ "resend_of": "dlv_1", "id": null, "refused": "not_found" }])
    );
    let id = bed.endpoint("org_1").await["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/endpoints/{id}/recover");
    for (body, pointer) in [
        ("{}", ""),
        (r#"{"since_ms":0,"limit":0}"#, "/limit"),
        (r#"{"since_ms":0,"limit":1001}"#, "/limit"),
        (r#"{"since_ms":0,"state":"lost"}"#, "/state"),
        (r#"{"since_ms":-1}"#, "/since_ms"),
        // Times that are in seconds by mistake.
        (r#"{"since_ms":1703123456}"#, "/since_ms"),
        (r#"{"since_ms":0,"until_ms":1703123456}"#, "/until_ms"),
    ] {
        let refused = bed.post(&path, &key, body).await;
        assert_eq!(
            refused.body["errors"][0]["pointer"], pointer,
            "{body}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn changes_say_which_key_made_them() {
    let bed = Bed::new().await;
    let (key, row) = bed.key_row("org_1", "admin", None).await;
    bed.endpoint("org_2").await;
    for host in ["one", "two", "three"] {
        let body = json!({ "url": format!("https://93.184.216.34/{host}") }).to_string();
        bed.post("/v1/endpoints", &key, &body).await;
    }
    let first = bed.get("/v1/changes?limit=2", &key).await;
    let newest = &first.body["data"][0];
    assert_eq!(
        [&newest["actor"], &newest["kind"], &newest["detail"]["host"]],
        [
            &json!(row.id),
            &json!("endpoint.created"),
            &json!("93.184.216.34")
        ]
    );
    let cursor = first.body["next_cursor"].as_str().unwrap();
    let second = bed.get(&format!("/v1/changes?cursor={cursor}"), &key).await;
    let kinds: Vec<_> = second.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["kind"])
        .collect();
    assert_eq!(kinds, ["endpoint.created", "api_key.created"]);
}

#[tokio::test]
async fn a_stream_refuses_what_is_no_filter_and_one_key_gets_a_quarter_of_all_streams() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "deliveries:read").await;
    for query in ["type=melted", "outcome=pending", "limit=5"] {
        let refused = bed.get(&format!("/v1/tail?{query}"), &key).await;
        assert_eq!(refused.problem(), "malformed-request", "{query}: {refused:?}");
    }
    let caller = Caller::with("key_1", Some("org_1"));
    let begin = || bed.context.streams.begin(&caller, Filter::default());
    let streams: Vec<_> = std::iter::from_fn(begin).collect();
    assert_eq!(streams.len(), STREAMS_MAX / 4);
    drop(streams);
    assert!(begin().is_some());
}
