//! Tests what the client sends, and how it reads lists.

use std::time::Duration;

use client::{
    Client, CreateApiKey, CreateEndpoint, Error, Event, ListEndpoints, OldSecret, OrganizationId,
    RotateSecret, Scope, Secret, UpdateEndpoint,
};
use futures_util::TryStreamExt as _;

use crate::server::{Reply, Server, builder, key};

const ENDPOINT: &str = r#"{"id":"ep_1","organization_id":"org_1","project_id":null,"url":"https://example.com","events":["*"],
    "enabled":true,"disabled_reason":null,"disabled_at_ms":null,"old_secret_until_ms":null,"version":17,
    "created_at_ms":1,"updated_at_ms":2}"#;

fn page(next: &str) -> Reply {
    Reply::json(
        200,
        &format!(r#"{{"data":[{ENDPOINT},{ENDPOINT}],"next_cursor":{next}}}"#),
    )
}

/// Returns the headers and the body of a request.
fn parts(request: &str) -> (Vec<&str>, &str) {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    (head.lines().collect(), body)
}

#[tokio::test]
async fn a_request_has_the_key_the_organization_and_the_path_of_the_url() {
    let server = Server::start(vec![Reply::json(200, ENDPOINT)]).await;
    let url = format!("{}/webhooks/", server.url());
    let client = builder(&url)
        .organization(OrganizationId::new("org_1"))
        .build()
        .unwrap();
    let change = UpdateEndpoint {
        events: Some(vec!["lead.*".to_owned()]),
        ..UpdateEndpoint::default()
    };
    let endpoint = client.update_endpoint("ep_1", &change, Some(17)).await.unwrap();
    assert_eq!((endpoint.id.as_str(), endpoint.version), ("ep_1", 17));
    let two = client.for_organization(OrganizationId::new("Ö 2"));
    two.get_endpoint("ep_1").await.unwrap();

    let requests = server.requests();
    let (headers, body) = parts(&requests[0]);
    assert_eq!(headers[0], "PATCH /webhooks/v1/endpoints/ep_1 HTTP/1.1");
    assert_eq!(body, r#"{"events":["lead.*"]}"#);
    for expected in [
        "magnetite-organization: org_1",
        "if-match: \"17\"",
        "content-type: application/json",
        concat!("user-agent: magnetite-client/", env!("CARGO_PKG_VERSION")),
        &format!("authorization: Bearer {}", key().expose()),
    ] {
        assert!(headers.contains(&expected), "{expected}: {headers:?}");
    }
    let (headers, body) = parts(&requests[1]);
    assert_eq!(headers[0], "GET /webhooks/v1/endpoints/ep_1 HTTP/1.1");
    assert!(headers.contains(&"magnetite-organization: Ö 2"), "{headers:?}");
    assert!(
        !requests[1].contains("if-match") && body.is_empty(),
        "{headers:?}"
    );
}

#[tokio::test]
async fn a_proxy_is_sent_the_whole_url_and_its_own_password() {
    let proxy = Server::start(vec![Reply::json(200, ENDPOINT)]).await;
    let url = proxy.url().replace("http://", "http://me:hunter2@");
    let client = builder("http://api.example").proxy(url).build().unwrap();
    client.get_endpoint("ep_1").await.unwrap();
    let requests = proxy.requests();
    let (headers, _) = parts(&requests[0]);
    assert_eq!(headers[0], "GET http://api.example/v1/endpoints/ep_1 HTTP/1.1");
    for expected in [
        "host: api.example",
        "proxy-authorization: Basic bWU6aHVudGVyMg==",
        &format!("authorization: Bearer {}", key().expose()),
    ] {
        assert!(headers.contains(&expected), "{expected}: {headers:?}");
    }
}

#[tokio::test]
async fn a_secret_is_replaced_as_requested() {
    let server = Server::start(vec![Reply::json(200, ENDPOINT)]).await;
    let client = server.client();
    let secret = Secret::generate([7; 32]);
    for (how, body) in [
        (RotateSecret::default(), r#"{"revoke_now":false}"#.to_owned()),
        (
            RotateSecret {
                secret: Some(secret.clone()),
                old: OldSecret::ValidFor(Duration::from_mins(1)),
            },
            format!(
                r#"{{"secret":"{}","overlap_s":60,"revoke_now":false}}"#,
                secret.expose()
            ),
        ),
        (
            RotateSecret {
                secret: None,
                old: OldSecret::Revoked,
            },
            r#"{"revoke_now":true}"#.to_owned(),
        ),
    ] {
        client.rotate_endpoint_secret("ep_1", &how, None).await.unwrap();
        let requests = server.requests();
        assert_eq!(parts(requests.last().unwrap()).1, body);
    }
}

#[tokio::test]
async fn a_key_is_created_as_requested() {
    const KEY: &str = r#"{"id":"key_1","key":"mgk_hunter2","prefix":"mgk_hunter","organization_id":"org_1",
        "name":"lead form","scopes":["events:write"],"created_at_ms":1,"expires_at_ms":null,
        "last_used_at_ms":null,"revoked_at_ms":null}"#;
    let server = Server::start(vec![Reply::json(201, KEY)]).await;
    let new = CreateApiKey::new("lead form", [Scope::EventsWrite, Scope::EndpointsRead]);
    let for_a_minute = CreateApiKey {
        expires_in: Some(Duration::from_mins(1)),
        ..new.clone()
    };
    let scopes = r#""name":"lead form","scopes":["events:write","endpoints:read"]"#;
    for (new, body) in [
        (new, format!("{{{scopes}}}")),
        (for_a_minute, format!("{{{scopes},\"expires_in_s\":60}}")),
    ] {
        let created = server.client().create_api_key(&new).await.unwrap();
        let requests = server.requests();
        assert_eq!(parts(requests.last().unwrap()).1, body);
        assert!(!format!("{created:?}").contains("mgk_hunter2"), "{created:?}");
        assert_eq!(created.key.unwrap().0, "mgk_hunter2");
    }
}

#[tokio::test]
async fn a_batch_is_the_text_of_its_events() {
    let server = Server::start(vec![Reply::json(202, r#"{"ids":["evt_1","evt_2"]}"#)]).await;
    let client = server.client();
    let events = [Event::from_json(" {\"a\": 1.0}\n"), Event::from_json("{}")];
    let published = client.publish_events(&events).await.unwrap();
    assert_eq!(published.ids, ["evt_1", "evt_2"]);
    assert_eq!(parts(&server.requests()[0]).1, "[{\"a\": 1.0},{}]");

    let [one, two] = events;
    for bad in [
        vec![one.clone(), Event::from_json("{},{}")],
        vec![one.clone(), Event::from_json("")],
        vec![one.clone(), two.clone().with_id(two.id())],
        vec![one, two.with_traceparent("00-1")],
    ] {
        let error = client.publish_events(&bad).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().contains("event 1 of the batch"), "{error}");
    }
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_sent_is_not_sent() {
    let server = Server::start(vec![Reply::json(200, ENDPOINT)]).await;
    let client = server.client();
    let bad = Event::from_json("{}").with_id(client::EventId::new("a b"));
    assert!(client.publish_event(&bad).await.is_err());
    assert!(client.get_endpoint("../event-types").await.is_err());
    let fraction = Duration::from_millis(1500);
    let how = RotateSecret {
        secret: None,
        old: OldSecret::ValidFor(fraction),
    };
    assert!(client.rotate_endpoint_secret("ep_1", &how, None).await.is_err());
    let new = CreateApiKey {
        expires_in: Some(fraction),
        ..CreateApiKey::new("lead form", [Scope::Admin])
    };
    let error = client.create_api_key(&new).await.unwrap_err();
    assert!(error.to_string().contains("a whole number of seconds"), "{error}");
    for organization in ["", "a\r\nb", " a", "a ", "a,b", &"x".repeat(256)] {
        let organization = OrganizationId::new(organization);
        assert!(!Client::can_name(&organization), "{organization}");
        let of = client.for_organization(organization);
        let error = of
            .create_endpoint(&CreateEndpoint::new("https://example.com"))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn a_stream_reads_a_page_when_it_is_needed_and_ends_with_the_last() {
    let server = Server::start(vec![page("\"a&b\""), page("\"c\""), page("null")]).await;
    let which = ListEndpoints {
        failing: true,
        limit: Some(2),
        cursor: None,
    };
    let mut endpoints = server.client().all_endpoints(which);
    for (item, requests) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3)] {
        assert!(endpoints.try_next().await.unwrap().is_some(), "{item}");
        assert_eq!(server.requests().len(), requests, "{item}");
    }
    assert_eq!(endpoints.try_next().await.unwrap(), None);
    let requests = server.requests();
    let paths: Vec<_> = requests.iter().map(|request| parts(request).0[0]).collect();
    assert_eq!(
        paths,
        [
            "GET /v1/endpoints?failing=true&limit=2 HTTP/1.1",
            "GET /v1/endpoints?failing=true&limit=2&cursor=a%26b HTTP/1.1",
            "GET /v1/endpoints?failing=true&limit=2&cursor=c HTTP/1.1",
        ]
    );
}

/// A server may filter a page after it was read.
#[tokio::test]
async fn an_empty_page_is_not_the_end() {
    let empty = Reply::json(200, r#"{"data":[],"next_cursor":"a"}"#);
    let server = Server::start(vec![empty.clone(), page("null")]).await;
    let all = server.client().all_endpoints(ListEndpoints::default());
    assert_eq!(all.try_collect::<Vec<_>>().await.unwrap().len(), 2);
    let server = Server::start(vec![empty]).await;
    let listed = server.client().list_endpoints(&ListEndpoints::default()).await;
    assert_eq!(listed.unwrap().next_cursor.as_deref(), Some("a"));
}
