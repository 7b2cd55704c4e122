//! Tests the errors of the Rust client: those of the API, and those of the connection to it.

use std::fs;

use client::{ApiKey, Client, CreateEndpoint, Error, ListEndpoints};
use e2e::{Certificates, Receiver};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
};
use tokio_rustls::TlsAcceptor;

use super::{Rig, client, client_of, event, problem};

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_those_of_the_api() {
    let rig = Rig::new("client-errors").await;
    let receiver = Receiver::ok().await;
    let new = CreateEndpoint::new(receiver.url());
    let endpoint = rig.client.create_endpoint(&new).await.unwrap();
    rig.keep_secret(endpoint.secret.as_ref());

    let unknown = client(&rig.api, ApiKey::generate([7; 32]).expose());
    assert_eq!(problem(unknown.list_event_types().await), "unauthorized");
    let key = rig.installation.key("org_2", "endpoints:read").await;
    let other = client(&rig.api, &key);
    assert_eq!(problem(other.get_endpoint(&endpoint.id).await), "not-found");
    assert_eq!(problem(other.create_endpoint(&new).await), "insufficient-scope");
    let error = rig
        .client
        .publish_events(&[event("org_1", "lead_1"), event("org_2", "lead_1")])
        .await
        .unwrap_err();
    let refused = error.problem().unwrap();
    assert_eq!((refused.name(), refused.status), ("other-organization", 403));
    assert_eq!(refused.errors[0].pointer.as_deref(), Some("/1/organization_id"));

    let error = rig
        .client
        .create_endpoint(&CreateEndpoint::new("https://"))
        .await
        .unwrap_err();
    let refused = error.problem().unwrap();
    assert_eq!((refused.name(), refused.status), ("invalid-fields", 422));
    assert_eq!(refused.errors[0].pointer.as_deref(), Some("/url"));
    assert!(!error.may_have_been_carried_out() && !error.is_transient());
    assert!(error.to_string().contains(&refused.instance), "{error}");
    let which = ListEndpoints {
        limit: Some(0),
        ..ListEndpoints::default()
    };
    let error = rig.client.list_endpoints(&which).await.unwrap_err();
    let refused = error.problem().unwrap();
    assert_eq!(refused.name(), "malformed-request");
    assert_eq!(refused.errors[0].parameter.as_deref(), Some("limit"));

    rig.end().await;

    // Bound, but not listening: connections are refused, and no other process gets the port.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let unreachable = client_of(&url, &key);
    let error = unreachable.create_endpoint(&new).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert!(
        !error.may_have_been_carried_out() && error.call().tries == 5,
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_checked_against_the_authorities_that_were_given() {
    let (authority, other) = (Certificates::new(), Certificates::new());
    let directory = tempfile::tempdir().unwrap();
    let pem = |authority: &Certificates| {
        let file = directory.path().join("authority.pem");
        authority.write_pem(&file);
        fs::read(file).unwrap()
    };
    let good = secure(authority.good(&["http/1.1"])).await;
    let foreign = secure(authority.of_another_host()).await;
    for (url, trusted, is_accepted) in [
        (&good, &authority, true),
        (&good, &other, false),
        (&foreign, &authority, false),
    ] {
        let client = Client::builder(url, ApiKey::generate([7; 32]))
            .no_proxy()
            .root_certificates(pem(trusted))
            .build()
            .unwrap();
        let error = client.list_event_types().await.unwrap_err();
        assert_eq!(
            error.to_string().contains("no TLS connection"),
            !is_accepted,
            "{error}"
        );
        match error {
            Error::Unexpected { status: 404, .. } => assert!(is_accepted),
            Error::Connect { call, .. } => assert_eq!((is_accepted, call.tries), (false, 1)),
            error => panic!("{error:?}"),
        }
    }
}

/// Starts a server that answers every request with 404, and returns its URL. It is not the API, but any answer
/// shows that the client accepted its certificate.
async fn secure(tls: TlsAcceptor) -> String {
    const ANSWER: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // An error means that the client does not trust the certificate.
            if let Ok(mut stream) = tls.accept(stream).await {
                let _ = stream.read_buf(&mut Vec::with_capacity(4096)).await;
                let _ = stream.write_all(ANSWER).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    url
}
