//! Tests of the status of an organization.

use serde_json::json;

use super::{
    bed::Bed,
    journal::{T, with_dead},
};

#[tokio::test]
async fn the_status_counts_what_the_organization_has_and_names_what_fails() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "deliveries:read").await;
    let (endpoint, _) = with_dead(&bed, "org_1", 3).await;
    let (foreign, _) = with_dead(&bed, "org_2", 2).await;

    let all = bed.get("/v1/status?since_ms=0", &key).await.body;
    assert_eq!(all["endpoints"], json!({ "all": 1, "disabled": 0, "failing": 1 }));
    assert_eq!((&all["since_ms"], &all["dead"]), (&0.into(), &3.into()));
    assert_eq!(all["last_attempt_ms"], T + 3_010);
    assert_eq!(
        (&all["pending"], &all["oldest_pending_ms"]),
        (&0.into(), &json!(null))
    );
    let failing = all["failing"].as_array().unwrap();
    assert_eq!((failing.len(), &failing[0]["id"]), (1, &endpoint.as_str().into()));
    assert!(!all.to_string().contains(&foreign), "{all}");

    let recent = bed.get("/v1/status", &key).await.body;
    assert_eq!(recent["dead"], 0);
    let (at_ms, since_ms) = (recent["at_ms"].as_u64(), recent["since_ms"].as_u64());
    assert_eq!(at_ms.unwrap() - since_ms.unwrap(), 3_600_000);
    assert_eq!(
        recent["attempts_last_minute"],
        json!({ "delivered": 0, "retry": 0, "deferred": 0, "dead": 0, "cancelled": 0 })
    );
}

#[tokio::test]
async fn an_organization_without_anything_has_a_status() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "deliveries:read").await;
    let status = bed.get("/v1/status", &key).await;
    assert_eq!(status.status, 200);
    assert_eq!(
        status.body["endpoints"],
        json!({ "all": 0, "disabled": 0, "failing": 0 })
    );
    assert_eq!(
        (&status.body["last_attempt_ms"], &status.body["failing"]),
        (&json!(null), &json!([]))
    );
}
