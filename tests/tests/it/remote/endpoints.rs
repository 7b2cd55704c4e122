//! Tests `endpoint` over the HTTP API.

use e2e::Receiver;

use super::{Rig, stderr, stdout};

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_managed_over_the_api_as_on_the_database() {
    let rig = Rig::new("remote-endpoints").await;
    let receiver = Receiver::ok().await;
    let url = receiver.url();
    let create = [
        "endpoint",
        "create",
        "--org",
        "org_1",
        "--url",
        &url,
        "--project",
        "proj_1",
        "--events",
        "lead.*,research.started",
    ];
    rig.alike(0, [""; 2], &create, &[]).await;
    let (direct, remote) = (
        rig.installation.endpoint("org_1", &url).await.id,
        rig.installation.endpoint("org_1", &url).await.id,
    );
    let ids = [direct.as_str(), &remote];
    rig.alike(0, ids, &["endpoint", "disable"], &[]).await;
    for list in [&["endpoint", "list"][..], &["endpoint", "list", "--org", "org_1"]] {
        rig.same(0, list).await;
    }
    rig.alike(0, ids, &["endpoint", "show"], &[]).await;
    rig.alike(0, ids, &["endpoint", "enable"], &[]).await;
    let change = ["--events", "lead.completed", "--project", "proj_2", "--url", &url];
    rig.alike(0, ids, &["endpoint", "update"], &change).await;
    rig.alike(0, ids, &["endpoint", "update"], &["--no-project"])
        .await;

    let rotate = ["endpoint", "rotate-secret"];
    rig.alike(0, ids, &rotate, &["--revoke-now"]).await;
    rig.installation
        .rotate_secret(&direct, &["--overlap", "2h"])
        .await
        .unwrap();
    let first = rig
        .laptop
        .run(&["endpoint", "rotate-secret", &remote, "--overlap", "2h"])
        .await;
    assert!(
        stdout(&first).contains("old secret  valid until"),
        "{}",
        stderr(&first)
    );
    rig.keep_secrets(&stdout(&first));
    rig.alike(1, ids, &rotate, &[]).await;
    rig.same(0, &["endpoint", "show", &remote]).await;

    let deleted = rig.laptop.run(&["endpoint", "delete", &remote]).await;
    assert_eq!(
        stdout(&deleted),
        format!("deleted {remote}\n"),
        "{}",
        stderr(&deleted)
    );
    rig.installation.cli_ok(&["endpoint", "delete", &direct]).await;
    rig.alike(1, ids, &["endpoint", "show"], &[]).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_the_organization_does_not_have_is_named_with_the_next_step() {
    let rig = Rig::new("remote-missing").await;
    for arguments in [
        &["endpoint", "show", "ep_none"][..],
        &["endpoint", "update", "ep_none", "--no-project"],
        &["endpoint", "delete", "ep_none", "--yes"],
        &["endpoint", "enable", "ep_none"],
        &["endpoint", "disable", "ep_none"],
        &["endpoint", "rotate-secret", "ep_none"],
        &["endpoint", "ping", "ep_none"],
        &["endpoint", "recover", "ep_none", "--since", "1h"],
    ] {
        let told = rig.same(1, arguments).await;
        for words in [
            "endpoint ep_none does not exist",
            "`magnetite endpoint list`",
            "req_",
        ] {
            assert!(told.contains(words), "{arguments:?}: {told}");
        }
    }
    let told = rig.same(1, &["api-key", "revoke", "key_none"]).await;
    assert!(told.contains("`magnetite api-key list`"), "{told}");
    let refused_url = ["endpoint", "create", "--org", "org_1", "--url", "https://"];
    let told = rig.same(1, &refused_url).await;
    assert!(told.contains("(422): url: "), "{told}");
    assert!(!told.contains("`errors`"), "{told}");

    let theirs = rig.installation.endpoint("org_2", "http://127.0.0.1:9/").await;
    let told = rig.laptop.refused(1, &["endpoint", "show", &theirs.id]).await;
    assert!(told.contains("does not exist in this organization"), "{told}");
    let told = rig
        .laptop
        .refused(1, &["endpoint", "list", "--org", "org_2"])
        .await;
    assert!(
        told.contains("(403): the key belongs to another organization"),
        "{told}"
    );
    assert!(!told.contains("header"), "{told}");
    rig.end().await;
}
