//! Tests the relays of the Rust client with the real API.

use client::{CreateEndpoint, OpenRelay, RelayAnswer};
use e2e::{Receiver, SOON, wait_for};
use tokio::time::timeout;

use super::{Rig, event, problem};

/// Opens a relay, and receives and answers a request.
pub(super) async fn receives_over_a_relay(rig: &Rig) {
    let client = &rig.client;
    let new = OpenRelay {
        events: Some(vec!["lead.*".to_owned()]),
        project_id: Some("proj_1".to_owned()),
    };
    let relay = client.open_relay(&new).await.unwrap();
    rig.keep_secret(relay.secret.as_ref());
    assert_eq!(
        (relay.url.as_str(), &relay.project_id),
        ("relay:listen", &new.project_id)
    );
    let mut connection = client.connect_relay(&relay.id).await.unwrap();
    let published = client
        .publish_event(&event("org_1", "lead_relayed"))
        .await
        .unwrap();
    let request = timeout(SOON, connection.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(request.headers["webhook-id"], published.id);
    assert!(request.body.contains("lead_relayed"), "{}", request.body);
    let answer = RelayAnswer {
        request: request.request,
        status: Some(201),
        retry_after: None,
        body: "taken".to_owned(),
    };
    connection.answer(&answer).await.unwrap();
    let delivery = request.headers["x-magnetite-delivery"].as_str();
    wait_for("the answer is recorded", SOON, || async {
        match client.list_attempts(delivery).await {
            Ok(attempts) if attempts.len() == 1 && attempts[0].status == Some(201) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    connection.close().await;
    client.delete_endpoint(&relay.id, None).await.unwrap();
    assert_eq!(problem(client.connect_relay(&relay.id).await), "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_relay_can_be_connected() {
    let rig = Rig::new("client-relay").await;
    let receiver = Receiver::ok().await;
    let new = CreateEndpoint::new(receiver.url());
    let endpoint = rig.client.create_endpoint(&new).await.unwrap();
    rig.keep_secret(endpoint.secret.as_ref());
    assert_eq!(problem(rig.client.connect_relay(&endpoint.id).await), "conflict");
    let bad = OpenRelay {
        events: Some(vec!["lead.melted".to_owned()]),
        project_id: None,
    };
    assert_eq!(problem(rig.client.open_relay(&bad).await), "invalid-fields");
    rig.end().await;
}
