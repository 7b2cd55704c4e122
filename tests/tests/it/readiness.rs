//! Tests what `/readyz` reports while a role cannot do its job, or does it with less than it should have.

use std::time::{Duration, Instant};

use e2e::{
    Answer, Api, Installation, Ledger, Load, Node, Postgres, Receiver, Role, SOON, event, shared_broker,
    wait_for, wait_until,
};
use serde_json::Value;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, sqlite::SqliteConnectOptions};

const LONG: Duration = Duration::from_mins(2);
const ALL: &str = ".*";
const NOTHING: &str = "^$";
const BUT_THE_DEFAULT_EXCHANGE: &str = "^(?!amq\\.default$)";

async fn wait_for_answer(role: &Role, status: &str, words: &[&str]) {
    wait_for(&format!("{status} with {words:?}"), SOON, || async {
        let answer = role.get("/readyz").await.map_err(|error| error.to_string())?;
        let is_expected = answer.starts_with(&format!("HTTP/1.1 {status}"))
            && words.iter().all(|word| answer.contains(word));
        if is_expected { Ok(()) } else { Err(answer) }
    })
    .await;
}

/// Waits until the role is ready and reports nothing else.
async fn wait_until_well(role: &Role) {
    wait_for("ready without a word more", SOON, || async {
        let answer = role.get("/readyz").await.map_err(|error| error.to_string())?;
        if answer.ends_with("\r\n\r\nready\n") {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
}

/// Starts a node with the user `roles`, and creates an installation whose roles use that user from now on.
async fn of_a_user(name: &str) -> (Node, Installation) {
    let node = Node::start().await;
    let mut installation = Installation::with(name, node.url(), &[500, 1000], &[]).await;
    node.ctl(&["add_user", "roles", "roles"]).await;
    permit(&node, ALL, ALL).await;
    let (_, server) = node.url().split_once('@').unwrap();
    installation.set("MAGNETITE_BROKER__URL", &format!("amqp://roles:roles@{server}"));
    (node, installation)
}

async fn permit(node: &Node, configure: &str, write: &str) {
    node.ctl(&["set_permissions", "roles", configure, write, ALL])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_by_its_exit_code_what_the_roles_of_this_host_answer() {
    let node = Node::start().await;
    let mut installation = Installation::with("health", node.url(), &[500, 1000], &[]).await;
    let worker = installation.worker().await;
    wait_until_well(&worker).await;
    installation.set("MAGNETITE_HEALTH__LISTEN", &format!("0.0.0.0:{}", worker.port()));
    assert_eq!(installation.cli_ok(&["health"]).await, "ready\n");
    let here = format!("127.0.0.1:{}", worker.port());
    assert_eq!(installation.cli_ok(&["health", &here]).await, "ready\n");
    let both = installation.cli(&["health", "127.0.0.1:1", &here]).await;
    assert_eq!(both.status.code(), Some(1));
    let told = String::from_utf8_lossy(&both.stdout).into_owned();
    assert!(
        told.starts_with("127.0.0.1:1:\nno role answers at 127.0.0.1:1")
            && told.ends_with(&format!("{here}:\nready\n")),
        "{told}"
    );

    node.kill().await;
    wait_for_answer(&worker, "503", &["worker"]).await;
    let unready = installation.cli(&["health"]).await;
    assert_eq!(unready.status.code(), Some(1));
    let answer = String::from_utf8_lossy(&unready.stdout).into_owned();
    assert!(answer.contains("worker"), "it says which role: {answer}");

    worker.kill().await;
    let unanswered = installation.cli(&["health"]).await;
    let words = String::from_utf8_lossy(&unanswered.stderr).into_owned();
    assert_eq!(unanswered.status.code(), Some(1));
    assert!(
        words.contains("health.listen") && words.contains("`magnetite health 127.0.0.1:8086`"),
        "{words}"
    );
    installation.set("MAGNETITE_HEALTH__LISTEN", "");
    let nowhere = installation.cli(&["health"]).await;
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("health.listen is empty"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_whose_user_may_not_publish_says_so_until_it_may_again() {
    let (node, installation) = of_a_user("permitted").await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    let api = Api::start(&installation).await;
    for role in [&worker, &recorder, &api.role] {
        wait_until_well(role).await;
    }

    permit(&node, ALL, BUT_THE_DEFAULT_EXCHANGE).await;
    wait_for_answer(&worker, "503", &["worker: ", "ACCESS_REFUSED", "amq.default"]).await;
    wait_until_well(&api.role).await;
    wait_until_well(&recorder).await;

    permit(&node, ALL, "^amq\\.default$").await;
    let events = format!("{}.events", installation.prefix());
    wait_for_answer(&api.role, "503", &["api: ", "ACCESS_REFUSED", &events]).await;
    wait_for_answer(&worker, "503", &["ACCESS_REFUSED", "deliveries"]).await;
    wait_for_answer(&recorder, "200", &["degraded: recorder: ", "operations"]).await;

    permit(&node, ALL, ALL).await;
    for role in [worker, recorder, api.role] {
        wait_until_well(&role).await;
        assert!(role.terminate().await);
    }
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_a_worker_may_not_publish() {
    let (node, installation) = of_a_user("unpermitted").await;
    let mut ledger = Ledger::new();
    let receiver = Receiver::new(|_, before| Answer::status(if before == 0 { 500 } else { 200 })).await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    ledger.endpoint("only", endpoint, receiver);
    let worker = installation.worker().await;
    let mut publisher = Installation::with("unused", node.url(), &[500, 1000], &[]).await;
    publisher.set("MAGNETITE_BROKER__PREFIX", installation.prefix());
    let load = Load::start(&publisher, "org_1", 50);
    let is_tried = |count| move |ledger: &Ledger| ledger.receiver("only").count() >= count;
    wait_until("it runs", SOON, || is_tried(100)(&ledger)).await;

    permit(&node, ALL, NOTHING).await;
    // A busy channel keeps the permissions that it had, so the connections are closed. The worker's unacked
    // messages are redelivered, and some of them are delivered for the second time.
    let closed = Instant::now();
    node.ctl(&["close_all_user_connections", "roles", "permissions"])
        .await;
    wait_for_answer(&worker, "503", &["ACCESS_REFUSED"]).await;
    permit(&node, ALL, ALL).await;
    wait_until_well(&worker).await;
    ledger.broken("connections", closed, None);
    let before = ledger.receiver("only").accepted();
    wait_until("it goes on", SOON, || {
        ledger.receiver("only").accepted() > before + 50
    })
    .await;

    // Only a channel's first publish to the default exchange is refused, because a busy channel keeps its
    // permission.
    permit(&node, ALL, BUT_THE_DEFAULT_EXCHANGE).await;
    ledger.published(load.stop().await);
    wait_for_answer(&worker, "503", &["ACCESS_REFUSED", "amq.default"]).await;
    wait_for("doctor says so as well", SOON, async || {
        let checks = installation.doctor().await;
        let says = |check: &Value| check["check"] == "not_ready" && check["outcome"] == "fail";
        if checks.iter().any(says) {
            Ok(())
        } else {
            Err(Value::from(checks).to_string())
        }
    })
    .await;
    permit(&node, ALL, ALL).await;
    wait_until_well(&worker).await;
    let books = ledger
        .settle_and_end(&installation, &node, vec![worker], LONG)
        .await;
    books.assert_balanced();
    assert_eq!(books.dead, 0, "{books}");
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_one_process_says_which_role_lacks_what() {
    let node = Node::start().await;
    let mut installation = Installation::with("whole", node.url(), &[500], &[]).await;
    installation.set("MAGNETITE_API__LISTEN", "127.0.0.1:0");
    let up = installation.start("up");
    wait_until_well(&up).await;
    node.raise_memory_alarm(SOON).await;
    wait_for_answer(
        &up,
        "503",
        &["worker: the broker blocks", "api: the broker blocks"],
    )
    .await;
    let answer = up.get("/readyz").await.unwrap();
    assert!(!answer.contains("recorder: "), "it records: {answer}");
    node.end_memory_alarm().await;
    wait_until_well(&up).await;

    let database = installation.directory().join("magnetite.db");
    let mut other = SqliteConnectOptions::new()
        .filename(database)
        .connect()
        .await
        .unwrap();
    other.execute("BEGIN EXCLUSIVE").await.unwrap();
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    wait_for_answer(&up, "503", &["recorder: ", "database"]).await;
    wait_for("only the recorder waits", SOON, || async {
        let answer = up.get("/readyz").await.unwrap();
        let is_one =
            answer.contains("recorder: ") && !answer.contains("api: ") && !answer.contains("worker: ");
        if is_one { Ok(()) } else { Err(answer) }
    })
    .await;
    other.execute("COMMIT").await.unwrap();
    other.close().await.unwrap();
    wait_until_well(&up).await;
    assert!(up.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_exchanges_and_queues_that_cannot_be_declared_are_named() {
    let (node, installation) = of_a_user("missing").await;
    let receiver = Receiver::new(|request, _| {
        let fails = request.lead == "lead_late" && request.attempt() == 1;
        Answer::status(if fails { 500 } else { 200 })
    })
    .await;
    installation.endpoint("org_1", &receiver.url()).await;
    let worker = installation.worker().await;
    let api = Api::start(&installation).await;
    let named = |name: &str| format!("{}.{name}", installation.prefix());

    installation.amqp().delete_exchange("operations").await;
    installation.amqp().delete_exchange("events").await;
    wait_for_answer(&api.role, "503", &["api: ", &named("events"), "topology declare"]).await;
    installation.cli_ok(&["topology", "declare"]).await;
    wait_until_well(&api.role).await;

    permit(&node, NOTHING, ALL).await;
    node.ctl(&["delete_queue", &named("journal")]).await;
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    wait_until("it is delivered", SOON, || receiver.count() == 1).await;
    wait_for_answer(&worker, "200", &["degraded: worker: ", &named("journal")]).await;

    node.ctl(&["delete_queue", &named("delay.500")]).await;
    installation.amqp().publish(&[event("org_1", "lead_late")]).await;
    wait_for_answer(&worker, "503", &["worker: ", &named("delay.500")]).await;

    permit(&node, ALL, ALL).await;
    wait_until("the retry is made", SOON, || receiver.count() == 3).await;
    wait_until_well(&worker).await;
    assert!(worker.terminate().await && api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgresql_the_recorder_is_not_ready_and_the_others_are() {
    let postgres = Postgres::start().await;
    let url = [("MAGNETITE_DATABASE__URL", postgres.url())];
    let installation = Installation::with("unready", &shared_broker(), &[500], &url).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    let api = Api::start(&installation).await;
    postgres.stop().await;
    wait_for_answer(&recorder, "503", &["recorder: cannot write to the database"]).await;
    wait_for_answer(&api.role, "200", &["degraded: api: cannot write to the database"]).await;
    wait_for_answer(&worker, "200", &["degraded: worker: cut off from the database"]).await;
    postgres.start_again().await;
    for role in [worker, recorder, api.role] {
        wait_until_well(&role).await;
        assert!(role.terminate().await);
    }
    installation.delete().await;
}
