//! Tests `endpoint ping`, `endpoint list --failing` and `endpoint recover` over the HTTP API.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use e2e::{Answer, Receiver, SOON, event, wait_until};
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use super::{Rig, stderr, stdout};

/// The number of events that each endpoint misses in most tests.
const MISSED: usize = 5;

/// Two endpoints of `org_1` whose common server was down when events came.
struct Outage {
    receiver: Receiver,
    is_up: Arc<AtomicBool>,
    ids: [String; 2],
}

impl Outage {
    /// `missed` is the number of events that each endpoint misses.
    async fn of(rig: &Rig, missed: usize) -> Self {
        let is_up = Arc::new(AtomicBool::new(false));
        let answers = Arc::clone(&is_up);
        let receiver = Receiver::new(move |_, _| {
            let status = if answers.load(Ordering::SeqCst) { 200 } else { 503 };
            Answer::status(status)
        })
        .await;
        let ids = [
            rig.installation.endpoint("org_1", &receiver.url()).await.id,
            rig.installation.endpoint("org_1", &receiver.url()).await.id,
        ];
        let events: Vec<_> = (0..missed)
            .map(|number| event("org_1", &format!("lead_{number}")))
            .collect();
        rig.installation.amqp().publish(&events).await;
        let dead = ["delivery", "list", "--state", "dead"];
        rig.installation.wait_for_listed(&dead, 2 * missed, SOON).await;
        Self { receiver, is_up, ids }
    }

    fn ends(&self) {
        self.is_up.store(true, Ordering::SeqCst);
    }

    fn ids(&self) -> [&str; 2] {
        self.ids.each_ref().map(String::as_str)
    }
}

/// Returns what `endpoint recover --json` prints.
fn recovered(id: &str, dead: usize) -> Value {
    json!({
        "endpoint_id": id,
        "dead": dead,
        "missed": 0,
        "left_by_an_earlier_run": 0,
        "sent": dead,
        "dry_run": false,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_pinged_and_recovered_over_the_api_as_on_the_database() {
    let rig = Rig::new("remote-recover").await;
    let outage = Outage::of(&rig, MISSED).await;
    let ids = outage.ids();
    rig.alike(1, ids, &["endpoint", "ping"], &[]).await;
    rig.same(0, &["endpoint", "list", "--failing"]).await;
    rig.alike(0, ids, &["endpoint", "show"], &[]).await;
    let recover = ["endpoint", "recover"];
    for state in ["dead", "missed", "all"] {
        let dry_run = ["--since", "1h", "--state", state, "--dry-run"];
        rig.alike(0, ids, &recover, &dry_run).await;
    }
    outage.ends();
    let [direct, remote] = ids;
    let of = |id| ["endpoint", "recover", id, "--since", "1h", "--json"];
    let printed = rig.installation.cli_ok(&of(direct)).await;
    assert_eq!(
        serde_json::from_str::<Value>(&printed).unwrap(),
        recovered(direct, MISSED)
    );
    // At this rate, each request to the API sends two deliveries.
    let slowly = [&of(remote)[..], &["--rate", "2/s"]].concat();
    let printed = rig.laptop.run(&slowly).await;
    assert_eq!(printed.status.code(), Some(0), "{}", stderr(&printed));
    assert_eq!(
        serde_json::from_slice::<Value>(&printed.stdout).unwrap(),
        recovered(remote, MISSED)
    );
    let delivered = ["delivery", "list", "--state", "delivered"];
    rig.installation
        .wait_for_listed(&delivered, 2 * MISSED, SOON)
        .await;
    rig.alike(0, ids, &recover, &["--since", "1h"]).await;
    rig.alike(0, ids, &["endpoint", "ping"], &[]).await;
    rig.alike(0, ids, &["endpoint", "disable"], &[]).await;
    rig.alike(1, ids, &recover, &["--since", "1h"]).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_recovery_ends_with_its_last_delivery() {
    let rig = Rig::new("remote-slow").await;
    let outage = Outage::of(&rig, 1).await;
    outage.ends();
    let [id, _] = outage.ids();
    // At this rate, a second delivery would be sent after more than a quarter of an hour.
    let slowly = [
        "endpoint", "recover", id, "--since", "1h", "--rate", "0.001/s", "--json",
    ];
    let printed = timeout(SOON, rig.installation.cli_ok(&slowly)).await;
    let printed = printed.expect("it ends when nothing is left to send");
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), recovered(id, 1));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_over_the_api_is_interrupted_and_goes_on() {
    let rig = Rig::new("remote-interrupted").await;
    let outage = Outage::of(&rig, MISSED).await;
    outage.ends();
    let [_, id] = outage.ids();
    let recover = ["endpoint", "recover", id, "--since", "1h"];
    let child = rig
        .laptop
        .command(&[&recover[..], &["--rate", "1/s"]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("one is recovered", SOON, || outage.receiver.accepted() > 0).await;
    let pid = child.id().expect("it is running").to_string();
    let killed = Command::new("kill").args(["-INT", pid.as_str()]).status().await;
    assert!(killed.unwrap().success());
    let output = child.wait_with_output().await.unwrap();
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert_eq!(stdout(&output), "");
    let sent = told.split("interrupted: ").nth(1).expect("it was interrupted");
    let sent: usize = sent.split(' ').next().unwrap().parse().unwrap();
    assert!((1..MISSED).contains(&sent), "{told}");

    // What was sent and is not recorded yet would not be found again either.
    let printed = rig.laptop.run(&[&recover[..], &["--json"]].concat()).await;
    assert_eq!(printed.status.code(), Some(0), "{}", stderr(&printed));
    assert_eq!(
        serde_json::from_slice::<Value>(&printed.stdout).unwrap(),
        recovered(id, MISSED - sent)
    );
    wait_until("everything arrives", SOON, || {
        outage.receiver.accepted() == MISSED
    })
    .await;
    rig.end().await;
}
