//! Tests sending something again: deliveries that have ended, and messages that were rejected.

use std::{
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use e2e::{Answer, Installation, Receiver, Request, SOON, due_headers, event, wait_until};
use lapin::{BasicProperties, Confirmation};
use serde_json::Value;
use sqlx::{Connection as _, SqliteConnection};
use tokio::process::Command;

const DEAD: [&str; 4] = ["delivery", "list", "--state", "dead"];
const REJECTED: [&str; 2] = ["rejected", "list"];

fn id(row: &Value) -> &str {
    row["id"].as_str().unwrap()
}

/// Panics unless the command failed and printed all of these words.
fn assert_refused(output: &Output, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{word}: {stderr}");
    }
}

/// Panics unless these are two attempts of each of two runs, with the same event.
fn assert_two_runs(requests: &[Request], runs: [&str; 2], secret: &str) {
    let seen: Vec<_> = requests
        .iter()
        .map(|request| (request.header("x-magnetite-delivery"), request.attempt()))
        .collect();
    let [first, second] = runs;
    assert_eq!(seen, [(first, 1), (first, 2), (second, 1), (second, 2)]);
    let original = &requests[0];
    for request in requests {
        assert_eq!(request.event_id(), original.event_id());
        assert!(request.body == original.body);
        request.verify(secret);
    }
}

/// Panics unless the journal has both runs of the event's only delivery, and the second one succeeded.
async fn assert_recorded(installation: &Installation, event_id: &str, runs: [&str; 2]) {
    let shown = &installation.json(&["delivery", "show", runs[1]]).await[0];
    assert_eq!(
        (
            &shown["run"],
            &shown["trigger"],
            &shown["state"],
            &shown["attempt_count"]
        ),
        (&1.into(), &"resend".into(), &"delivered".into(), &2.into()),
        "{shown}"
    );
    let story = &installation.json(&["event", "show", event_id]).await[0];
    let told: Vec<_> = story["endpoints"][0]["deliveries"]
        .as_array()
        .unwrap()
        .iter()
        .map(id)
        .collect();
    assert_eq!(told, runs, "{story}");
    installation.audit().await.assert_settled();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_delivery_is_sent_again_in_one_run_with_a_fresh_set_of_attempts() {
    let installation = Installation::with_delays("resend", &[200]).await;
    // Both attempts of the first run fail. In the second run, the first attempt fails, and the second one
    // hangs until the test releases it.
    let receiver = Receiver::new(|_, before| {
        if before < 3 {
            Answer::status(500)
        } else {
            Answer::Hang
        }
    })
    .await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    let dead = installation.wait_for_listed(&DEAD, 1, SOON).await;
    let first = id(&dead[0]);

    let sent = installation.json(&["delivery", "resend", first]).await;
    assert_eq!(sent[0]["resend_of"], first);
    wait_until("the new run's second attempt is there", SOON, || {
        receiver.count() == 4
    })
    .await;
    // While the run is open, resending either id returns the same run, and nothing is sent.
    let run = id(&sent[0]);
    for asked in [first, run] {
        let same = installation.json(&["delivery", "resend", asked]).await;
        assert_eq!(same[0]["id"], run);
    }
    receiver.release();
    installation
        .wait_for_listed(&["delivery", "list", "--state", "delivered"], 1, SOON)
        .await;
    installation.wait_until_drained(SOON).await;
    worker.wait_for_unacked("", 0, SOON).await;

    let requests = receiver.requests();
    assert_two_runs(&requests, [first, run], &endpoint.secret);
    assert_recorded(&installation, &requests[0].event_id(), [first, run]).await;

    // A successful delivery can be sent again as well.
    let third = &installation.json(&["delivery", "resend", run]).await[0];
    wait_until("the third run arrives", SOON, || receiver.count() == 5).await;
    assert_eq!(receiver.requests()[4].header("x-magnetite-delivery"), id(third));
    assert!(recorder.terminate().await && worker.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_resend_prints_what_was_sent_and_names_the_rest() {
    // Enough for several seconds after the second batch.
    const COUNT: usize = 800;
    let installation = Installation::with_delays("resend-stopped", &[50]).await;
    let is_up = Arc::new(AtomicBool::new(false));
    let up = Arc::clone(&is_up);
    let receiver =
        Receiver::new(move |_, _| Answer::status(if up.load(Ordering::Relaxed) { 200 } else { 500 })).await;
    installation.endpoint("org_1", &receiver.url()).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    let events: Vec<_> = (0..COUNT).map(|lead| event("org_1", &lead.to_string())).collect();
    installation.amqp().publish(&events).await;
    let all = [&DEAD[..], &["--limit", "800"]].concat();
    let dead = installation.wait_for_listed(&all, COUNT, SOON).await;

    is_up.store(true, Ordering::Relaxed);
    let before = receiver.count();
    let ids = dead.iter().map(id);
    let resend: Vec<_> = ["delivery", "resend"].into_iter().chain(ids).collect();
    let mut command = installation.command(&resend);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_until("the second batch is being sent", SOON, || {
        receiver.count() > before + 105
    })
    .await;
    let pid = child.id().expect("it is running").to_string();
    let killed = Command::new("kill").args(["-INT", pid.as_str()]).status().await;
    assert!(killed.unwrap().success());
    let output = child.wait_with_output().await.unwrap();
    let sent = String::from_utf8_lossy(&output.stdout).lines().count();
    assert!((106..COUNT).contains(&sent), "{sent}");
    let told = format!("interrupted: {sent} of {COUNT} deliveries were sent; to continue");
    assert_refused(&output, &[&told]);

    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let (of_batch, from) = told
        .split_once("the ids from ")
        .expect("a whole batch is left at least");
    let of_batch = of_batch
        .split_whitespace()
        .filter(|word| word.starts_with("dlv_"));
    let from = from.split_whitespace().next().unwrap();
    let following = dead.iter().map(id).skip_while(|listed| *listed != from);
    let rest = of_batch.chain(following);
    let resend: Vec<_> = ["delivery", "resend"].into_iter().chain(rest).collect();
    assert_eq!(resend.len() - 2, COUNT - sent, "{told}");
    installation.cli_ok(&resend).await;
    let delivered = ["delivery", "list", "--state", "delivered", "--limit", "800"];
    installation.wait_for_listed(&delivered, COUNT, SOON).await;
    assert_eq!(receiver.count(), before + COUNT, "each is sent again once");
    assert!(recorder.terminate().await && worker.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_or_still_pending_is_not_sent_again() {
    let installation = Installation::with_delays("refusals", &[60_000]).await;
    let receiver = Receiver::new(|_, _| Answer::status(500)).await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    let pending = installation
        .wait_for_listed(&["delivery", "list", "--state", "pending"], 1, SOON)
        .await;

    let output = installation
        .cli(&["delivery", "resend", id(&pending[0]), "dlv_none"])
        .await;
    let of_pending = format!("{}: it is still pending", id(&pending[0]));
    assert_refused(
        &output,
        &[
            &of_pending,
            "dlv_none: there is no such delivery",
            "delivery list",
        ],
    );
    // Deliveries that would be dead immediately are not sent again either.
    let recover = ["endpoint", "recover", &endpoint.id, "--since", "1h"];
    installation.cli_ok(&["endpoint", "disable", &endpoint.id]).await;
    assert_refused(&installation.cli(&recover).await, &["endpoint enable"]);
    assert_refused(
        &installation
            .cli(&["endpoint", "recover", "ep_none", "--since", "1h"])
            .await,
        &["does not exist"],
    );
    assert_eq!(installation.amqp().ready("due").await, 0);
    assert_eq!(receiver.count(), 1);
    assert!(recorder.terminate().await && worker.terminate().await);
    installation.delete().await;
}

async fn copy_installation_id(from: &str, to: &str) {
    let mut from = SqliteConnection::connect(from).await.unwrap();
    let id: String = sqlx::query_scalar("SELECT id FROM installation")
        .fetch_one(&mut from)
        .await
        .unwrap();
    let mut to = SqliteConnection::connect(to).await.unwrap();
    let update = sqlx::query("UPDATE installation SET id = $1").bind(id);
    update.execute(&mut to).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_rejected_by_our_own_fault_arrives_when_it_is_redriven() {
    let mut installation = Installation::with_delays("redrive", &[60_000]).await;
    let receiver = Receiver::ok().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let recorder = installation.recorder().await;

    // The worker uses a database without the endpoint. The database has the same installation id, because the
    // worker would be refused otherwise.
    let database = |name: &str| format!("sqlite://{}/{name}.db", installation.directory().display());
    let (right, wrong) = (database("magnetite"), database("wrong"));
    installation.set("MAGNETITE_DATABASE__URL", &wrong);
    installation.cli_ok(&["migrate"]).await;
    copy_installation_id(&right, &wrong).await;
    let worker = installation.worker().await;
    let (body, properties) = (
        event("org_1", "lead_1"),
        BasicProperties::default()
            .with_headers(due_headers(&endpoint))
            .with_message_id("evt_1".into())
            .with_type("lead.completed".into()),
    );
    let confirmation = installation
        .amqp()
        .publish_to("deliveries", "due", body.as_bytes(), properties)
        .await;
    assert_eq!(confirmation, Confirmation::Ack(None));
    installation.set("MAGNETITE_DATABASE__URL", &right);
    let rejected = installation.wait_for_listed(&REJECTED, 1, SOON).await;
    assert_eq!(rejected[0]["reason"], "unknown_endpoint", "{rejected:?}");
    assert!(worker.terminate().await);

    let worker = installation.worker().await;
    let redrive = ["rejected", "redrive", id(&rejected[0])];
    installation.cli_ok(&redrive).await;
    wait_until("it arrives", SOON, || receiver.count() == 1).await;
    let arrived = &receiver.requests()[0];
    assert!(arrived.body == body);
    assert_eq!((arrived.event_id().as_str(), arrived.attempt()), ("evt_1", 2));
    arrived.verify(&endpoint.secret);

    assert_refused(&installation.cli(&redrive).await, &["redriven before", "--again"]);
    assert_eq!(installation.json(&REJECTED).await.len(), 0);
    let all = installation.json(&["rejected", "list", "--all"]).await;
    assert!(all[0]["redriven_ms"].is_u64(), "{all:?}");
    assert_eq!(receiver.count(), 1);
    installation.cli_ok(&[&redrive[..], &["--again"]].concat()).await;
    wait_until("it arrives once more", SOON, || receiver.count() == 2).await;
    assert!(recorder.terminate().await && worker.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_event_is_in_rejected_with_its_reason_and_comes_back_as_long_as_it_is_bad() {
    const BAD: &str = "{\"event\":\"lead.completed\"";
    let installation = Installation::new("bad-event").await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    installation.amqp().publish(&[BAD]).await;
    let rejected = installation.wait_for_listed(&REJECTED, 1, SOON).await;
    let bad = id(&rejected[0]);
    assert_eq!(
        (&rejected[0]["reason"], &rejected[0]["source"]),
        (&"not_json".into(), &"events".into()),
        "{rejected:?}"
    );
    let shown = installation.cli_ok(&["rejected", "show", bad]).await;
    for word in ["not_json", BAD, "rejected redrive"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let body = installation.cli_ok(&["rejected", "show", bad, "--body"]).await;
    assert_eq!(body, BAD);

    installation.cli_ok(&["rejected", "redrive", bad]).await;
    let all = ["rejected", "list", "--all"];
    let both = installation.wait_for_listed(&all, 2, SOON).await;
    assert_ne!(id(&both[0]), id(&both[1]));
    assert!(both.iter().all(|row| row["reason"] == "not_json"), "{both:?}");
    let left = installation.json(&REJECTED).await;
    assert_ne!(id(&left[0]), bad, "{left:?}");
    assert_refused(
        &installation.cli(&["rejected", "redrive", "rej_none"]).await,
        &["rejected list --all"],
    );
    assert!(recorder.terminate().await && worker.terminate().await);
    installation.delete().await;
}
