//! Tests of relays without a broker: opening them, and who may connect.

use axum::{body::Body, http::Request};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    client_async,
    tungstenite::{self, ClientRequestBuilder},
};
use webhook::RELAY_URL;

use crate::config::RELAYS_MAX;

use super::bed::{Answer, Bed, request};

const URL: &str = "https://93.184.216.34/";

/// Returns the id of the endpoint in the response.
fn id(opened: &Answer) -> &str {
    assert_eq!(opened.status, 201, "{opened:?}");
    opened.body["id"].as_str().unwrap()
}

fn connection(id: &str) -> String {
    format!("/v1/relays/{id}/connection")
}

/// Returns a request for a WebSocket with this version and with or without a key, over no connection.
fn upgrade(path: &str, key: &str, version: &str, nonce: Option<&str>) -> Request<Body> {
    let mut request = request("GET", path, key)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", version);
    if let Some(nonce) = nonce {
        request = request.header("sec-websocket-key", nonce);
    }
    request.body(Body::empty()).unwrap()
}

/// Asks for a WebSocket over a real connection. Returns the problem with which it is refused.
async fn refused(bed: &Bed, path: &str, key: &str) -> (u16, Value) {
    let address = bed.served().await;
    let uri = format!("ws://{address}{path}").parse().unwrap();
    let request = ClientRequestBuilder::new(uri).with_header("Authorization", format!("Bearer {key}"));
    let stream = TcpStream::connect(address).await.unwrap();
    let Err(tungstenite::Error::Http(response)) = client_async(request, stream).await else {
        panic!("the connection was upgraded, or lost");
    };
    let problem = response.body().as_deref().unwrap_or_default();
    (
        response.status().as_u16(),
        serde_json::from_slice(problem).unwrap_or_default(),
    )
}

#[tokio::test]
async fn a_key_has_one_relay_which_is_an_endpoint_with_a_secret() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "endpoints:write,endpoints:read").await;
    let body = r#"{"events":["research.*"],"project_id":"proj_1"}"#;
    let first = bed.post("/v1/relays", &key, body).await;
    assert_eq!(first.body["url"], RELAY_URL);
    assert_eq!(first.body["events"], json!(["research.*"]));
    assert_eq!(first.body["project_id"], "proj_1");
    assert!(first.body["secret"].as_str().unwrap().starts_with("whsec_"));
    let second = bed.post("/v1/relays", &key, "{}").await;
    let former = bed.get(&format!("/v1/endpoints/{}", id(&first)), &key).await;
    assert_eq!(former.status, 404, "{former:?}");
    let present = bed.get(&format!("/v1/endpoints/{}", id(&second)), &key).await;
    assert_eq!(present.body["events"], json!(["*"]));
    let other = bed.key("org_1", "endpoints:write").await;
    id(&bed.post("/v1/relays", &other, "{}").await);
    let present = bed.get(&format!("/v1/endpoints/{}", id(&second)), &key).await;
    assert_eq!(present.status, 200, "another key has a relay of its own");
}

#[tokio::test]
async fn a_relay_that_is_opened_again_needs_no_further_room() {
    let config = crate::Config {
        endpoints_per_organization_max: 1,
        ..crate::Config::default()
    };
    let bed = Bed::with(config, crate::routes::all()).await;
    let key = bed.key("org_1", "endpoints:write").await;
    id(&bed.post("/v1/relays", &key, "{}").await);
    id(&bed.post("/v1/relays", &key, "{}").await);
    let other = bed.key("org_1", "endpoints:write").await;
    let full = bed.post("/v1/relays", &other, "{}").await;
    assert_eq!(full.problem(), "too-many-endpoints", "{full:?}");
}

#[tokio::test]
async fn what_is_not_valid_is_named() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "endpoints:write").await;
    for (body, pointer) in [
        (r#"{"events":["lead.complete"]}"#, "/events/0"),
        (r#"{"events":[]}"#, "/events"),
        (r#"{"project_id":""}"#, "/project_id"),
        (r#"{"url":"https://93.184.216.34/"}"#, "/url"),
    ] {
        let refused = bed.post("/v1/relays", &key, body).await;
        assert_eq!(refused.problem(), "invalid-fields", "{body}: {refused:?}");
        assert_eq!(refused.body["errors"][0]["pointer"], pointer, "{body}");
    }
}

#[tokio::test]
async fn nothing_but_opening_a_relay_makes_one_and_a_relay_gets_no_url() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "endpoints:write").await;
    let (relay_url, url) = (
        json!({ "url": RELAY_URL }).to_string(),
        json!({ "url": URL }).to_string(),
    );
    let created = bed.post("/v1/endpoints", &key, &relay_url).await;
    assert_eq!(created.problem(), "invalid-fields", "{created:?}");
    let endpoint = bed.endpoint("org_1").await;
    let opened = bed.post("/v1/relays", &key, "{}").await;
    for (id, json) in [
        (endpoint["id"].as_str().unwrap(), &relay_url),
        (id(&opened), &relay_url),
        (id(&opened), &url),
    ] {
        let changed = bed
            .send("PATCH", &format!("/v1/endpoints/{id}"), &key, json)
            .await;
        assert_eq!(changed.problem(), "invalid-fields", "{json}: {changed:?}");
        assert_eq!(
            changed.body["errors"][0]["pointer"], "/url",
            "{json}: {changed:?}"
        );
    }
    let path = format!("/v1/endpoints/{}", id(&opened));
    let changed = bed.send("PATCH", &path, &key, r#"{"events":["lead.*"]}"#).await;
    assert_eq!(
        (changed.status.as_u16(), &changed.body["url"]),
        (200, &json!(RELAY_URL))
    );
}

#[tokio::test]
async fn a_request_that_is_no_websocket_is_told_to_be_one() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "endpoints:write").await;
    let opened = bed.post("/v1/relays", &key, "{}").await;
    let path = connection(id(&opened));
    let plain = bed.get(&path, &key).await;
    assert_eq!(
        (plain.problem(), plain.header("upgrade")),
        ("upgrade-required", "websocket")
    );
    let old = bed
        .ask(upgrade(&path, &key, "8", Some("AAAAAAAAAAAAAAAAAAAAAA==")))
        .await;
    assert_eq!(
        (old.problem(), old.header("sec-websocket-version")),
        ("upgrade-required", "13")
    );
    let without = bed.ask(upgrade(&path, &key, "13", None)).await;
    assert_eq!(
        (without.problem(), &without.body["errors"][0]["parameter"]),
        ("malformed-request", &json!("Sec-WebSocket-Key"))
    );
    // Whether there is such an endpoint, and who asks, is decided before that.
    assert_eq!(bed.get(&connection("ep_1"), &key).await.problem(), "not-found");
    let foreign = bed.key("org_2", "endpoints:write").await;
    assert_eq!(bed.get(&path, &foreign).await.problem(), "not-found");
    let narrow = bed.key("org_1", "endpoints:read").await;
    assert_eq!(bed.get(&path, &narrow).await.problem(), "insufficient-scope");
}

#[tokio::test]
async fn only_the_key_that_opened_a_relay_connects_to_it() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "endpoints:write").await;
    let opened = bed.post("/v1/relays", &key, "{}").await;
    let path = connection(id(&opened));
    let sibling = bed.key("org_1", "endpoints:write").await;
    let (status, problem) = refused(&bed, &path, &sibling).await;
    assert_eq!(status, 409, "{problem}");
    let (status, problem) = refused(&bed, &path, "mgk_1").await;
    assert_eq!(status, 401, "{problem}");
    let foreign = bed.key("org_2", "endpoints:write").await;
    let (status, problem) = refused(&bed, &path, &foreign).await;
    assert_eq!(status, 404, "{problem}");
    let endpoint = bed.endpoint("org_1").await;
    let (status, problem) = refused(&bed, &connection(endpoint["id"].as_str().unwrap()), &key).await;
    assert_eq!(status, 409, "{problem}");
    id(&bed.post("/v1/relays", &key, "{}").await);
    let (status, problem) = refused(&bed, &path, &key).await;
    assert_eq!(status, 404, "the key's next relay has replaced it: {problem}");
}

#[tokio::test]
async fn without_a_broker_the_program_is_told_to_ask_again_and_takes_no_place() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "endpoints:write").await;
    let opened = bed.post("/v1/relays", &key, "{}").await;
    let (status, problem) = refused(&bed, &connection(id(&opened)), &key).await;
    assert_eq!(
        (status, &problem["type"]),
        (503, &json!("urn:magnetite:problem:broker-unavailable"))
    );
    let detail = problem["detail"].as_str().unwrap();
    assert!(!detail.contains("queue") && !detail.contains("AMQP"), "{detail}");
    assert_eq!(bed.context.relays.free(), RELAYS_MAX);
}
