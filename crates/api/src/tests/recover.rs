//! Tests of recovering an endpoint, over HTTP. There is no broker: the tests only count, and write into the
//! journal what would have been sent.

use runtime::now_ms;
use serde_json::{Value, json};
use service::cursor;
use webhook::{AttemptId, DisabledReason, EndpointId, Trigger, journal::Record};

use super::{
    bed::{Answer, Bed},
    journal::{T, dead, event, record, with_dead},
};

/// Asks how many deliveries would be sent from this cursor on, at most `limit`.
async fn count(bed: &Bed, key: &str, endpoint: &str, cursor: &Value, limit: u32) -> Answer {
    let path = format!("/v1/endpoints/{endpoint}/recover");
    let asked = json!({ "since_ms": 0, "limit": limit, "cursor": cursor, "dry_run": true });
    bed.post(&path, key, &asked.to_string()).await
}

/// Returns the cursor after the oldest delivery.
async fn first_cursor(bed: &Bed, key: &str, endpoint: &str) -> Value {
    let counted = count(bed, key, endpoint, &Value::Null, 1).await;
    assert_eq!(counted.body["more"], true, "{counted:?}");
    counted.body["next_cursor"].clone()
}

/// Returns the dead, the missed and the left deliveries of an answer.
fn numbers(counted: &Answer) -> [u64; 3] {
    ["dead", "missed", "left"].map(|name| {
        let number = counted.body[name].as_u64();
        number.unwrap_or_else(|| panic!("{counted:?}"))
    })
}

#[tokio::test]
async fn a_dry_run_counts_and_a_disabled_endpoint_is_told() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "deliveries:write").await;
    let (endpoint, _) = with_dead(&bed, "org_1", 3).await;
    let missed = event("org_1", 4, &endpoint, "disabled.manual.1703123396789");
    record(&bed, [Record::Event(missed)]).await;
    let path = format!("/v1/endpoints/{endpoint}/recover");
    for (body, dead, missed, more) in [
        (json!({ "since_ms": 0 }), 3, 1, false),
        (json!({ "since_ms": 0, "limit": 2 }), 2, 0, true),
        (json!({ "since_ms": 0, "state": "missed" }), 0, 1, false),
        (json!({ "since_ms": T + 2000, "until_ms": T + 4000 }), 2, 0, false),
        (json!({ "since_ms": T + 9000 }), 0, 0, false),
    ] {
        let mut asked = body.clone();
        asked["dry_run"] = true.into();
        let mut counted = bed.post(&path, &key, &asked.to_string()).await.body;
        let next = counted.as_object_mut().unwrap().remove("next_cursor").unwrap();
        assert_eq!(next.is_string(), more, "{body}: {next}");
        assert_eq!(
            counted,
            json!({
                "dead": dead, "missed": missed, "left": 0, "sent": 0, "more": more, "event_missing": [], "dry_run": true,
            }),
            "{body}"
        );
    }
    let id = EndpointId::new(endpoint);
    let disabled = bed.context.store.disable_endpoint(&id, DisabledReason::Gone, 9);
    disabled.await.unwrap();
    let refused = bed.post(&path, &key, r#"{"since_ms":0,"dry_run":true}"#).await;
    assert_eq!(refused.problem(), "conflict", "{refused:?}");
    assert!(refused.body["detail"].as_str().unwrap().contains("gone"));
}

#[tokio::test]
async fn the_counts_of_all_pages_are_the_count_of_one() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "deliveries:write").await;
    let (endpoint, _) = with_dead(&bed, "org_1", 5).await;
    with_dead(&bed, "org_2", 2).await;
    let missed = event("org_1", 6, &endpoint, "disabled.manual.1703123396789");
    record(&bed, [Record::Event(missed)]).await;
    // Three are requested and not sent, which an interrupted operation leaves behind.
    let run = |number| dead(&event("org_1", number, &endpoint, "matched"), &endpoint).delivery;
    let runs = [1, 3, 4].map(|number| run(number).id());
    let requested = bed.context.store.request_resends(&runs, now_ms()).await;
    assert_eq!(requested.unwrap().len(), 3);
    for (limit, pages) in [(1, 6), (2, 3), (4, 2), (5, 2), (6, 1), (1000, 1)] {
        let (mut all, mut read, mut cursor) = ([0; 3], 0, Value::Null);
        loop {
            let counted = count(&bed, &key, &endpoint, &cursor, limit).await;
            let found = numbers(&counted);
            assert!(
                found.iter().sum::<u64>() <= u64::from(limit),
                "{limit}: {counted:?}"
            );
            all = [0, 1, 2].map(|kind| all[kind] + found[kind]);
            read += 1;
            cursor = counted.body["next_cursor"].clone();
            assert_eq!(counted.body["more"], cursor.is_string(), "{limit}: {counted:?}");
            if cursor.is_null() {
                break;
            }
        }
        assert_eq!((all, read), ([2, 1, 3], pages), "{limit}");
    }
}

#[tokio::test]
async fn what_died_again_is_not_found_again_after_the_cursor() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "deliveries:write").await;
    let (endpoint, _) = with_dead(&bed, "org_1", 3).await;
    let cursor = first_cursor(&bed, &key, &endpoint).await;
    let mut again = dead(&event("org_1", 1, &endpoint, "matched"), &endpoint);
    again.began_ms += 60_000;
    again.id = AttemptId::generate(again.began_ms, [1; 10]);
    again.delivery.run = 1;
    again.delivery.trigger = Trigger::Resend;
    record(&bed, [Record::Attempt(again)]).await;
    let after = count(&bed, &key, &endpoint, &cursor, 100).await;
    assert_eq!(numbers(&after), [2, 0, 0]);
    let whole = count(&bed, &key, &endpoint, &Value::Null, 100).await;
    assert_eq!(numbers(&whole), [3, 0, 0]);
}

#[tokio::test]
async fn a_cursor_of_something_else_is_refused() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "admin").await;
    let (endpoint, _) = with_dead(&bed, "org_1", 2).await;
    // The events of the second endpoint are those of the first one.
    let (other, _) = with_dead(&bed, "org_1", 2).await;
    let (foreign, _) = with_dead(&bed, "org_2", 2).await;
    let own = first_cursor(&bed, &key, &endpoint).await;
    let text = own.as_str().unwrap();
    let mut cursors = vec![
        first_cursor(&bed, &key, &other).await,
        first_cursor(&bed, &bed.key("org_2", "admin").await, &foreign).await,
        json!(""),
        json!("x"),
        json!("\0"),
        json!(endpoint),
        json!(format!("{text}=")),
        json!(&text[1..]),
        json!(text.repeat(50)),
        json!(7),
        json!([text]),
    ];
    let platform = bed.platform_key("admin").await;
    for (list, key) in [
        ("/v1/endpoints", &key),
        ("/v1/events", &key),
        ("/v1/events", &platform),
        ("/v1/deliveries", &key),
        ("/v1/deliveries", &platform),
        ("/v1/changes", &key),
    ] {
        let page = bed.get(&format!("{list}?limit=1"), key).await;
        let next = page.body["next_cursor"].clone();
        assert!(next.is_string(), "{list}: {page:?}");
        cursors.push(next);
        let refused = bed.get(&format!("{list}?cursor={text}"), key).await;
        assert_eq!(refused.problem(), "malformed-request", "{list}: {refused:?}");
    }
    for cursor in cursors {
        let refused = count(&bed, &key, &endpoint, &cursor, 100).await;
        assert_eq!(refused.problem(), "invalid-fields", "{cursor}: {refused:?}");
        assert_eq!(refused.body["errors"][0]["pointer"], "/cursor", "{cursor}");
    }
    let missing = count(&bed, &key, &foreign, &own, 100).await;
    assert_eq!(missing.problem(), "not-found", "{missing:?}");
}

/// A cursor that a client has made up selects what is found, and nothing else.
#[tokio::test]
async fn a_cursor_that_is_made_up_finds_only_what_the_endpoint_missed() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "deliveries:write").await;
    let (endpoint, _) = with_dead(&bed, "org_1", 3).await;
    with_dead(&bed, "org_2", 3).await;
    let long = "x".repeat(1000);
    for (position, left, dead) in [
        (None, u64::MAX, 3),
        (Some((0, "")), 0, 3),
        (Some((0, "\0")), 7, 3),
        (Some((T + 1000, "evt_org_1_1")), 0, 2),
        (Some((T + 2000, "evt_org_2_2")), 0, 1),
        (Some((T + 2000, &*long)), 0, 1),
        (Some((u64::MAX, "' OR 1 = 1 --")), u64::MAX, 0),
    ] {
        let cursor = json!(cursor::encode(&(&endpoint, position, left)));
        let counted = count(&bed, &key, &endpoint, &cursor, 100).await;
        assert_eq!(numbers(&counted), [dead, 0, 0], "{position:?}");
        let page = count(&bed, &key, &endpoint, &cursor, 1).await;
        assert_eq!(page.body["more"], dead > 1, "{position:?}: {page:?}");
    }
}
