//! Tests two databases that share the queues of one prefix.

use std::fs;

use e2e::Installation;

use super::doctor;

/// Creates a new database, and uses it for everything that is started from now on.
async fn use_database(installation: &mut Installation, name: &str) {
    let path = installation.directory().join(name);
    installation.set("MAGNETITE_DATABASE__URL", &format!("sqlite://{}", path.display()));
    installation.cli_ok(&["migrate"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_database_on_the_same_queues_is_refused_by_every_role_and_named_by_doctor() {
    let mut installation = Installation::new("shared").await;
    let said = doctor(&installation).await;
    said.lines(&[
        "ok",
        "installation",
        "the first role that starts assigns the queues to this database",
    ]);
    // The first role that runs marks the queues, including those that an earlier version has declared.
    let worker = installation.worker().await;
    let said = doctor(&installation).await;
    said.lines(&["ok", "installation", "the queues belong to this database: ins_"]);

    use_database(&mut installation, "second.db").await;
    installation.set("MAGNETITE_API__LISTEN", "127.0.0.1:0");
    for role in ["worker", "recorder", "api", "up"] {
        let output = installation.cli(&[role]).await;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{role}: {stderr}");
        for words in [
            "belong to the installation ins_",
            "set another broker.prefix",
            "topology adopt",
        ] {
            assert!(stderr.contains(words), "{role}: {words}: {stderr}");
        }
    }
    let said = doctor(&installation).await;
    said.lines(&["fail", "installation", "the queues belong to ins_"]);
    said.lines(&["fix: set another broker.prefix", "topology adopt"]);
    assert!(!said.is_ok, "{}", said.text);
    assert!(worker.terminate().await);

    // The second database takes over the queues permanently.
    installation.cli_ok(&["topology", "adopt"]).await;
    doctor(&installation)
        .await
        .lines(&["ok", "installation", "the queues belong to this database"]);
    let worker = installation.worker().await;
    assert!(worker.terminate().await);
    installation.set("MAGNETITE_API__LISTEN", "");
    use_database(&mut installation, "magnetite.db").await;
    doctor(&installation).await.lines(&["fail", "installation"]);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_database_is_the_same_installation() {
    let mut installation = Installation::new("copy").await;
    let worker = installation.worker().await;
    assert!(worker.terminate().await);
    let directory = installation.directory();
    for name in ["magnetite.db", "magnetite.db.key"] {
        fs::copy(
            directory.join(name),
            directory.join(name.replace("magnetite", "copy")),
        )
        .unwrap();
    }
    use_database(&mut installation, "copy.db").await;
    let worker = installation.worker().await;
    doctor(&installation)
        .await
        .lines(&["ok", "installation", "the queues belong to this database"]);
    assert!(worker.terminate().await);
    installation.delete().await;
}
