//! Tests which requests are sent again.

use std::time::{Duration, Instant};

use client::{CreateEndpoint, Error, Event, Retries};
use tokio::net::TcpSocket;

use crate::server::{Reply, Server, builder};

const PUBLISHED: &str = r#"{"id":"evt_1"}"#;

fn new() -> CreateEndpoint {
    CreateEndpoint::new("https://example.com/webhook")
}

#[tokio::test]
async fn an_event_is_published_again_as_the_same_event() {
    let replies = vec![
        Reply::close(),
        Reply::problem(503, "broker-unavailable"),
        Reply::json(202, PUBLISHED),
    ];
    let server = Server::start(replies).await;
    let event = Event::from_json("{\"a\":1}").with_traceparent("00-4bf9");
    let published = server.client().publish_event(&event).await.unwrap();
    assert_eq!(published.id, "evt_1");
    let requests = server.requests();
    let [first, second, third] = &requests[..] else {
        panic!("{requests:?}")
    };
    assert!(first == second && second == third, "{requests:?}");
    for line in [
        format!("idempotency-key: {}\r\n", event.id()),
        "traceparent: 00-4bf9\r\n".to_owned(),
    ] {
        assert!(first.contains(&line), "{first}");
    }
    assert!(first.ends_with("\r\n\r\n{\"a\":1}"), "{first}");
}

#[tokio::test]
async fn an_endpoint_is_created_once() {
    for reply in [
        Reply::close(),
        Reply::problem(503, "database-unavailable"),
        Reply::problem(503, "timed-out"),
        Reply::problem(500, "internal-error"),
        Reply::with(502, "text/html", "", "<html>"),
    ] {
        let server = Server::start(vec![reply]).await;
        let error = server.client().create_endpoint(&new()).await.unwrap_err();
        assert!(error.may_have_been_carried_out(), "{error}");
        assert_eq!(server.requests().len(), 1, "{error}");
    }
}

#[tokio::test]
async fn what_was_certainly_not_done_is_sent_again() {
    for (status, kind) in [(429, "rate-limited"), (503, "overloaded")] {
        let server = Server::start(vec![Reply::problem(status, kind)]).await;
        let error = server.client().create_endpoint(&new()).await.unwrap_err();
        assert_eq!(error.problem().unwrap().name(), kind);
        assert!(!error.may_have_been_carried_out(), "{error}");
        assert_eq!((error.call().tries, server.requests().len()), (3, 3));
    }
}

#[tokio::test]
async fn a_refusal_after_a_lost_answer_says_that_it_may_be_done() {
    let replies = vec![Reply::close(), Reply::problem(412, "version-mismatch")];
    let server = Server::start(replies).await;
    let error = server
        .client()
        .delete_endpoint("ep_1", Some(17))
        .await
        .unwrap_err();
    assert_eq!(error.problem().unwrap().name(), "version-mismatch");
    assert!(error.may_have_been_carried_out(), "{error}");
    let server = Server::start(vec![Reply::problem(412, "version-mismatch")]).await;
    let error = server
        .client()
        .delete_endpoint("ep_1", Some(17))
        .await
        .unwrap_err();
    assert!(!error.may_have_been_carried_out(), "{error}");
}

#[tokio::test]
async fn an_endpoint_that_is_gone_when_the_deletion_is_repeated_was_deleted() {
    let replies = vec![Reply::close(), Reply::problem(404, "not-found")];
    let server = Server::start(replies).await;
    let deleted = server.client().delete_endpoint("ep_1", None).await.unwrap();
    assert_eq!(deleted.workers_behind, ["unknown"]);
    let server = Server::start(vec![Reply::problem(404, "not-found")]).await;
    let error = server.client().delete_endpoint("ep_1", None).await.unwrap_err();
    assert_eq!(error.problem().unwrap().name(), "not-found");
    let behind =
        b"HTTP/1.1 204 No Content\r\nmagnetite-workers-behind: 5f1c, 9a0b\r\nconnection: close\r\n\r\n";
    let server = Server::start(vec![Reply::Bytes(behind.to_vec())]).await;
    let deleted = server.client().delete_endpoint("ep_1", None).await.unwrap();
    assert_eq!(deleted.workers_behind, ["5f1c", "9a0b"]);
    let server = Server::start(vec![Reply::with(200, "text/html", "", "<html>")]).await;
    let error = server.client().delete_endpoint("ep_1", None).await.unwrap_err();
    assert!(matches!(error, Error::Unexpected { status: 200, .. }), "{error}");
}

#[tokio::test]
async fn a_revocation_is_repeated() {
    let key = r#"{"id":"key_1","prefix":"mgk_mCfcS3","organization_id":"org_1","name":"lead form","scopes":["admin"],
        "created_at_ms":1,"expires_at_ms":null,"last_used_at_ms":null,"revoked_at_ms":2}"#;
    let replies = vec![Reply::close(), Reply::json(200, key)];
    let server = Server::start(replies).await;
    let revoked = server.client().revoke_api_key("key_1").await.unwrap();
    assert_eq!((revoked.id.as_str(), revoked.revoked_at_ms), ("key_1", Some(2)));
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert!(
        requests[1].starts_with("DELETE /v1/api-keys/key_1 HTTP/1.1\r\n"),
        "{requests:?}"
    );
}

#[tokio::test]
async fn without_a_connection_nothing_is_done() {
    // Bound, but not listening: connections are refused, and no other process gets the port.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let retries = Retries {
        tries_max: 2,
        ..Retries::default()
    };
    let client = builder(&url).retries(retries).build().unwrap();
    let error = client.create_endpoint(&new()).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert!(!error.may_have_been_carried_out());
    let text = error.to_string();
    assert!(
        text.contains("tried 2 times: no connection: nothing listens at http://127.0.0.1:"),
        "{text}"
    );
    assert!(text.contains("it was not carried out"), "{text}");
}

#[tokio::test]
async fn a_client_that_fails_fast_tries_again_only_after_an_answer() {
    let server = Server::start(vec![Reply::problem(404, "not-found")]).await;
    let retries = Retries {
        tries_max: 2,
        ..Retries::default()
    };
    let builder = |url: &str| builder(url).retries(retries).fail_fast();
    let client = builder(server.url()).build().unwrap();
    let answered = client.get_endpoint("ep_1").await.unwrap_err();
    assert_eq!(answered.problem().unwrap().name(), "not-found");
    let url = server.url().to_owned();
    server.stop().await;
    // The API was there, so it is probably restarting.
    let again = client.get_endpoint("ep_1").await.unwrap_err();
    assert!(
        again.is_connection_refused() && again.call().tries == 2,
        "{again}"
    );
    let client = builder(&url).build().unwrap();
    let first = client.get_endpoint("ep_1").await.unwrap_err();
    assert!(
        first.is_connection_refused() && first.call().tries == 1,
        "{first}"
    );
}

#[tokio::test]
async fn a_longer_wait_than_there_is_time_for_is_not_waited_for() {
    let headers = "retry-after: 60\r\n";
    let server = Server::start(vec![Reply::with(503, "text/plain", headers, "later")]).await;
    let began = Instant::now();
    let error = server
        .client()
        .publish_event(&Event::from_json("{}"))
        .await
        .unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_mins(1)));
    assert_eq!(server.requests().len(), 1);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let headers = "retry-after: 1\r\n";
    let busy = Reply::with(429, "text/plain", headers, "later");
    let server = Server::start(vec![busy, Reply::json(202, PUBLISHED)]).await;
    let began = Instant::now();
    let published = server
        .client()
        .publish_event(&Event::from_json("{}"))
        .await
        .unwrap();
    assert_eq!((published.id.as_str(), server.requests().len()), ("evt_1", 2));
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}
