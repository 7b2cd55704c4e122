//! Tests of endpoints over HTTP.

use axum::body::Body;
use serde_json::{Value, json};
use webhook::EndpointId;

use crate::{Config, routes};

use super::bed::{Answer, Bed, request};

const URL: &str = "https://93.184.216.34/hook";

async fn write(bed: &Bed, method: &str, path: &str, key: &str, if_match: &str, json: &str) -> Answer {
    let request = request(method, path, key)
        .header("content-type", "application/json")
        .header("if-match", if_match);
    bed.ask(request.body(Body::from(json.to_owned())).unwrap()).await
}

#[tokio::test]
async fn an_endpoint_is_created_shown_changed_suspended_and_deleted() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "endpoints:write,endpoints:read").await;
    let new = json!({ "url": URL, "events": ["lead.completed", "research.*"], "project_id": "proj_1" });
    let created = bed.post("/v1/endpoints", &key, &new.to_string()).await;
    assert_eq!(created.status, 201, "{created:?}");
    let id = created.body["id"].as_str().unwrap();
    let path = format!("/v1/endpoints/{id}");
    assert_eq!(created.header("location"), path);
    assert!(created.body["secret"].as_str().unwrap().starts_with("whsec_"));

    let shown = bed.get(&path, &key).await;
    let mut without_secret = created.body.clone();
    without_secret.as_object_mut().unwrap().remove("secret");
    assert_eq!(shown.body, without_secret);
    assert_eq!(shown.header("etag"), created.header("etag"));
    assert_eq!(shown.header("etag"), format!("\"{}\"", shown.body["version"]));

    let changed = bed
        .send("PATCH", &path, &key, r#"{"project_id":null,"events":["*"]}"#)
        .await;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_eq!(
        (&changed.body["project_id"], &changed.body["events"]),
        (&Value::Null, &json!(["*"]))
    );
    assert_eq!(changed.body["url"], URL);
    assert_ne!(changed.header("etag"), shown.header("etag"));

    let disabled = bed.post(&format!("{path}/disable"), &key, "").await;
    assert_eq!(
        (&disabled.body["enabled"], &disabled.body["disabled_reason"]),
        (&json!(false), &json!("manual"))
    );
    let enabled = bed.post(&format!("{path}/enable"), &key, "").await;
    assert_eq!(
        (&enabled.body["enabled"], &enabled.body["disabled_reason"]),
        (&json!(true), &Value::Null)
    );

    assert_eq!(bed.send("DELETE", &path, &key, "").await.status, 204);
    for (method, path) in [
        ("GET", path.clone()),
        ("DELETE", path.clone()),
        ("POST", format!("{path}/enable")),
    ] {
        assert_eq!(
            bed.send(method, &path, &key, "").await.status,
            404,
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn a_secret_is_rotated_with_and_without_an_overlap() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "admin").await;
    let created = bed.endpoint("org_1").await;
    let path = format!("/v1/endpoints/{}/rotate-secret", created["id"].as_str().unwrap());
    let rotated = bed
        .ask(request("POST", &path, &key).body(Body::empty()).unwrap())
        .await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    assert_ne!(rotated.body["secret"], created["secret"]);
    let day_ms = 24 * 60 * 60 * 1000;
    let until_ms = rotated.body["old_secret_until_ms"].as_i64().unwrap();
    assert_eq!(until_ms - rotated.body["updated_at_ms"].as_i64().unwrap(), day_ms);
    let refused = bed.post(&path, &key, "{}").await;
    assert_eq!(refused.problem(), "conflict");
    assert!(
        refused.body["detail"].as_str().unwrap().contains("revoke_now"),
        "{refused:?}"
    );

    let given = "whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
    let how = json!({ "secret": given, "revoke_now": true });
    let revoked = bed.post(&path, &key, &how.to_string()).await;
    assert_eq!(
        (&revoked.body["secret"], &revoked.body["old_secret_until_ms"]),
        (&json!(given), &Value::Null)
    );

    let bad = json!({ "secret": "whsec_hunter2", "revoke_now": true, "overlap_s": 0 });
    let refused = bed.post(&path, &key, &bad.to_string()).await;
    let pointers: Vec<_> = refused.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["pointer"].clone())
        .collect();
    assert_eq!(pointers, ["/secret", "/overlap_s", "/revoke_now"]);
    assert!(!refused.body.to_string().contains("hunter2"), "{refused:?}");
}

#[tokio::test]
async fn endpoints_are_listed_a_page_at_a_time_and_only_ones_own() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "endpoints:read").await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(bed.endpoint("org_1").await["id"].as_str().unwrap().to_owned());
        bed.endpoint("org_2").await;
    }
    ids.sort();
    let (mut listed, mut cursor) = (Vec::new(), String::new());
    let mut sizes = Vec::new();
    loop {
        let page = bed.get(&format!("/v1/endpoints?limit=2{cursor}"), &key).await;
        let data = page.body["data"].as_array().unwrap();
        sizes.push(data.len());
        listed.extend(
            data.iter()
                .map(|endpoint| endpoint["id"].as_str().unwrap().to_owned()),
        );
        assert!(data.iter().all(|endpoint| endpoint.get("secret").is_none()));
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!((listed, sizes), (ids, vec![2, 2, 1]));
}

#[tokio::test]
async fn a_write_of_another_version_changes_nothing() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "admin").await;
    let created = bed.endpoint("org_1").await;
    let id = created["id"].as_str().unwrap();
    let path = format!("/v1/endpoints/{id}");
    let stale = format!("\"{}\"", created["version"]);
    let first = write(&bed, "PATCH", &path, &key, &stale, r#"{"events":["lead.*"]}"#).await;
    assert_eq!(first.status, 200, "{first:?}");
    for (method, path, json) in [
        ("PATCH", path.clone(), r#"{"events":["*"]}"#),
        ("DELETE", path.clone(), ""),
        ("POST", format!("{path}/enable"), ""),
        ("POST", format!("{path}/disable"), ""),
        ("POST", format!("{path}/rotate-secret"), "{}"),
    ] {
        let refused = write(&bed, method, &path, &key, &stale, json).await;
        assert_eq!(
            refused.problem(),
            "version-mismatch",
            "{method} {path}: {refused:?}"
        );
    }
    assert_eq!(bed.get(&path, &key).await.body, first.body);
    let any = write(&bed, "PATCH", &path, &key, "*", r#"{"events":["*"]}"#).await;
    assert_eq!(any.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_writes_that_race_for_one_version_one_wins() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "admin").await;
    let created = bed.endpoint("org_1").await;
    let path = format!("/v1/endpoints/{}", created["id"].as_str().unwrap());
    let version = format!("\"{}\"", created["version"]);
    let patterns = [
        "lead.*",
        "research.*",
        "magnet.*",
        "lead.created",
        "lead.failed",
        "magnet.viewed",
        "*",
        "lead.completed",
    ];
    let writes = patterns.map(|pattern| {
        let json = json!({ "events": [pattern] }).to_string();
        let (bed, path, key, version) = (&bed, &path, &key, &version);
        async move { write(bed, "PATCH", path, key, version, &json).await }
    });
    let answers = futures_util::future::join_all(writes).await;
    let won: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(won.len(), 1, "{answers:#?}");
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == 200 || answer.status == 412)
    );
    assert_eq!(bed.get(&path, &key).await.body, won[0].body);
}

#[tokio::test]
async fn a_url_that_may_not_be_reached_is_refused_without_our_settings() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "admin").await;
    let created = bed.endpoint("org_1").await;
    let path = format!("/v1/endpoints/{}", created["id"].as_str().unwrap());
    for url in [
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://[::ffff:10.0.0.1]/",
        "http://169.254.169.254/latest/meta-data",
        "ftp://93.184.216.34/",
        "https://user:hunter2@93.184.216.34/",
        "https://93.184.216.34/#fragment",
        "not a url",
        &format!("https://93.184.216.34/{}", "a".repeat(2048)),
    ] {
        let json = json!({ "url": url }).to_string();
        for refused in [
            bed.post("/v1/endpoints", &key, &json).await,
            bed.send("PATCH", &path, &key, &json).await,
        ] {
            assert_eq!(refused.problem(), "invalid-fields", "{url}: {refused:?}");
            assert_eq!(refused.body["errors"][0]["pointer"], "/url");
            let text = refused.body.to_string();
            for word in ["egress", "MAGNETITE", "hunter2", "meta-data"] {
                assert!(!text.contains(word), "{url}: {text}");
            }
        }
    }
    assert_eq!(
        bed.get("/v1/endpoints", &key).await.body["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn what_was_changed_stands_in_the_log_with_the_key_that_did_it() {
    let bed = Bed::new().await;
    let (key, row) = bed.key_row("org_1", "admin", None).await;
    let created = bed
        .post("/v1/endpoints", &key, &json!({ "url": URL }).to_string())
        .await;
    let id = created.body["id"].as_str().unwrap();
    bed.post(&format!("/v1/endpoints/{id}/disable"), &key, "").await;
    let changes = bed.context.store.changes(None, None, 2).await.unwrap();
    let told: Vec<_> = changes
        .iter()
        .map(|change| {
            (
                change.kind.as_str(),
                change.subject.as_str(),
                change.actor.as_str(),
            )
        })
        .collect();
    let actor = row.id.as_str();
    assert_eq!(
        told,
        [("endpoint.disabled", id, actor), ("endpoint.created", id, actor)]
    );
    let found = bed.context.store.endpoint(&EndpointId::new(id)).await.unwrap();
    assert!(matches!(found, store::Lookup::Found(endpoint) if endpoint.disabled.is_some()));
}

#[tokio::test]
async fn an_organization_at_its_limit_is_told_so_and_no_other_is() {
    let config = Config {
        endpoints_per_organization_max: 2,
        ..Config::default()
    };
    let bed = Bed::with(config, routes::all()).await;
    let (key, other) = (
        bed.key("org_1", "endpoints:write").await,
        bed.key("org_2", "endpoints:write").await,
    );
    let new = json!({ "url": URL }).to_string();
    let mut created = Vec::new();
    for _ in 0..2 {
        let answer = bed.post("/v1/endpoints", &key, &new).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        created.push(answer.body["id"].as_str().unwrap().to_owned());
    }
    let refused = bed.post("/v1/endpoints", &key, &new).await;
    assert_eq!(
        (refused.status.as_u16(), refused.problem()),
        (409, "too-many-endpoints")
    );
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("already has 2 endpoints"), "{detail}");
    assert_eq!(bed.post("/v1/endpoints", &other, &new).await.status, 201);
    let path = format!("/v1/endpoints/{}", created[0]);
    assert_eq!(bed.send("DELETE", &path, &key, "").await.status, 204);
    assert_eq!(bed.post("/v1/endpoints", &key, &new).await.status, 201);
}
