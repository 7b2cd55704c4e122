//! Tests `endpoint ping`, from the command to the journal.

use std::process::Output;

use e2e::{Answer, Endpoint, Installation, Receiver, Role, SOON, event, wait_until};
use serde_json::Value;

async fn running(name: &str) -> (Installation, Role, Role) {
    let installation = Installation::with_delays(name, &[300, 300]).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    (installation, worker, recorder)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns the exit code of a ping, its JSON output, and its standard error.
async fn ping(installation: &Installation, endpoint: &Endpoint) -> (i32, Value, String) {
    let output = installation
        .cli(&["endpoint", "ping", &endpoint.id, "--json"])
        .await;
    let printed = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code().unwrap(), printed, stderr(&output))
}

/// Returns what `event show` reports about the ping, as JSON and as text.
async fn story(installation: &Installation, ping: &Value) -> (Value, String) {
    let id = ping["id"].as_str().unwrap();
    let shown = installation.json(&["event", "show", id]).await;
    (
        shown[0].clone(),
        installation.cli_ok(&["event", "show", id]).await,
    )
}

async fn end(installation: Installation, worker: Role, recorder: Role) {
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;
    installation.audit().await.assert_settled();
    assert!(worker.terminate().await && recorder.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_is_one_signed_request_and_its_result_is_printed() {
    let (installation, worker, recorder) = running("ping-ok").await;
    let receiver = Receiver::ok().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    // Another endpoint of the organization, which does not receive the ping.
    let other = Receiver::ok().await;
    installation.endpoint("org_1", &other.url()).await;
    let (code, printed, said) = ping(&installation, &endpoint).await;
    assert_eq!(
        (code, &printed["ok"], &printed["status"]),
        (0, &true.into(), &200.into()),
        "{said}"
    );

    let requests = receiver.requests();
    let [request] = &requests[..] else {
        panic!("{} requests", requests.len())
    };
    request.verify(&endpoint.secret);
    assert_eq!(request.header("x-magnetite-event"), "webhook.ping");
    assert_eq!(request.header("user-agent"), "Magnetite-Webhooks/1.0");
    assert_eq!(request.event_id(), printed["id"]);
    assert_eq!(request.header("x-magnetite-delivery"), printed["delivery_id"]);
    let body = request.json();
    assert_eq!(body["event"], "webhook.ping");
    assert_eq!(body["organization_id"], "org_1");
    assert_eq!(
        request.header("x-magnetite-timestamp"),
        body["timestamp"].to_string()
    );
    assert_eq!(other.count(), 0);

    let (shown, text) = story(&installation, &printed).await;
    assert_eq!(shown["type"], "webhook.ping");
    let chapters = shown["endpoints"].as_array().unwrap();
    assert_eq!(chapters.len(), 1, "{shown:#}");
    assert_eq!(chapters[0]["verdict"], "pinged");
    assert!(text.contains("pinged") && text.contains("delivered"), "{text}");
    let listed = installation
        .json(&["event", "list", "--type", "webhook.ping"])
        .await;
    assert_eq!(listed.len(), 1);
    end(installation, worker, recorder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_that_fails_is_told_with_advice_and_never_made_again() {
    let (installation, worker, recorder) = running("ping-500").await;
    for status in [500, 410] {
        let receiver = Receiver::new(move |_, _| Answer::Body(status, "no database today")).await;
        let endpoint = installation.endpoint("org_1", &receiver.url()).await;
        let (code, printed, said) = ping(&installation, &endpoint).await;
        assert_eq!((code, &printed["ok"]), (1, &false.into()), "{said}");
        assert_eq!(
            (&printed["status"], &printed["reason"]),
            (&status.into(), &"ping_failed".into())
        );
        assert_eq!(printed["response"], "no database today");
        assert!(
            printed["advice"].as_str().unwrap().contains("docs/failures.md#"),
            "{printed}"
        );
        // No retry is pending, there is no dead letter, and no endpoint was disabled.
        installation
            .wait_until_recorded(&[&worker], &recorder, SOON)
            .await;
        installation.wait_until_drained(SOON).await;
        assert_eq!(receiver.count(), 1);
        assert_eq!(installation.show(&endpoint).await["enabled"], true);
        let dead = installation.json(&["delivery", "list", "--state", "dead"]).await;
        assert_eq!(dead.len(), 0, "{dead:?}");
        let (_, text) = story(&installation, &printed).await;
        assert!(
            text.contains("the ping failed, and pings are not retried"),
            "{text}"
        );
        // The ping cannot be sent again.
        let resend = ["delivery", "resend", printed["delivery_id"].as_str().unwrap()];
        let refused = installation.cli(&resend).await;
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            stderr(&refused).contains("magnetite endpoint ping"),
            "{}",
            stderr(&refused)
        );
    }
    // An endpoint at which no server is listening.
    let closed = installation.endpoint("org_1", "http://127.0.0.1:1/hook").await;
    let (code, printed, said) = ping(&installation, &closed).await;
    assert_eq!((code, &printed["phase"]), (1, &"connect".into()), "{said}");
    assert_eq!(printed["failure"], "connection_refused");
    let text = installation.cli(&["endpoint", "ping", &closed.id]).await;
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("connection_refused in connect") && text.contains("the server is running"),
        "{text}"
    );
    end(installation, worker, recorder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_endpoint_is_pinged_and_stays_disabled() {
    let (installation, worker, recorder) = running("ping-disabled").await;
    let receiver = Receiver::ok().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    installation.cli_ok(&["endpoint", "disable", &endpoint.id]).await;
    let (code, printed, said) = ping(&installation, &endpoint).await;
    assert_eq!((code, &printed["ok"]), (0, &true.into()), "{said}");
    assert!(said.contains("magnetite endpoint enable"), "{said}");
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    installation.wait_for_listed(&["event", "list"], 2, SOON).await;
    assert_eq!(
        receiver.count(),
        1,
        "the event was delivered to a disabled endpoint"
    );
    end(installation, worker, recorder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_endpoint_is_not_pinged_and_one_deleted_on_the_way_cancels_it() {
    let (installation, worker, recorder) = running("ping-deleted").await;
    let receiver = Receiver::ok().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    assert!(worker.terminate().await);
    let (id, command) = (endpoint.id.clone(), ["endpoint", "ping", &endpoint.id, "--json"]);
    let mut pinging = installation.command(&command);
    let pinging = pinging
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    installation.amqp().wait_for_ready("due", 1, SOON).await;
    installation.cli_ok(&["endpoint", "delete", &id]).await;
    let worker = installation.worker().await;
    let output = pinging.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["reason"], "endpoint_deleted");
    assert_eq!(receiver.count(), 0);
    let (code, _, said) = ping(&installation, &endpoint).await;
    assert!(code == 1 && said.contains("was deleted"), "{said}");
    end(installation, worker, recorder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_in_between_leaves_the_ping_to_the_next() {
    let (installation, worker, recorder) = running("ping-killed").await;
    let receiver = Receiver::new(|_, seen| {
        if seen == 0 {
            Answer::Hang
        } else {
            Answer::status(200)
        }
    })
    .await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let killing = async {
        wait_until("the first worker asks", SOON, || receiver.count() == 1).await;
        worker.kill().await;
        installation.worker().await
    };
    let ((code, printed, said), worker) = tokio::join!(ping(&installation, &endpoint), killing);
    assert_eq!((code, &printed["ok"]), (0, &true.into()), "{said}");
    assert_eq!(receiver.count(), 2);
    assert!(receiver.requests().iter().all(|request| request.attempt() == 1));
    end(installation, worker, recorder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_says_who_is_not_there_to_work_on_it() {
    let mut installation = Installation::with_delays("ping-no-roles", &[300]).await;
    installation.set("MAGNETITE_EGRESS__ATTEMPT_TIMEOUT", "100ms");
    let receiver = Receiver::ok().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let (code, _, said) = ping(&installation, &endpoint).await;
    assert!(code == 1 && said.contains("no worker is running"), "{said}");
    let worker = installation.worker().await;
    let (code, _, said) = ping(&installation, &endpoint).await;
    assert!(code == 1 && said.contains("no recorder is running"), "{said}");
    let recorder = installation.recorder().await;
    installation.wait_for_listed(&["event", "list"], 2, SOON).await;
    assert_eq!(receiver.count(), 2);
    end(installation, worker, recorder).await;
}
