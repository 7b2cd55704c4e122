//! Tests `api-key` and `changes` over the HTTP API.

use super::{Laptop, Rig, stderr, stdout};

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_key_manages_the_keys_of_an_organization_and_sees_who_changed_what() {
    let mut rig = Rig::new("remote-keys").await;
    let key = rig.installation.platform_key("admin").await;
    let url = rig.api.url().to_owned();
    rig.laptop = Laptop::new(&url, &key);
    let create = [
        "api-key",
        "create",
        "--org",
        "org_3",
        "--name",
        "form",
        "--scopes",
        "endpoints:read,events:write",
        "--expires-in",
        "90d",
    ];
    rig.alike(0, [""; 2], &create, &[]).await;
    for listed in [
        &["api-key", "list", "--org", "org_3"][..],
        &["changes", "--org", "org_3"],
    ] {
        rig.same(0, listed).await;
    }
    let told = rig.same(0, &["changes", "--org", "org_3", "--limit", "2"]).await;
    assert!(told.contains("there are more than 2"), "{told}");
    let none = rig.laptop.run(&["changes", "--org", "org_4"]).await;
    assert_eq!(stdout(&none), "");
    assert_eq!(stderr(&none), format!("none in the installation at {url}\n"));

    let keys = rig
        .installation
        .json(&["api-key", "list", "--org", "org_3"])
        .await;
    let id = |index: usize| keys[index]["id"].as_str().unwrap();
    let told = rig.laptop.refused(1, &["api-key", "revoke", id(1)]).await;
    assert!(told.contains("--organization"), "{told}");
    rig.laptop.organization = "org_3".to_owned();
    rig.alike(0, [id(0), id(1)], &["api-key", "revoke"], &[]).await;
    rig.same(0, &["api-key", "list", "--org", "org_3"]).await;
    let platform = [
        "api-key",
        "create",
        "--platform",
        "--name",
        "n",
        "--scopes",
        "admin",
    ];
    let told = rig.laptop.refused(2, &platform).await;
    assert!(
        told.contains("`magnetite api-key create --platform` needs the database"),
        "{told}"
    );
    rig.end().await;
}
