//! Tests `magnetite status` over the HTTP API: it shows one organization, and nothing of the others.

use std::process::Output;

use e2e::{Answer, Api, Installation, Receiver, SOON, event, wait_for};
use serde_json::{Value, json};

use super::{Laptop, stderr, stdout};

async fn status(laptop: &Laptop, more: &[&str]) -> Output {
    laptop.run(&[&["status"][..], more].concat()).await
}

/// Waits until the status, as JSON, has this number of failing endpoints, and returns it.
async fn wait_for_failing(laptop: &Laptop, count: u64) -> Value {
    wait_for(&format!("{count} endpoints fail"), SOON, || async {
        let printed = stdout(&status(laptop, &["--json"]).await);
        let state: Value = serde_json::from_str(&printed).unwrap_or_default();
        if state["organization"]["endpoints"]["failing"] == count {
            Ok(state)
        } else {
            Err(printed)
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_an_organization_shows_what_is_its_own() {
    let installation = Installation::with_delays("remote-status", &[100, 30_000]).await;
    let (good, bad) = (
        Receiver::ok().await,
        Receiver::new(|_, _| Answer::status(500)).await,
    );
    installation.endpoint("org_1", &good.url()).await;
    let failing = installation.endpoint("org_1", &bad.url()).await;
    let foreign = installation.endpoint("org_2", &bad.url()).await;
    let _roles = (installation.worker().await, installation.recorder().await);
    let api = Api::start(&installation).await;
    let laptop = Laptop::new(api.url(), &installation.key("org_1", "deliveries:read").await);
    installation
        .amqp()
        .publish(&[event("org_1", "lead_1"), event("org_2", "lead_2")])
        .await;

    let state = wait_for_failing(&laptop, 1).await;
    assert_eq!(
        state["organization"]["endpoints"],
        json!({ "all": 2, "disabled": 0, "failing": 1 })
    );
    assert_eq!(state["organization"]["failing"][0]["id"], failing.id.as_str());
    assert_eq!(
        (&state["ok"], &state["troubles"][0]["name"]),
        (&json!(false), &json!("failing"))
    );
    let screen = status(&laptop, &[]).await;
    let (lines, error) = (stdout(&screen), stderr(&screen));
    assert_eq!(screen.status.code(), Some(1), "{error}");
    for words in [
        "ENDPOINTS  2, disabled 0",
        "FAILING    endpoints 1",
        &failing.id,
        "TROUBLE    endpoints that fail: 1",
    ] {
        assert!(lines.contains(words), "{words}: {lines}");
    }
    for words in ["ROLES", "QUEUES", "GAPS", &foreign.id] {
        assert!(!lines.contains(words), "{words}: {lines}");
    }

    let key = installation.key("org_3", "deliveries:read").await;
    let well = status(&Laptop::new(api.url(), &key), &[]).await;
    let lines = stdout(&well);
    assert_eq!(well.status.code(), Some(0), "{lines}");
    assert!(lines.contains("OK         nothing needs attention"), "{lines}");
    assert!(api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_cannot_be_read_says_why() {
    let installation = Installation::new("remote-no-status").await;
    let api = Api::start(&installation).await;
    let platform = Laptop::new(api.url(), &installation.platform_key("deliveries:read").await);
    let unnamed = status(&platform, &[]).await;
    assert_eq!((unnamed.status.code(), &unnamed.stdout[..]), (Some(1), &b""[..]));
    let error = stderr(&unnamed);
    assert!(error.contains("MAGNETITE_ORGANIZATION"), "{error}");
    let named = status(&platform, &["--organization", "org_1"]).await;
    assert_eq!(named.status.code(), Some(0), "{}", stderr(&named));

    let narrow = Laptop::new(api.url(), &installation.key("org_1", "events:write").await);
    let refused = status(&narrow, &[]).await;
    let error = stderr(&refused);
    assert!(
        refused.status.code() == Some(1) && error.contains("deliveries:read"),
        "{error}"
    );

    assert!(api.role.terminate().await);
    let away = status(&platform, &["--organization", "org_1"]).await;
    let lines = stdout(&away);
    assert_eq!(away.status.code(), Some(1), "{lines}");
    assert!(lines.contains("TROUBLE    API: "), "{lines}");
    installation.delete().await;
}
