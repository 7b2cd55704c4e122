//! Tests answers that are not what the API would answer.

use std::time::{Duration, Instant};

use client::{Error, Event, ListEndpoints, TailEvents, TailLine};
use futures_util::TryStreamExt as _;

use crate::server::{Reply, Server, builder};

#[tokio::test]
async fn an_endless_body_is_read_up_to_its_bound() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n".to_vec();
    let server = Server::start(vec![Reply::Endless(head)]).await;
    let client = builder(server.url())
        .timeout(Duration::from_mins(1))
        .build()
        .unwrap();
    let error = client.get_endpoint("ep_1").await.unwrap_err();
    assert!(matches!(error, Error::Unreadable { status: 200, .. }), "{error}");
    assert!(error.to_string().contains("more than 67108864 bytes"), "{error}");
    assert_eq!(server.requests().len(), 1, "it is not read again");
}

#[tokio::test]
async fn of_an_endless_error_only_the_beginning_is_read() {
    let head = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\n\r\n{\"type\":".to_vec();
    let server = Server::start(vec![Reply::Endless(head)]).await;
    let error = server.client().get_endpoint("ep_1").await.unwrap_err();
    let Error::Unexpected {
        status: 404, excerpt, ..
    } = &error
    else {
        panic!("{error}")
    };
    assert!(excerpt.starts_with("{\\\"type\\\":   "), "{excerpt}");
    assert!(!error.may_have_been_carried_out());
}

#[tokio::test]
async fn a_body_that_never_ends_is_left_after_the_timeout() {
    let head = b"HTTP/1.1 202 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{".to_vec();
    let server = Server::start(vec![Reply::Stall(head)]).await;
    let retries = client::Retries::none();
    let client = builder(server.url())
        .timeout(Duration::from_millis(300))
        .retries(retries)
        .build()
        .unwrap();
    let began = Instant::now();
    let error = client.publish_event(&Event::from_json("{}")).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert!(error.may_have_been_carried_out());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_body_that_is_cut_is_read_again() {
    let cut =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"data\":".to_vec();
    let whole = Reply::json(200, r#"{"data":[],"next_cursor":null}"#);
    let server = Server::start(vec![Reply::Bytes(cut.clone()), whole]).await;
    let listed = server
        .client()
        .list_endpoints(&ListEndpoints::default())
        .await
        .unwrap();
    assert!(listed.data.is_empty());
    let server = Server::start(vec![Reply::Bytes(cut)]).await;
    let error = server
        .client()
        .list_endpoints(&ListEndpoints::default())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
    assert_eq!((error.call().tries, server.requests().len()), (3, 3));
}

#[tokio::test]
async fn what_is_no_http_is_an_error() {
    let server = Server::start(vec![Reply::Bytes(b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec())]).await;
    let error = server.client().get_endpoint("ep_1").await.unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
}

#[tokio::test]
async fn the_page_of_a_proxy_is_told_from_an_answer_of_the_api() {
    let page = "<html>\u{1b}[2J<h1>Bad \"Gateway\"</h1>";
    for (status, tries) in [(200, 1), (403, 1), (502, 3)] {
        let server = Server::start(vec![Reply::with(status, "text/html", "", page)]).await;
        let error = server.client().get_endpoint("ep_1").await.unwrap_err();
        assert!(matches!(error, Error::Unexpected { .. }), "{error:?}");
        assert_eq!(server.requests().len(), tries, "{status}");
        let text = error.to_string();
        assert!(text.contains(&format!("status {status}")), "{text}");
        assert!(
            text.contains("<html>\\u{1b}[2J<h1>Bad \\\"Gateway\\\"</h1>"),
            "{text}"
        );
    }
}

/// Otherwise, the key would be sent to another server.
#[tokio::test]
async fn redirects_are_not_followed() {
    let other = Server::start(vec![Reply::json(200, "{}")]).await;
    for status in [301, 302, 307, 308] {
        let location = format!("location: {}/v1/endpoints/ep_1\r\n", other.url());
        let server = Server::start(vec![Reply::with(status, "text/plain", &location, "")]).await;
        let error = server.client().get_endpoint("ep_1").await.unwrap_err();
        let Error::Unexpected { status: answered, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(answered, status);
    }
    assert_eq!(other.requests().len(), 0);
}

#[tokio::test]
async fn a_list_that_leads_nowhere_ends() {
    let same = Reply::json(200, r#"{"data":[],"next_cursor":"a"}"#);
    let server = Server::start(vec![same]).await;
    let mut endpoints = server.client().all_endpoints(ListEndpoints::default());
    let error = endpoints.try_next().await.unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }), "{error}");
    assert!(endpoints.try_next().await.unwrap().is_none());
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_list_of_empty_pages_ends() {
    let page = |next: u32| Reply::json(200, &format!(r#"{{"data":[],"next_cursor":"{next}"}}"#));
    let server = Server::start((0..=1000).map(page).collect()).await;
    let mut endpoints = server.client().all_endpoints(ListEndpoints::default());
    let error = endpoints.try_next().await.unwrap_err();
    assert!(error.to_string().contains("as are the 1000 before it"), "{error}");
    assert!(endpoints.try_next().await.unwrap().is_none());
    assert_eq!(server.requests().len(), 1001);
}

/// Returns the lines of a stream whose body consists of two lines and this, and how it ends.
async fn streamed(more: &str, is_cut: bool) -> (Vec<TailLine>, Result<(), Error>) {
    let body = format!(
        "{{\"kind\":\"watching\",\"at_ms\":1}}\n\n{{\"kind\":\"dropped\",\"at_ms\":2,\"count\":3}}\n{more}"
    );
    let length = body.len() + usize::from(is_cut);
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncontent-length: {length}\r\n\r\n");
    let server = Server::start(vec![Reply::Bytes(format!("{head}{body}").into_bytes())]).await;
    let mut stream = server.client().tail_events(&TailEvents::default()).await.unwrap();
    let mut lines = Vec::new();
    loop {
        match stream.try_next().await {
            Ok(Some(line)) => lines.push(line),
            Ok(None) => return (lines, Ok(())),
            Err(error) => return (lines, Err(error)),
        }
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_body_and_otherwise_with_an_error() {
    let expected = [
        TailLine::Watching { at_ms: 1 },
        TailLine::Dropped { at_ms: 2, count: 3 },
    ];
    let (lines, end) = streamed("", false).await;
    assert_eq!(lines, expected);
    assert!(end.is_ok(), "{end:?}");
    let (lines, end) = streamed("", true).await;
    assert_eq!(lines, expected);
    assert!(matches!(end, Err(Error::Broken { .. })), "{end:?}");
    for unreadable in [r#"{"kind":7}"#, r#"{"kind":"dropped","at_ms":2}"#, "{}", "7"] {
        let (lines, end) = streamed(&format!("{unreadable}\n"), false).await;
        assert_eq!(lines, expected);
        assert!(
            matches!(end, Err(Error::Unreadable { .. })),
            "{unreadable}: {end:?}"
        );
    }
}

#[tokio::test]
async fn a_stream_leaves_out_lines_of_a_kind_that_a_later_version_adds() {
    let more = "{\"kind\":\"molten\",\"at_ms\":[4]}\n{\"kind\":\"watching\",\"at_ms\":5}\n";
    let (lines, end) = streamed(more, false).await;
    assert_eq!(lines.last(), Some(&TailLine::Watching { at_ms: 5 }));
    assert_eq!(lines.len(), 3);
    assert!(end.is_ok(), "{end:?}");
}

#[tokio::test]
async fn what_is_no_stream_is_not_read_as_one_and_a_refusal_is_told() {
    let server = Server::start(vec![Reply::json(200, "{}")]).await;
    let opened = server.client().tail_events(&TailEvents::default()).await;
    let error = opened.err().unwrap();
    assert!(matches!(error, Error::Unexpected { status: 200, .. }), "{error}");
    let server = Server::start(vec![Reply::problem(401, "unauthorized")]).await;
    let opened = server.client().tail_events(&TailEvents::default()).await;
    let error = opened.err().unwrap();
    assert_eq!(error.problem().unwrap().name(), "unauthorized");
}
