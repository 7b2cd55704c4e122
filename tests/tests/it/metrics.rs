//! Tests that `/metrics` serves exactly what docs/operations.md lists, from the start, and in the format of
//! Prometheus.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    process::Stdio,
};

use e2e::{Answer, Installation, Receiver, Role, SOON, event, wait_for, wait_until};
use tokio::{io::AsyncWriteExt as _, process::Command};

const ROLES: [&str; 3] = ["worker", "recorder", "api"];

/// Returns the names that the table in docs/operations.md lists for each role.
fn documented() -> BTreeMap<&'static str, BTreeSet<String>> {
    let docs = include_str!("../../../docs/operations.md");
    let rows = docs.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `magnetite_")?.split(" | ");
        let name = format!("magnetite_{}", cells.next()?.strip_suffix('`')?);
        Some((name, cells.next()?.to_owned()))
    });
    let mut by_role = BTreeMap::new();
    for (name, of) in rows {
        for role in ROLES {
            if of.split(", ").any(|of| of == role) {
                by_role
                    .entry(role)
                    .or_insert_with(BTreeSet::new)
                    .insert(name.clone());
            }
        }
    }
    by_role
}

async fn metrics(role: &Role) -> String {
    let answer = role.get("/metrics").await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    body.to_owned()
}

/// Returns the names after `# HELP` or `# TYPE`.
fn described(body: &str, how: &str) -> BTreeSet<String> {
    let lines = body
        .lines()
        .filter_map(|line| line.strip_prefix("# ")?.strip_prefix(how));
    lines
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect()
}

async fn assert_promtool_is_content(body: &str) {
    let promtool = env::var("MAGNETITE_TEST_PROMTOOL").unwrap_or_else(|_| "promtool".to_owned());
    let mut checking = Command::new(&promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("cannot run {promtool}: {error}; tests/run.sh installs it, or set MAGNETITE_TEST_PROMTOOL")
        });
    checking
        .stdin
        .take()
        .unwrap()
        .write_all(body.as_bytes())
        .await
        .unwrap();
    let output = checking.wait_with_output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}\n{body}");
}

/// Waits until the role serves exactly these metrics, and returns what it serves. The recorder needs a moment
/// for its first look at the queues and the journal.
async fn all_documented(role: &Role, name: &str, documented: &BTreeSet<String>) -> String {
    wait_for(
        "all that is documented is there, and nothing else",
        SOON,
        || async {
            let body = metrics(role).await;
            let found = ["HELP", "TYPE"].map(|how| described(&body, how));
            match found.iter().find(|found| *found != documented) {
                None => Ok(body),
                Some(found) => Err(format!("{name}: {:?}", found.symmetric_difference(documented))),
            }
        },
    )
    .await
}

/// Panics unless the worker serves series of metrics that have not counted anything yet.
async fn assert_zero_from_the_start(worker: &Role) {
    let body = metrics(worker).await;
    for series in [
        "magnetite_dead_total{reason=\"gone\"} 0",
        "magnetite_rejected_total{reason=\"panic\"} 0",
        "magnetite_attempts_total{outcome=\"retry\"} 0",
        "magnetite_publish_to_delivered_seconds_count 0",
        "magnetite_messages_unacked{queue=\"held\"} 0",
    ] {
        assert!(
            body.lines().any(|line| line == series),
            "{series} is not in {body}"
        );
    }
}

/// Waits until one delivery that succeeded and one that is delayed are counted.
async fn wait_until_counted(worker: &Role, recorder: &Role) {
    wait_for("the delivery is counted", SOON, || async {
        match worker
            .metric("magnetite_publish_to_delivered_seconds_count", "")
            .await
        {
            1.0 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    wait_for("what waits is counted", SOON, || async {
        let delayed = recorder
            .metric("magnetite_queue_messages_ready", "delay.300000")
            .await;
        let pending = recorder.metric("magnetite_pending_deliveries", "").await;
        let oldest_s = recorder.metric("magnetite_pending_oldest_seconds", "").await;
        if (delayed, pending) == (1.0, 1.0) && oldest_s > 0.0 {
            Ok(())
        } else {
            Err(format!("{delayed} delayed, {pending} pending for {oldest_s} s"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented_and_there_from_the_start() {
    let installation = Installation::with_delays("metrics", &[300_000]).await;
    let well = Receiver::ok().await;
    installation.endpoint("org_1", &well.url()).await;
    let failing = Receiver::new(|_, _| Answer::status(500)).await;
    installation.endpoint("org_1", &failing.url()).await;
    let [worker, recorder] = ["worker", "recorder"].map(|role| installation.start(role));
    for role in [&worker, &recorder] {
        role.wait_until_ready().await;
    }
    let api = e2e::Api::start(&installation).await;
    let refused = api
        .send("GET", "/v1/endpoints", "mgk_none", &[], String::new())
        .await;
    assert_eq!(refused.status, 401);

    let documented = documented();
    for (name, role) in ROLES.iter().zip([&worker, &recorder, &api.role]) {
        let body = all_documented(role, name, &documented[name]).await;
        assert_promtool_is_content(&body).await;
        assert!(body.contains("magnetite_build_info{version=\""), "{name}: {body}");
    }
    assert_zero_from_the_start(&worker).await;

    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    wait_until("both endpoints are asked", SOON, || {
        well.count() + failing.count() == 2
    })
    .await;
    wait_until_counted(&worker, &recorder).await;
    for role in [worker, recorder, api.role] {
        assert!(role.terminate().await);
    }
    installation.delete().await;
}
