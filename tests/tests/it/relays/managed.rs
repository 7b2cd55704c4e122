//! Tests that a relay is managed like any other endpoint.

use client::{OldSecret, OpenRelay, RelayAnswer, RelayConnection, RelayRequest, RotateSecret};
use e2e::{SOON, wait_for};
use signature::{SIGNATURE_HEADER, Secret, Verifier};
use tokio::time::timeout;

use super::{Rig, client, statuses};

/// Waits for the next request, and answers it with this status.
async fn answer_next(connection: &mut RelayConnection, status: u16) -> RelayRequest {
    let request = timeout(SOON, connection.next()).await.unwrap();
    let request = request.unwrap().expect("the connection goes on");
    let answer = RelayAnswer {
        request: request.request.clone(),
        status: Some(status),
        retry_after: None,
        body: "seen".to_owned(),
    };
    connection.answer(&answer).await.unwrap();
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_is_pinged_resent_to_disabled_and_rotated_like_any_endpoint() {
    let rig = Rig::new("relay-managed").await;
    let client = client(rig.api.url(), &rig.key);
    let relay = client.open_relay(&OpenRelay::default()).await.unwrap();
    rig.installation.keep_secret(&relay.secret.unwrap().0);
    let id = relay.id.as_str();
    let mut connection = client.connect_relay(id).await.unwrap();
    let listed = rig.installation.cli_ok(&["endpoint", "list", "--json"]).await;
    assert!(listed.contains(id) && listed.contains("relay:listen"), "{listed}");

    let (ping, request) = tokio::join!(client.ping_endpoint(id), answer_next(&mut connection, 200));
    assert_eq!(request.headers["x-magnetite-event"], "webhook.ping");
    assert_eq!(ping.unwrap().status, Some(200));

    let event = rig.publish("lead_dead").await;
    for attempt in 1..=5 {
        let request = answer_next(&mut connection, 500).await;
        assert_eq!(request.headers["x-magnetite-attempt"], attempt.to_string());
    }
    let dead = rig.delivery(&event, "dead").await;
    assert_eq!(statuses(&rig.attempts(&dead).await), [500; 5]);
    let resent = client
        .resend_delivery(dead["id"].as_str().unwrap())
        .await
        .unwrap();
    let request = answer_next(&mut connection, 200).await;
    assert_eq!(request.headers["x-magnetite-delivery"], resent.id);
    assert_eq!(request.headers["webhook-id"], event);

    client.disable_endpoint(id, None).await.unwrap();
    let missed = rig.publish("lead_missed").await;
    wait_for("the event is recorded", SOON, || async {
        let found = rig.api.get(&format!("/v1/events/{missed}"), &rig.key).await;
        (found.status == 200)
            .then_some(())
            .ok_or_else(|| format!("{found:?}"))
    })
    .await;
    client.enable_endpoint(id, None).await.unwrap();
    let how = RotateSecret {
        secret: None,
        old: OldSecret::Revoked,
    };
    let rotated = client.rotate_endpoint_secret(id, &how, None).await.unwrap();
    let secret = rotated.secret.unwrap().0;
    rig.installation.keep_secret(&secret);
    rig.publish("lead_after").await;
    let request = answer_next(&mut connection, 200).await;
    assert!(request.body.contains("lead_after"), "{}", request.body);
    let verifier = Verifier::new(&[Secret::parse(&secret).unwrap()]);
    let signature = &request.headers[SIGNATURE_HEADER];
    verifier.verify(request.body.as_bytes(), signature).unwrap();

    client.delete_endpoint(id, None).await.unwrap();
    drop(connection);
    rig.end().await;
}

/// A 410 disables a relay, as it disables any endpoint. Its connection goes on and receives nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_410_disables_a_relay() {
    let rig = Rig::new("relay-410").await;
    let client = client(rig.api.url(), &rig.key);
    let relay = client.open_relay(&OpenRelay::default()).await.unwrap();
    rig.installation.keep_secret(&relay.secret.unwrap().0);
    let mut connection = client.connect_relay(&relay.id).await.unwrap();
    let event = rig.publish("lead_1").await;
    answer_next(&mut connection, 410).await;
    let dead = rig.delivery(&event, "dead").await;
    assert_eq!(statuses(&rig.attempts(&dead).await), [410]);
    wait_for("the relay is disabled", SOON, || async {
        let endpoint = client.get_endpoint(&relay.id).await.unwrap();
        (!endpoint.enabled)
            .then_some(())
            .ok_or_else(|| format!("{endpoint:?}"))
    })
    .await;
    client.enable_endpoint(&relay.id, None).await.unwrap();
    rig.publish("lead_2").await;
    let request = answer_next(&mut connection, 200).await;
    assert!(request.body.contains("lead_2"), "{}", request.body);
    drop(connection);
    rig.end().await;
}
