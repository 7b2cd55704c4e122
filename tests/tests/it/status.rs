//! Tests what operators look at: the status screen, the failing endpoints, and the events that happen now.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use e2e::{Answer, Api, Endpoint, Installation, Node, Receiver, SOON, event, event_of, wait_for, wait_until};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
    time::timeout,
};

/// How long to wait for a line before the events are published again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns the exit code and the output of `status --json`.
async fn status(installation: &Installation) -> (i32, Value) {
    let output = installation.cli(&["status", "--json"]).await;
    let printed = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code().unwrap(), printed)
}

fn troubles(status: &Value) -> Vec<&str> {
    let troubles = status["troubles"].as_array().unwrap().iter();
    troubles
        .map(|trouble| trouble["name"].as_str().unwrap())
        .collect()
}

/// Waits until the command exits with 1 and reports at least these troubles.
async fn wait_for_troubles(installation: &Installation, names: &[&str]) {
    wait_for(&format!("{names:?}"), SOON, || async {
        let (code, seen) = status(installation).await;
        let found = troubles(&seen);
        if code == 1 && names.iter().all(|name| found.contains(name)) {
            Ok(())
        } else {
            Err(format!("{code}: {seen}"))
        }
    })
    .await;
}

async fn wait_until_fine(installation: &Installation) {
    wait_for("everything is fine", SOON, || async {
        let (code, seen) = status(installation).await;
        if code == 0 && troubles(&seen).is_empty() {
            Ok(())
        } else {
            Err(format!("{code}: {seen}"))
        }
    })
    .await;
}

/// Panics unless the screen says what is well, names the endpoint that fails, and fits on a terminal.
async fn assert_screen(installation: &Installation, failing: &Endpoint) {
    let screen = installation.cli_ok(&["status"]).await;
    for words in [
        "nothing needs attention",
        "ROLES      recorder 1, worker 1",
        "delay.30000",
        &failing.id,
    ] {
        assert!(screen.contains(words), "{words}:\n{screen}");
    }
    for line in screen.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

/// Deletes the only rejected message from the database.
async fn delete_rejected(installation: &Installation) {
    let rejected = installation.json(&["rejected", "list"]).await;
    let id = rejected[0]["id"].as_str().unwrap().to_owned();
    let database = installation.directory().join("magnetite.db");
    let url = format!("sqlite://{}", database.display());
    let mut other = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url)
        .await
        .unwrap();
    let deleted = sqlx::query("DELETE FROM rejected WHERE id = $1")
        .bind(&id)
        .execute(&mut other)
        .await;
    assert_eq!(deleted.unwrap().rows_affected(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_is_well_exits_0_and_every_trouble_1() {
    let node = Node::start().await;
    let installation = Installation::with("status", node.url(), &[30_000], &[]).await;
    wait_for_troubles(&installation, &["no_role", "no_consumer"]).await;
    let (ok, failing) = (
        Receiver::ok().await,
        Receiver::new(|_, _| Answer::status(500)).await,
    );
    installation.endpoint("org_1", &ok.url()).await;
    let failing = installation.endpoint("org_1", &failing.url()).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    installation
        .amqp()
        .publish(&[event("org_1", "lead_1"), event("org_1", "lead_2")])
        .await;
    wait_until("it is delivered", SOON, || ok.count() == 2).await;
    installation.amqp().wait_for_ready("delay.30000", 2, SOON).await;
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;
    wait_until_fine(&installation).await;

    assert_screen(&installation, &failing).await;
    let (_, seen) = status(&installation).await;
    assert_eq!(seen["database"]["pending"], 2, "{seen}");
    assert_eq!(seen["database"]["failing"][0]["failing"]["pending"], 2, "{seen}");
    assert_eq!(seen["database"]["attempts_last_minute"]["delivered"], 2, "{seen}");

    installation.amqp().publish(&["{"]).await;
    wait_for_troubles(&installation, &["rejected"]).await;
    delete_rejected(&installation).await;
    wait_until_fine(&installation).await;

    node.raise_memory_alarm(SOON).await;
    wait_for_troubles(&installation, &["alarm", "not_ready"]).await;
    node.end_memory_alarm().await;
    wait_until_fine(&installation).await;

    installation.amqp().delete_exchange("operations").await;
    wait_for_troubles(&installation, &["topology"]).await;
    installation.cli_ok(&["topology", "declare"]).await;
    wait_until_fine(&installation).await;

    worker.signal("STOP").await;
    wait_for_troubles(&installation, &["no_role", "cut_off"]).await;
    worker.signal("CONT").await;
    wait_until_fine(&installation).await;

    assert!(recorder.terminate().await);
    wait_for_troubles(&installation, &["no_role", "no_consumer"]).await;
    node.kill().await;
    wait_for_troubles(&installation, &["broker"]).await;
    let (_, seen) = status(&installation).await;
    assert_eq!(seen["database"]["pending"], 2, "the rest is shown: {seen}");
    worker.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_named() {
    let mut installation = Installation::new("status-away").await;
    installation.set("MAGNETITE_DATABASE__URL", "sqlite:///nowhere/at/all/magnetite.db");
    let (code, seen) = status(&installation).await;
    assert_eq!((code, troubles(&seen)[0]), (1, "database"), "{seen}");
    assert!(seen["broker"].is_object(), "the rest is shown: {seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_fail_are_listed_with_why() {
    let installation = Installation::with_delays("failing", &[30_000]).await;
    let (ok, failing) = (
        Receiver::ok().await,
        Receiver::new(|_, _| Answer::status(503)).await,
    );
    installation.endpoint("org_1", &ok.url()).await;
    let failing = installation.endpoint("org_1", &failing.url()).await;
    let key = installation.key("org_1", "endpoints:read").await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    let api = Api::start(&installation).await;
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    let listed = installation
        .wait_for_listed(&["endpoint", "list", "--failing"], 1, SOON)
        .await;
    assert_eq!(listed[0]["id"], failing.id.as_str());
    for (field, value) in [("last_status", 503), ("pending", 1), ("attempts_last_hour", 1)] {
        assert_eq!(listed[0]["failing"][field], value, "{field}: {listed:?}");
    }
    let answer = api.get("/v1/endpoints?failing=true", &key).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body["data"].as_array().unwrap().len(), 1);
    assert_eq!(answer.body["data"][0]["failing"], listed[0]["failing"]);
    let all = api.get("/v1/endpoints?failing=false", &key).await;
    assert_eq!(all.body["data"].as_array().unwrap().len(), 2);
    assert!(all.body["data"][0].get("failing").is_none(), "{all:?}");
    installation.cli_ok(&["endpoint", "disable", &failing.id]).await;
    let none = api.get("/v1/endpoints?failing=true", &key).await;
    assert_eq!(none.body["data"].as_array().unwrap().len(), 0, "{none:?}");
    for role in [worker, recorder, api.role] {
        assert!(role.terminate().await);
    }
    installation.delete().await;
}

/// A running `event tail`.
struct Tail {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Tail {
    /// Starts the command, and waits until it reports that it is watching.
    async fn start(installation: &Installation, arguments: &[&str]) -> Self {
        let mut command = installation.command(&[&["event", "tail", "--json"], arguments].concat());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = said.next_line().await.unwrap().unwrap();
        assert!(first.contains("watching"), "{first}");
        Self { child, lines }
    }

    /// Publishes events repeatedly until the wanted line is printed, because workers learn only after a
    /// moment that a command is watching.
    async fn line(
        &mut self,
        installation: &Installation,
        events: impl Fn() -> Vec<String>,
        is_wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let until = Instant::now() + SOON;
        while Instant::now() < until {
            installation.amqp().publish(&events()).await;
            while let Ok(line) = timeout(PATIENCE, self.lines.next_line()).await {
                let line: Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
                if is_wanted(&line) {
                    return line;
                }
            }
        }
        panic!("no such line within {SOON:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_seen_as_it_happens_and_narrowed() {
    let installation = Installation::with_delays("tail", &[500]).await;
    let ok = Receiver::ok().await;
    let twice = Receiver::new(|_, before| Answer::status(if before == 0 { 500 } else { 200 })).await;
    let first = installation.endpoint("org_1", &ok.url()).await;
    let second = installation.endpoint("org_2", &twice.url()).await;
    let worker = installation.worker().await;
    let mut all = Tail::start(&installation, &[]).await;
    let mut narrow = Tail::start(&installation, &["--org", "org_2", "--outcome", "delivered"]).await;
    let mut of_type = Tail::start(&installation, &["--type", "lead.failed", "--endpoint", &first.id]).await;
    let events = || {
        vec![
            event("org_2", "lead_2"),
            event("org_1", "lead_2"),
            event_of("lead.failed", "org_1", "lead_1"),
        ]
    };
    let taken = |line: &Value| line["kind"] == "event" && line["lead_id"] == "lead_1";
    let line = all.line(&installation, events, taken).await;
    assert_eq!(line["matched"], serde_json::json!([first.id]), "{line}");
    let delivered = |line: &Value| line["kind"] == "attempt" && line["endpoint_id"] == first.id.as_str();
    let line = all.line(&installation, events, delivered).await;
    assert_eq!(
        (&line["outcome"], &line["status"]),
        (&"delivered".into(), &200.into()),
        "{line}"
    );

    let line = narrow.line(&installation, events, |_| true).await;
    assert_eq!(
        (&line["outcome"], &line["endpoint_id"], &line["attempt"]),
        (&"delivered".into(), &second.id.as_str().into(), &2.into()),
        "{line}"
    );
    let line = of_type.line(&installation, events, |_| true).await;
    assert_eq!(
        (&line["kind"], &line["event_type"]),
        (&"event".into(), &"lead.failed".into()),
        "{line}"
    );
    for mut tail in [all, narrow, of_type] {
        tail.child.kill().await.unwrap();
    }
    let before = ok.count();
    installation.amqp().publish(&[event("org_1", "lead_3")]).await;
    wait_until("deliveries go on", SOON, || ok.count() > before).await;
    assert!(worker.terminate().await);
    installation.delete().await;
}
