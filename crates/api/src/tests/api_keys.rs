//! Tests of the operations on API keys.

use runtime::now_ms;
use serde_json::{Value, json};

use super::bed::Bed;

const KEYS: &str = "/v1/api-keys";

fn new(scopes: &[&str]) -> String {
    json!({ "name": "lead form", "scopes": scopes }).to_string()
}

fn path(key: &Value) -> String {
    format!("{KEYS}/{}", key["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_key_is_created_shown_once_used_and_refused_at_once_when_it_is_revoked() {
    let bed = Bed::new().await;
    let (admin, row) = bed.key_row("org_1", "admin", None).await;
    let asked =
        json!({ "name": "lead form", "scopes": ["endpoints:read", "events:write"], "expires_in_s": 60 });
    let created = bed.post(KEYS, &admin, &asked.to_string()).await;
    assert_eq!(created.status, 201, "{created:?}");
    let created = created.body;
    assert_eq!(
        [&created["organization_id"], &created["name"], &created["scopes"]],
        [
            &json!("org_1"),
            &json!("lead form"),
            &json!(["events:write", "endpoints:read"])
        ]
    );
    let lifetime_ms = created["expires_at_ms"].as_u64().unwrap() - created["created_at_ms"].as_u64().unwrap();
    assert_eq!(lifetime_ms, 60_000);
    let key = created["key"].as_str().unwrap();
    assert!(key.starts_with(created["prefix"].as_str().unwrap()));

    assert_eq!(bed.get("/v1/endpoints", key).await.status, 200);
    assert_eq!(bed.get(KEYS, key).await.problem(), "insufficient-scope");
    let listed = bed.get(KEYS, &admin).await;
    assert_eq!(listed.body["data"].as_array().unwrap().len(), 2);
    assert!(!listed.body.to_string().contains(key), "{listed:?}");

    let mut expected = created.clone();
    expected.as_object_mut().unwrap().remove("key");
    let mut answers = Vec::new();
    for _ in 0..2 {
        let revoked = bed.send("DELETE", &path(&created), &admin, "").await;
        let refused = bed.get("/v1/endpoints", key).await;
        assert_eq!(refused.problem(), "unauthorized", "{refused:?}");
        expected["revoked_at_ms"] = revoked.body["revoked_at_ms"].as_u64().into();
        assert_eq!((revoked.status.as_u16(), &revoked.body), (200, &expected));
        answers.push(revoked.body);
    }
    assert!(answers[0]["revoked_at_ms"].is_u64(), "{answers:?}");
    assert_eq!(answers[0], answers[1]);
    let changes = bed.get("/v1/changes?limit=2", &admin).await;
    for (change, kind) in [(0, "api_key.revoked"), (1, "api_key.created")] {
        let change = &changes.body["data"][change];
        assert_eq!(
            [&change["kind"], &change["subject"], &change["actor"]],
            [&json!(kind), &created["id"], &json!(row.id)]
        );
    }
    assert!(!changes.body.to_string().contains(key), "{changes:?}");
}

#[tokio::test]
async fn what_is_no_key_is_refused_with_every_field() {
    let bed = Bed::new().await;
    let admin = bed.key("org_1", "admin").await;
    let long = "x".repeat(256);
    for (body, pointers) in [
        (json!({ "scopes": ["admin"] }), vec![""]),
        (json!({ "name": "n" }), vec![""]),
        (
            json!({ "name": "", "scopes": [], "expires_in_s": 0 }),
            vec!["/name", "/expires_in_s", "/scopes"],
        ),
        (
            json!({ "name": long, "scopes": ["admin", "Admin", "admin,admin", " admin"] }),
            vec!["/name", "/scopes/1", "/scopes/2", "/scopes/3"],
        ),
        (
            json!({ "name": "a\nb", "scopes": vec!["admin"; 7] }),
            vec!["/name", "/scopes"],
        ),
        (
            json!({ "name": "n", "scopes": ["admin"], "expires_in_s": 316_224_001 }),
            vec!["/expires_in_s"],
        ),
        (
            json!({ "name": "n", "scopes": ["admin"], "expires_in_s": null }),
            vec!["/expires_in_s"],
        ),
        (json!({ "name": "n", "scopes": "admin" }), vec!["/scopes"]),
    ] {
        let refused = bed.post(KEYS, &admin, &body.to_string()).await;
        assert_eq!(refused.problem(), "invalid-fields", "{body}: {refused:?}");
        let errors = refused.body["errors"].as_array().unwrap();
        let found: Vec<_> = errors
            .iter()
            .map(|error| error["pointer"].as_str().unwrap())
            .collect();
        assert_eq!(found, pointers, "{body}: {refused:?}");
    }
    let listed = bed.get(KEYS, &admin).await;
    assert_eq!(listed.body["data"].as_array().unwrap().len(), 1, "{listed:?}");
}

#[tokio::test]
async fn no_key_is_created_for_the_platform_or_for_another_organization() {
    let bed = Bed::new().await;
    let (admin, platform) = (bed.key("org_1", "admin").await, bed.platform_key("admin").await);
    for field in ["organization_id", "platform", "org", "id", "key"] {
        for value in [Value::Null, json!(true), json!("org_2")] {
            let mut body = json!({ "name": "n", "scopes": ["admin"] });
            body[field] = value;
            for key in [&admin, &platform] {
                let refused = bed.send_for("org_1", "POST", KEYS, key, &body.to_string()).await;
                assert_eq!(refused.problem(), "invalid-fields", "{body}: {refused:?}");
            }
        }
    }
    assert_eq!(bed.post(KEYS, &platform, &new(&["admin"])).await.status, 422);
    let other = bed
        .send_for("org_2", "POST", KEYS, &admin, &new(&["admin"]))
        .await;
    assert_eq!(other.problem(), "other-organization");
    let created = bed
        .send_for("org_2", "POST", KEYS, &platform, &new(&["admin"]))
        .await;
    assert_eq!(created.body["organization_id"], "org_2", "{created:?}");
    let key = created.body["key"].as_str().unwrap();
    let refused = bed.send_for("org_1", "GET", KEYS, key, "").await;
    assert_eq!(refused.problem(), "other-organization", "{refused:?}");
    let keys = bed.context.store.api_keys(None, None, 10).await.unwrap();
    let of_platform = keys.iter().filter(|key| key.organization_id.is_none());
    assert_eq!((keys.len(), of_platform.count()), (3, 1));
}

#[tokio::test]
async fn a_key_may_revoke_itself_and_no_platform_key_is_revoked_over_http() {
    let bed = Bed::new().await;
    let (platform, row) = bed.platform_key_row("admin").await;
    let (own, own_row) = bed.key_row("org_1", "admin", None).await;
    let path = format!("{KEYS}/{}", row.id);
    assert_eq!(bed.send("DELETE", &path, &platform, "").await.status, 422);
    for answered in [
        bed.send("DELETE", &path, &own, "").await,
        bed.send_for("org_1", "DELETE", &path, &platform, "").await,
        bed.send("DELETE", &format!("{KEYS}/key_1"), &own, "").await,
    ] {
        assert_eq!(answered.problem(), "not-found", "{answered:?}");
    }
    assert!(
        bed.context
            .store
            .api_key(&row.id)
            .await
            .unwrap()
            .is_valid_at(now_ms())
    );

    let path = format!("{KEYS}/{}", own_row.id);
    let foreign = bed.send_for("org_2", "DELETE", &path, &platform, "").await;
    assert_eq!(foreign.problem(), "not-found", "{foreign:?}");
    let revoked = bed.send("DELETE", &path, &own, "").await;
    assert_eq!(
        (revoked.status.as_u16(), &revoked.body["id"]),
        (200, &json!(own_row.id))
    );
    assert_eq!(bed.get(KEYS, &own).await.problem(), "unauthorized");
    let again = bed.send_for("org_1", "DELETE", &path, &platform, "").await;
    assert_eq!((again.status.as_u16(), &again.body), (200, &revoked.body));
}
