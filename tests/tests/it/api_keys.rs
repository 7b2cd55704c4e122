//! Tests API keys on the command line, and the log of changes.

use std::process::Output;

use e2e::{Answer, Api, Installation, Postgres, Receiver, SOON, event, shared_broker, wait_for, wait_until};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, PgTransaction};

const CREATE: [&str; 8] = [
    "api-key",
    "create",
    "--org",
    "org_1",
    "--name",
    "lead form",
    "--scopes",
    "events:write,endpoints:read",
];

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns the key that `api-key create` has printed, and keeps it secret.
fn printed_key(installation: &Installation, made: &Output) -> String {
    let key = stdout(made)
        .split_whitespace()
        .find(|word| word.starts_with("mgk_"))
        .unwrap()
        .to_owned();
    installation.keep_secret(&key);
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_and_afterwards_known_by_its_beginning() {
    let installation = Installation::new("keys").await;
    let made = installation
        .cli(&[&CREATE[..], &["--expires-in", "90d"]].concat())
        .await;
    assert!(made.status.success(), "{}", stderr(&made));
    assert!(stderr(&made).contains("not shown again"), "{}", stderr(&made));
    let key = printed_key(&installation, &made);
    assert_eq!(key.len(), "mgk_".len() + 43);

    let listed = installation.json(&["api-key", "list", "--org", "org_1"]).await;
    let [listed] = &listed[..] else {
        panic!("{listed:?}")
    };
    assert_eq!(listed["prefix"], key[..10]);
    assert_eq!(
        listed["scopes"],
        serde_json::json!(["events:write", "endpoints:read"])
    );
    let (created_ms, expires_ms) = (listed["created_at_ms"].as_u64(), listed["expires_at_ms"].as_u64());
    assert_eq!(expires_ms.unwrap() - created_ms.unwrap(), 90 * 86_400_000);
    assert_eq!(listed["last_used_at_ms"], Value::Null);
    for arguments in [
        ["api-key", "list"].as_slice(),
        &["api-key", "list", "--json"],
        &["changes"],
    ] {
        let printed = installation.cli_ok(arguments).await;
        assert!(
            printed.contains(&key[..10]) && !printed.contains(&key),
            "{printed}"
        );
    }
    assert_eq!(
        installation.cli_ok(&["api-key", "list", "--org", "org_2"]).await,
        ""
    );
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_revoked_and_what_does_not_exist_is_named() {
    let installation = Installation::new("revoke").await;
    let made = installation.json(&CREATE).await.remove(0);
    installation.keep_secret(made["key"].as_str().unwrap());
    assert_eq!(made["expires_at_ms"], Value::Null);
    let id = made["id"].as_str().unwrap();
    for _ in 0..2 {
        let revoked = installation.cli_ok(&["api-key", "revoke", id]).await;
        assert_eq!(revoked.trim(), format!("revoked {id}"));
    }
    let listed = installation.json(&["api-key", "list"]).await.remove(0);
    assert!(listed["revoked_at_ms"].is_u64(), "{listed}");
    assert!(
        installation
            .cli_ok(&["api-key", "list"])
            .await
            .contains("revoked 2")
    );

    let missing = installation.cli(&["api-key", "revoke", "key_1"]).await;
    assert_eq!(missing.status.code(), Some(1));
    for word in ["key_1", "does not exist", "api-key list"] {
        assert!(stderr(&missing).contains(word), "{}", stderr(&missing));
    }
    let unknown = installation.cli(&[&CREATE[..7], &["events:read"]].concat()).await;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        stderr(&unknown).contains("deliveries:write"),
        "{}",
        stderr(&unknown)
    );
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_key_belongs_to_no_organization() {
    let installation = Installation::new("platform").await;
    let create = [&["api-key", "create", "--platform"][..], &CREATE[4..]].concat();
    let made = installation.cli(&create).await;
    assert!(made.status.success(), "{}", stderr(&made));
    printed_key(&installation, &made);
    assert!(
        stderr(&made).contains("Magnetite-Organization"),
        "{}",
        stderr(&made)
    );
    let listed = installation.json(&["api-key", "list"]).await.remove(0);
    assert_eq!(listed["organization_id"], Value::Null);
    let id = listed["id"].as_str().unwrap();
    for arguments in [["api-key", "list"].as_slice(), &["changes"]] {
        let printed = installation.cli_ok(arguments).await;
        assert!(
            printed.contains(id) && printed.contains("(platform)"),
            "{printed}"
        );
    }
    assert_eq!(
        installation.cli_ok(&["api-key", "list", "--org", "org_1"]).await,
        ""
    );
    let change = installation.json(&["changes"]).await.remove(0);
    assert_eq!(change["organization_id"], Value::Null);
    let both = installation.cli(&[&CREATE[..], &["--platform"]].concat()).await;
    assert_eq!(both.status.code(), Some(2));
    installation.cli_ok(&["api-key", "revoke", id]).await;
    installation.delete().await;
}

/// The command line prints a key as the API does.
#[tokio::test(flavor = "multi_thread")]
async fn a_platform_key_creates_a_customers_key_that_publishes_for_the_customer() {
    let installation = Installation::new("customers-key").await;
    let (api, receiver) = (Api::start(&installation).await, Receiver::ok().await);
    let worker = installation.worker().await;
    let platform = installation.platform_key("admin").await;
    let for_org_1 = [("magnetite-organization", "org_1")];
    let endpoint = serde_json::json!({ "url": receiver.url() }).to_string();
    let created = api
        .send("POST", "/v1/endpoints", &platform, &for_org_1, endpoint)
        .await;
    assert_eq!(created.status, 201, "{created:?}");
    let new = serde_json::json!({ "name": "customer", "scopes": ["events:write"] }).to_string();
    let made = api.send("POST", "/v1/api-keys", &platform, &for_org_1, new).await;
    assert_eq!(made.status, 201, "{made:?}");
    let key = made.body["key"].as_str().unwrap();
    installation.keep_secret(key);
    let both = format!("[{},{}]", event("org_1", "1"), event("org_2", "1"));
    for (key, path, body, status) in [
        (key, "/v1/events", event("org_1", "2"), 202),
        (key, "/v1/events", event("org_2", "2"), 403),
        (&platform, "/v1/events/batch", both.clone(), 202),
        (key, "/v1/events/batch", both, 403),
    ] {
        let published = api.send("POST", path, key, &[], body).await;
        assert_eq!(published.status, status, "{published:?}");
    }
    wait_until("both events of the customer arrive", SOON, || {
        receiver.count() == 2
    })
    .await;

    let path = format!("/v1/api-keys/{}", made.body["id"].as_str().unwrap());
    let revoked = api.send("DELETE", &path, &platform, &for_org_1, "").await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    let refused = api
        .send("POST", "/v1/events", key, &[], event("org_1", "3"))
        .await;
    assert_eq!(refused.status, 401, "{refused:?}");
    assert!(api.role.terminate().await && worker.terminate().await);
    let mut printed = installation
        .json(&["api-key", "list", "--org", "org_1"])
        .await
        .remove(0);
    assert!(printed["revoked_at_ms"].is_u64(), "{printed}");
    assert_eq!(printed["revoked_at_ms"], revoked.body["revoked_at_ms"]);
    let mut answered = made.body.clone();
    for field in ["key", "last_used_at_ms", "revoked_at_ms"] {
        answered.as_object_mut().unwrap().remove(field);
        printed.as_object_mut().unwrap().remove(field);
    }
    assert_eq!(printed, answered);
    installation.delete().await;
}

/// Covers changes made on the command line, and the change that a worker makes by itself after a 410.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_who_changed_what_and_gives_nothing_away() {
    let installation = Installation::new("changes").await;
    let leaving = Receiver::new(|_, _| Answer::status(410)).await;
    let url = leaving.url() + "?token=hunter2";
    let endpoint = installation.endpoint("org_1", &url).await;
    installation.endpoint("org_2", &url).await;
    let _worker = installation.worker().await;
    let lead = event("org_1", "1") + "\n";
    installation.cli_with_input(&["publish"], lead.as_bytes()).await;
    let of_one = ["changes", "--org", "org_1"];
    wait_for("the worker writes the 410 down", SOON, || async {
        let changes = installation.json(&of_one).await;
        if changes.len() == 2 {
            Ok(())
        } else {
            Err(format!("{changes:?}"))
        }
    })
    .await;
    installation
        .cli_ok(&["endpoint", "update", &endpoint.id, "--events", "lead.*"])
        .await;
    installation.cli_ok(&["endpoint", "delete", &endpoint.id]).await;
    installation.cli(&["endpoint", "delete", &endpoint.id]).await;

    let changes = installation.json(&of_one).await;
    let told: Vec<_> = changes
        .iter()
        .rev()
        .map(|change| [&change["actor"], &change["kind"]].map(|text| text.as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ["cli", "endpoint.created"],
            ["worker", "endpoint.disabled"],
            ["cli", "endpoint.updated"],
            ["cli", "endpoint.deleted"],
        ]
    );
    assert!(
        changes
            .iter()
            .all(|change| change["subject"] == endpoint.id.as_str())
    );
    assert_eq!(changes[2]["detail"], serde_json::json!({ "reason": "gone" }));
    let events = serde_json::json!({ "events": { "from": "*", "to": "lead.*" } });
    assert_eq!(changes[1]["detail"], events);

    let all = installation.cli_ok(&["changes"]).await;
    assert_eq!(all.lines().count(), 5, "{all}");
    assert!(all.contains("127.0.0.1") && !all.contains("hunter2"), "{all}");
    let newest = installation.cli(&["changes", "--limit", "1"]).await;
    assert!(
        stdout(&newest).contains("endpoint.deleted"),
        "{}",
        stdout(&newest)
    );
    assert!(stderr(&newest).contains("--limit"), "{}", stderr(&newest));
    installation.delete().await;
}

/// Makes every query about a key wait until the returned transaction has ended.
async fn hold_up(database: &mut PgConnection) -> PgTransaction<'_> {
    let mut held = database.begin().await.unwrap();
    let lock = sqlx::query("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE");
    lock.execute(&mut *held).await.unwrap();
    held
}

/// While the database is slow, its last answer about a key is used. The API remembers the next answer even
/// though the request that asked for it has been answered long before.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_is_refused_however_slow_the_database_is() {
    let postgres = Postgres::start().await;
    let settings = [("MAGNETITE_DATABASE__URL", postgres.url())];
    let installation = Installation::with("slow", &shared_broker(), &[500], &settings).await;
    let api = Api::start(&installation).await;
    let key = installation.key("org_1", "endpoints:read").await;
    let status = async || api.get("/v1/event-types", &key).await.status;
    assert_eq!(status().await, 200);

    let mut database = PgConnection::connect(postgres.url()).await.unwrap();
    let mut watching = PgConnection::connect(postgres.url()).await.unwrap();
    let revoke = sqlx::query("UPDATE api_keys SET revoked_at_ms = 1");
    revoke.execute(&mut database).await.unwrap();
    // No query is answered while a request waits for it, and every query is answered in the end.
    let refused = tokio::time::timeout(SOON, async {
        loop {
            let held = hold_up(&mut database).await;
            let answer = status().await;
            held.commit().await.unwrap();
            if answer == 401 {
                break;
            }
            assert_eq!(answer, 200);
            let waiting = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted";
            while sqlx::query_scalar::<_, i64>(waiting)
                .fetch_one(&mut watching)
                .await
                .unwrap()
                > 0
            {}
        }
    });
    refused.await.expect("the key is refused");
    assert!(api.role.terminate().await);
    installation.delete().await;
}
