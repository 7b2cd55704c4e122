//! Tests of platform keys: the organization that a request names, lists of all organizations, and publishing
//! for several.

use axum::{
    body::Body,
    http::{HeaderValue, header},
};
use runtime::now_ms;
use serde_json::{Value, json};

use crate::caller::ORGANIZATION;

use super::bed::{Answer, Bed, request};

/// Sends a request for the list of endpoints with these values of the header.
async fn list_with(bed: &Bed, key: &str, named: &[&[u8]]) -> Answer {
    let mut request = request("GET", "/v1/endpoints", key);
    for value in named {
        request = request.header(ORGANIZATION, HeaderValue::from_bytes(value).unwrap());
    }
    bed.ask(request.body(Body::empty()).unwrap()).await
}

/// Returns the ids of a list, read page by page, two items at a time.
async fn paged(bed: &Bed, path: &str, organization: Option<&str>, key: &str) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("{path}?limit=2{cursor}");
        let page = match organization {
            Some(organization) => bed.send_for(organization, "GET", &path, key, "").await,
            None => bed.get(&path, key).await,
        };
        assert_eq!(page.status, 200, "{path}: {page:?}");
        let data = page.body["data"].as_array().unwrap().iter();
        ids.extend(data.map(|item| {
            let id = item.get("id").or_else(|| item.get("subject")).unwrap();
            id.as_str().unwrap().to_owned()
        }));
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return ids,
        }
    }
}

const LISTS: [&str; 5] = [
    "/v1/endpoints",
    "/v1/events",
    "/v1/deliveries",
    "/v1/changes",
    "/v1/api-keys",
];

#[tokio::test]
async fn the_header_names_one_organization_by_its_exact_id() {
    let bed = Bed::new().await;
    let key = bed.platform_key("endpoints:read").await;
    let id = bed.endpoint("org_1").await["id"].as_str().unwrap().to_owned();
    let unicode = bed.endpoint("Größe 日本").await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let ids = |answer: &Answer| {
        let data = answer.body["data"].as_array().unwrap().iter();
        data.map(|endpoint| endpoint["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for (name, found) in [
        ("org_1", vec![id.clone()]),
        (" org_1 ", vec![id]),
        ("Größe 日本", vec![unicode]),
        ("ORG_1", vec![]),
        ("org_1%20", vec![]),
        ("*", vec![]),
    ] {
        let listed = list_with(&bed, &key, &[name.as_bytes()]).await;
        assert_eq!(ids(&listed), found, "{name}");
    }
    let twice: [[&[u8]; 2]; 3] = [[b"org_1", b"org_1"], [b"org_1", b"org_2"], [b"", b"org_1"]];
    for named in twice {
        let refused = list_with(&bed, &key, &named).await;
        assert_eq!(refused.status, 422, "{refused:?}");
        assert_eq!(refused.body["errors"][0]["parameter"], ORGANIZATION);
    }
}

#[tokio::test]
async fn lists_of_all_organizations_are_paged_and_every_other_list_is_a_part_of_them() {
    let bed = Bed::new().await;
    let key = bed.platform_key("admin").await;
    for organization in ["org_1", "org_2", "org_1", "org_2", "org_2"] {
        bed.things(organization).await;
    }
    for path in LISTS {
        let mut all = paged(&bed, path, None, &key).await;
        let mut parts = paged(&bed, path, Some("org_1"), &key).await;
        let first = parts.len();
        parts.extend(paged(&bed, path, Some("org_2"), &key).await);
        assert!(first >= 2 && parts.len() >= first + 2, "{path}: {parts:?}");
        // The platform key belongs to neither of them.
        all.retain(|id| parts.contains(id));
        all.sort();
        parts.sort();
        assert_eq!(all, parts, "{path}");
    }
}

/// A cursor is a position. What a list contains depends on the request alone.
#[tokio::test]
async fn a_cursor_of_another_organization_shows_nothing_of_it() {
    let bed = Bed::new().await;
    let (platform, key) = (bed.platform_key("admin").await, bed.key("org_2", "admin").await);
    for organization in ["org_1", "org_2", "org_1", "org_2"] {
        bed.things(organization).await;
    }
    for path in LISTS {
        let foreign = paged(&bed, path, Some("org_1"), &platform).await;
        let first = format!("{path}?limit=1");
        for page in [
            bed.get(&first, &platform).await,
            bed.send_for("org_1", "GET", &first, &platform, "").await,
        ] {
            let cursor = page.body["next_cursor"].as_str().unwrap();
            let next = format!("{path}?cursor={cursor}");
            for listed in [
                bed.get(&next, &key).await,
                bed.send_for("org_2", "GET", &next, &platform, "").await,
            ] {
                assert_eq!(listed.status, 200, "{path}: {listed:?}");
                let text = listed.body.to_string();
                assert!(!foreign.iter().any(|id| text.contains(id)), "{path}: {text}");
            }
            assert_eq!(bed.get(&next, &platform).await.status, 200, "{path}");
        }
    }
}

fn event(organization: &str) -> Value {
    json!({
        "event": "lead.completed", "timestamp": 1_703_123_456_789_u64,
        "organization_id": organization, "project_id": "proj_1", "lead_id": "lead_1", "data": {}
    })
}

#[tokio::test]
async fn a_batch_of_several_organizations_is_published_unless_the_request_names_one() {
    let bed = Bed::new().await;
    let key = bed.platform_key("events:write").await;
    let both = json!([event("org_1"), event("org_2")]).to_string();
    let (path, own) = ("/v1/events/batch", json!([event("org_1")]).to_string());
    // These are valid. There is no broker in these tests.
    for taken in [
        bed.post(path, &key, &both).await,
        bed.send_for("org_1", "POST", path, &key, &own).await,
    ] {
        assert_eq!(taken.problem(), "broker-unavailable", "{taken:?}");
    }
    for (organization, foreign) in [
        ("org_1", &["/1/organization_id"][..]),
        ("org_2", &["/0/organization_id"]),
        ("org_3", &["/0/organization_id", "/1/organization_id"]),
    ] {
        let refused = bed.send_for(organization, "POST", path, &key, &both).await;
        assert_eq!(refused.problem(), "other-organization", "{refused:?}");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(
            detail.contains(organization) && detail.contains(ORGANIZATION),
            "{detail}"
        );
        let errors = refused.body["errors"].as_array().unwrap().iter();
        let pointers: Vec<_> = errors.map(|error| error["pointer"].as_str().unwrap()).collect();
        assert_eq!(pointers, foreign, "{organization}");
    }
    let invalid = json!([event("org_1"), event("")]).to_string();
    let refused = bed.post(path, &key, &invalid).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.body["errors"][0]["pointer"]),
        (422, &json!("/1/organization_id"))
    );
}

#[tokio::test]
async fn a_platform_key_changes_one_version_and_the_log_names_both_key_and_organization() {
    let bed = Bed::new().await;
    let (key, row) = bed.platform_key_row("admin").await;
    let created = bed.endpoint("org_1").await;
    let path = format!("/v1/endpoints/{}", created["id"].as_str().unwrap());
    let write = async |organization: &str, version: &Value| {
        let request = request("PATCH", &path, &key)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::IF_MATCH, format!("\"{version}\""))
            .header(ORGANIZATION, organization);
        bed.ask(request.body(Body::from(r#"{"events":["lead.*"]}"#)).unwrap())
            .await
    };
    assert_eq!(write("org_2", &created["version"]).await.status, 404);
    let changed = write("org_1", &created["version"]).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_ne!(changed.body["version"], created["version"]);
    assert_eq!(write("org_1", &created["version"]).await.status, 412);

    let listed = bed.get("/v1/changes?limit=1", &key).await;
    let newest = &listed.body["data"][0];
    assert_eq!(
        [&newest["actor"], &newest["kind"], &newest["organization_id"]],
        [&json!(row.id), &json!("endpoint.updated"), &json!("org_1")]
    );
    let all = bed.get("/v1/changes", &key).await;
    let mut changes = all.body["data"].as_array().unwrap().iter();
    let of_key = changes.find(|change| change["subject"] == json!(row.id));
    assert_eq!(of_key.unwrap()["organization_id"], Value::Null);
}

#[tokio::test]
async fn a_revoked_platform_key_is_refused_whatever_it_names() {
    let bed = Bed::new().await;
    let (key, row) = bed.platform_key_row("admin").await;
    bed.context.store.revoke_api_key(&row.id, now_ms()).await.unwrap();
    let all_ways: [&[&[u8]]; 3] = [&[], &[b"org_1"], &[b""]];
    for named in all_ways {
        let refused = list_with(&bed, &key, named).await;
        assert_eq!(refused.problem(), "unauthorized", "{refused:?}");
    }
}
