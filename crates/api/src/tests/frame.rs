//! Tests of what holds for every operation.

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderValue, header},
    routing::get,
};
use futures_util::stream;
use runtime::now_ms;
use store::ApiKeyRow;
use utoipa_axum::router::OpenApiRouter;

use crate::{Config, auth, caller::Caller, routes};

use super::bed::{Bed, request};

#[tokio::test]
async fn what_is_not_there_is_told_from_what_is_not_allowed_there() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "admin").await;
    for path in [
        "/",
        "/v1",
        "/v1/nothing",
        "/v1/endpoints/",
        "/v1/endpoints/ep_1/nothing",
    ] {
        assert_eq!(bed.get(path, &key).await.problem(), "not-found", "{path}");
    }
    for (method, allowed) in [
        ("PUT", "GET, POST"),
        ("OPTIONS", "GET, POST"),
        ("BREW", "GET, POST"),
    ] {
        let answer = bed.send(method, "/v1/endpoints", &key, "{}").await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("allow")),
            (405, allowed),
            "{method}"
        );
    }
    let answer = bed.send("HEAD", "/v1/endpoints", &key, "").await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body),
        (200, &serde_json::Value::Null)
    );
}

#[tokio::test]
async fn an_id_that_nothing_can_have_is_not_found() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "admin").await;
    for id in ["%00", "%FF", "a%2Fb", "%22", "ep_%E2%82%AC", &"a".repeat(129)] {
        let answer = bed.get(&format!("/v1/endpoints/{id}"), &key).await;
        assert_eq!(answer.status, 404, "{id}");
    }
}

#[tokio::test]
async fn the_documentation_is_open_and_complete_in_itself() {
    let bed = Bed::new().await;
    let document = bed.get("/openapi.json", "").await;
    assert_eq!(document.status, 200);
    assert_eq!(document.body, bed.document);
    assert!(document.body["openapi"].as_str().unwrap().starts_with("3.1"));
    let page = bed.get("/docs", "").await;
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-security-policy")
            .contains("default-src 'self'")
    );
    let html = page.body.as_str().unwrap();
    assert!(
        html.contains("/openapi.json") && !html.contains("https://"),
        "{html}"
    );
    for part in html
        .split(['"', '\''])
        .filter(|part| matches!(part.rsplit('.').next(), Some("js" | "css")))
    {
        let path = if part.starts_with('/') {
            part.to_owned()
        } else {
            format!("/docs/{part}")
        };
        assert_eq!(bed.get(&path, "").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn problems_as_they_are_answered() {
    let config = Config {
        rate_per_key: 30,
        body_bytes_max: 2000,
        ..Config::default()
    };
    let bed = Bed::with(config, routes::all()).await;
    let key = bed
        .key("org_1", "endpoints:write,endpoints:read,events:write")
        .await;
    let narrow = bed.key("org_1", "endpoints:read").await;
    let fields = r#"{"url":"https://127.0.0.1/","events":["*","lead.complete"],"project_id":"a\nb"}"#;
    let without_type = request("POST", "/v1/endpoints", &key)
        .body(Body::from("{}"))
        .unwrap();
    let answers = [
        ("no_key", bed.get("/v1/endpoints", "").await),
        ("unknown_key", bed.get("/v1/endpoints", "mgk_1").await),
        ("narrow_key", bed.post("/v1/endpoints", &narrow, "{}").await),
        ("no_such_path", bed.get("/v2", &key).await),
        (
            "no_such_method",
            bed.send("PUT", "/v1/endpoints", &key, "{}").await,
        ),
        ("no_such_endpoint", bed.get("/v1/endpoints/ep_1", &key).await),
        ("no_json", bed.post("/v1/endpoints", &key, "{\"url\":").await),
        ("no_type", bed.ask(without_type).await),
        ("no_field", bed.post("/v1/endpoints", &key, "{}").await),
        (
            "unknown_field",
            bed.post(
                "/v1/endpoints",
                &key,
                r#"{"url":"https://93.184.216.34/","uri":1}"#,
            )
            .await,
        ),
        ("bad_fields", bed.post("/v1/endpoints", &key, fields).await),
        (
            "bad_url",
            bed.post("/v1/endpoints", &key, r#"{"url":"https://127.0.0.1/"}"#)
                .await,
        ),
        (
            "too_large",
            bed.post("/v1/endpoints", &key, &format!("{:3000}", "{}")).await,
        ),
        ("bad_limit", bed.get("/v1/endpoints?limit=101", &key).await),
        ("no_limit", bed.get("/v1/endpoints?limit=x", &key).await),
        ("bad_cursor", bed.get("/v1/endpoints?cursor=x", &key).await),
        ("unknown_parameter", bed.get("/v1/endpoints?page=2", &key).await),
    ];
    for (name, answer) in &answers {
        insta::assert_json_snapshot!(*name, answer.body);
    }
}

#[tokio::test]
async fn a_key_that_asks_too_often_is_told_when_to_come_back_and_others_are_not() {
    let config = Config {
        rate_per_key: 3,
        ..Config::default()
    };
    let bed = Bed::with(config, routes::all()).await;
    let (eager, other) = (bed.key("org_1", "admin").await, bed.key("org_1", "admin").await);
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(bed.get("/v1/endpoints", &eager).await.status.as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 429]);
    let refused = bed.get("/v1/endpoints", &eager).await;
    assert_eq!(
        (refused.problem(), refused.header("retry-after")),
        ("rate-limited", "1")
    );
    assert_eq!(bed.get("/v1/endpoints", &other).await.status, 200);
}

#[tokio::test]
async fn a_key_that_holds_its_share_is_refused_at_once_and_no_other_key_is() {
    let bed = Bed::new().await;
    let (greedy, row) = bed.key_row("org_1", "admin", None).await;
    let others = [bed.key("org_1", "admin").await, bed.key("org_2", "admin").await];
    let caller = Caller::with(row.id.as_str(), Some("org_1"));
    let (slots, arriving) = (bed.context.slots.clone(), bed.context.arriving.clone());
    for (shares, is_refused) in [
        // A request without a body does not wait for a place for its body.
        (slots, ["GET", "POST"].as_slice()),
        (arriving, &["POST"]),
    ] {
        let all: Vec<_> = std::iter::from_fn(|| shares.take(&caller, 1)).collect();
        let ask = |method: &'static str, key: String| {
            let bed = &bed;
            async move {
                match method {
                    "GET" => bed.get("/v1/endpoints", &key).await,
                    _ => bed.post("/v1/endpoints", &key, "{}").await,
                }
            }
        };
        for method in ["GET", "POST"] {
            let answer = ask(method, greedy.clone()).await;
            let refused = (answer.problem(), answer.header("retry-after")) == ("overloaded", "1");
            assert_eq!(refused, is_refused.contains(&method), "{method}: {answer:?}");
            for other in &others {
                let answer = ask(method, other.clone()).await;
                assert_ne!(answer.problem(), "overloaded", "{method}: {answer:?}");
            }
        }
        drop(all);
        assert_ne!(ask("POST", greedy.clone()).await.problem(), "overloaded");
    }
}

#[tokio::test]
async fn a_body_of_no_announced_length_is_bounded_as_well() {
    let config = Config {
        body_bytes_max: 2000,
        ..Config::default()
    };
    let bed = Bed::with(config, routes::all()).await;
    let key = bed.key("org_1", "admin").await;
    let ask = async |chunks: &[&'static str], breaks_off: bool| {
        let mut parts: Vec<_> = chunks.iter().map(|chunk| Ok(*chunk)).collect();
        if breaks_off {
            parts.push(Err(std::io::Error::other("the connection is gone")));
        }
        let body = Body::from_stream(stream::iter(parts));
        let request = request("POST", "/v1/endpoints", &key).header("content-type", "application/json");
        bed.ask(request.body(body).unwrap()).await
    };
    let answer = ask(&["{\"url\":", "\"https://93.184.216.34/\"}"], false).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let spaces = &*" ".repeat(999).leak();
    let answer = ask(&["{", spaces, spaces, "  }"], false).await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (413, "too-large"));
    let answer = ask(&["{"], true).await;
    assert_eq!(
        (answer.status.as_u16(), answer.problem()),
        (400, "malformed-request")
    );
    let (arriving, bytes) = (bed.context.arriving.free(), bed.context.body_bytes.free());
    assert_eq!(arriving, crate::config::ARRIVING_MAX);
    assert_eq!(bytes, bed.context.config.bodies_bytes_max());
}

#[tokio::test]
async fn a_database_that_is_away_is_no_fault_of_the_request_and_keys_are_remembered() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "admin").await;
    assert_eq!(bed.get("/v1/event-types", &key).await.status, 200);
    bed.context.store.close().await;
    let answer = bed.get("/v1/endpoints", &key).await;
    assert_eq!(
        (answer.problem(), answer.header("retry-after")),
        ("database-unavailable", "5")
    );
    let stranger = webhook::ApiKey::generate([1; 32]);
    let answer = bed.get("/v1/event-types", stranger.expose()).await;
    assert_eq!(answer.problem(), "database-unavailable");
    bed.context.keys.forget_what_is_fresh();
    assert_eq!(bed.get("/v1/event-types", &key).await.status, 200);
}

#[tokio::test]
async fn a_stream_outlives_a_database_that_is_away_but_not_its_key() {
    let bed = Bed::new().await;
    let (key, row) = bed.key_row("org_1", "deliveries:read", None).await;
    let bearer: HeaderValue = format!("Bearer {key}").parse().unwrap();
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer)]);
    bed.context.store.close().await;
    assert!(auth::is_still_valid(&bed.context, &row, &headers).await);
    let expired = ApiKeyRow {
        expires_at_ms: Some(now_ms() - 1),
        ..row
    };
    assert!(!auth::is_still_valid(&bed.context, &expired, &headers).await);
}

#[tokio::test]
async fn a_panic_is_a_problem_like_any_other() {
    let handlers: Router<crate::context::Context> = Router::new().route(
        "/docs/panics",
        get(async || -> &'static str { panic!("on purpose") }),
    );
    let bed = Bed::with(Config::default(), OpenApiRouter::from(handlers)).await;
    let answer = bed.get("/docs/panics", "").await;
    assert_eq!(answer.problem(), "internal-error");
    assert!(!answer.body.to_string().contains("on purpose"), "{answer:?}");
}

#[tokio::test]
async fn when_a_key_was_used_is_written_down() {
    let bed = Bed::new().await;
    let (key, row) = bed.key_row("org_1", "admin", None).await;
    assert_eq!(row.last_used_at_ms, None);
    bed.get("/v1/endpoints", &key).await;
    bed.context.keys.note_last_uses().await;
    let hash = webhook::ApiKey::parse(&key).unwrap().hash();
    let row = bed.context.store.api_key_by_hash(&hash).await.unwrap().unwrap();
    assert!(row.last_used_at_ms.is_some(), "{row:?}");
}

#[test]
fn the_document_is_as_it_was() {
    let document = crate::openapi();
    insta::assert_json_snapshot!("openapi", document);
    let operations = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|item| item.as_object().unwrap());
    for (method, operation) in operations {
        let name = &operation["operationId"];
        for field in [
            "operationId",
            "summary",
            "description",
            "tags",
            "security",
            "responses",
        ] {
            assert!(operation.get(field).is_some(), "{method} {name} has no {field}");
        }
    }
}
