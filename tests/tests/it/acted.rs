//! Tests that a reported change is in effect: every worker that the answer does not name as behind acts on
//! it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use e2e::{
    Answer, Answered, Api, Installation, Load, Postgres, Proxy, Receiver, Role, SOON, event, percentile,
    report, scaled, shared_broker, wait_for, wait_until,
};
use serde_json::{Value, json};

const DELAYS_MS: [u64; 6] = [1000, 2000, 4000, 8000, 16000, 30000];
const SCOPES: &str = "endpoints:write,events:write";
const BEHIND: &str = "magnetite-workers-behind";

/// An API, its key for `org_1`, and a number of workers.
struct Rig {
    installation: Installation,
    api: Api,
    key: String,
    workers: Vec<Role>,
}

impl Rig {
    async fn new(name: &str, workers: usize) -> Self {
        Self::on(Installation::new(name).await, workers).await
    }

    async fn on(installation: Installation, workers: usize) -> Self {
        let api = Api::start(&installation).await;
        let key = installation.key("org_1", SCOPES).await;
        let mut running = Vec::new();
        for _ in 0..workers {
            running.push(installation.worker().await);
        }
        Self {
            installation,
            api,
            key,
            workers: running,
        }
    }

    async fn send(&self, method: &str, path: &str, json: &Value) -> Answered {
        self.api
            .send(method, path, &self.key, &[], json.to_string())
            .await
    }

    /// Creates an endpoint, and returns its id and secret. Panics unless every worker acts on it.
    async fn create(&self, json: &Value) -> (String, String) {
        let created = self.send("POST", "/v1/endpoints", json).await;
        assert_eq!((created.status, created.header(BEHIND)), (201, ""), "{created:?}");
        assert_eq!(created.body["workers_behind"], Value::Null);
        self.named(&created)
    }

    fn named(&self, created: &Answered) -> (String, String) {
        let text = |field: &str| created.body[field].as_str().unwrap().to_owned();
        self.installation.keep_secret(&text("secret"));
        (text("id"), text("secret"))
    }

    async fn publish(&self, event: String) {
        let published = self.api.send("POST", "/v1/events", &self.key, &[], event).await;
        assert_eq!(published.status, 202, "{published:?}");
    }

    async fn end(self) {
        for worker in self.workers {
            assert!(worker.terminate().await);
        }
        assert!(self.api.role.terminate().await);
        self.installation.delete().await;
    }
}

/// Returns an event of the project with this number, about the lead with this number.
fn event_of_project(number: usize) -> String {
    event("org_1", &format!("lead_{number}")).replace("proj_1", &format!("proj_{number}"))
}

async fn secrets_that_are_revoked_sign_nothing_more(workers: usize) {
    let rig = Rig::new("revoked", workers).await;
    let receiver = Receiver::ok().await;
    let (id, _) = rig.create(&json!({ "url": receiver.url() })).await;
    let mut secrets = HashMap::new();
    for number in 0..20 {
        let path = format!("/v1/endpoints/{id}/rotate-secret");
        let rotated = rig.send("POST", &path, &json!({ "revoke_now": true })).await;
        assert_eq!((rotated.status, rotated.header(BEHIND)), (200, ""), "{rotated:?}");
        let lead = format!("lead_{number}");
        rig.publish(event("org_1", &lead)).await;
        secrets.insert(lead, rig.named(&rotated).1);
        // Waits before the next rotation, because the next secret could otherwise sign this event.
        wait_until("it arrives", SOON, || receiver.count() == secrets.len()).await;
    }
    for request in receiver.requests() {
        request.verify(&secrets[&request.lead]);
    }
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rotation_with_revoke_now_no_request_has_the_old_signature() {
    secrets_that_are_revoked_sign_nothing_more(1).await;
    secrets_that_are_revoked_sign_nothing_more(3).await;
}

/// Disables and deletes an endpoint while events are published. The worker has few slots and the receiver is
/// slow, so there are always deliveries that were fanned out and wait for a slot.
async fn under_load(workers: usize) {
    /// How long after the answer the receiver may read a request that was sent before it.
    const UNDER_WAY: Duration = Duration::from_millis(50);
    let settings = [("MAGNETITE_WORKER__IN_FLIGHT_MAX", "8")];
    let installation = Installation::with("suspended", &shared_broker(), &DELAYS_MS, &settings).await;
    let rig = Rig::on(installation, workers).await;
    let receiver = Receiver::new(|_, _| Answer::Late(Duration::from_millis(40), 200)).await;
    let (id, _) = rig.create(&json!({ "url": receiver.url() })).await;
    let load = Load::start(&rig.installation, "org_1", 200);
    for (method, path, status) in [
        ("POST", format!("/v1/endpoints/{id}/disable"), 200),
        ("DELETE", format!("/v1/endpoints/{id}"), 204),
    ] {
        let before = receiver.count();
        wait_until("events flow", SOON, || receiver.count() > before + 20).await;
        let done = rig.send(method, &path, &json!({})).await;
        let answered = Instant::now();
        assert_eq!((done.status, done.header(BEHIND)), (status, ""), "{done:?}");
        wait_until("some time passes", SOON, || {
            answered.elapsed() > Duration::from_millis(700)
        })
        .await;
        let late = receiver
            .requests()
            .into_iter()
            .filter(|request| request.at > answered + UNDER_WAY);
        let late: Vec<_> = late.map(|request| request.at - answered).collect();
        assert!(late.is_empty(), "{method}: received after the answer: {late:?}");
        if status == 200 {
            let enabled = rig
                .send("POST", &format!("/v1/endpoints/{id}/enable"), &json!({}))
                .await;
            assert_eq!(enabled.status, 200, "{enabled:?}");
        }
    }
    load.stop().await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_nothing_is_received_after_disabling_or_deleting_is_answered() {
    under_load(1).await;
    under_load(3).await;
}

/// Revokes the endpoint's secret. The API waits for the worker that stands still, and then names it as
/// behind. Returns the new secret and the worker's name.
async fn revoke_while_worker_stands_still(rig: &Rig, id: &str) -> (String, String) {
    let asked = Instant::now();
    let path = format!("/v1/endpoints/{id}/rotate-secret");
    let answer = rig.send("POST", &path, &json!({ "revoke_now": true })).await;
    let took = asked.elapsed();
    let (_, secret) = rig.named(&answer);
    let name = answer.header(BEHIND).to_owned();
    assert!(!name.is_empty() && !name.contains(','), "{answer:?}");
    assert_eq!(answer.body["workers_behind"], json!([name]));
    assert!(
        took > Duration::from_millis(1500) && took < Duration::from_secs(3),
        "{took:?}"
    );
    // At the end of this wait, the worker has been silent for more than three seconds, but it is still
    // connected to the broker.
    wait_until("its announcement has expired", SOON, || {
        asked.elapsed() > Duration::from_millis(3500)
    })
    .await;
    (secret, name)
}

/// Disables the endpoint. The command does not wait for the worker of this name any more, but still names it.
async fn disable_without_waiting(rig: &Rig, id: &str, name: &str) {
    let (asked, output) = (
        Instant::now(),
        rig.installation.cli(&["endpoint", "disable", id, "--json"]).await,
    );
    assert!(
        asked.elapsed() < Duration::from_millis(1500),
        "{:?}",
        asked.elapsed()
    );
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains(&format!("these workers may not act on this change yet: {name}")),
        "{said}"
    );
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["workers_behind"], json!([name]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stands_still_is_named_and_acts_on_nothing_old_when_it_goes_on() {
    let rig = Rig::new("still", 1).await;
    let [rotated, suspended, new] = [Receiver::ok().await, Receiver::ok().await, Receiver::ok().await];
    let (rotated_id, _) = rig.create(&json!({ "url": rotated.url() })).await;
    let (suspended_id, _) = rig.create(&json!({ "url": suspended.url() })).await;
    rig.workers[0].signal("STOP").await;

    let (secret, name) = revoke_while_worker_stands_still(&rig, &rotated_id).await;
    disable_without_waiting(&rig, &suspended_id, &name).await;
    let created = rig
        .send("POST", "/v1/endpoints", &json!({ "url": new.url() }))
        .await;
    assert_eq!(
        (created.status, created.header(BEHIND)),
        (201, &*name),
        "{created:?}"
    );
    rig.named(&created);
    for number in 0..20 {
        rig.publish(event("org_1", &format!("lead_{number}"))).await;
    }
    rig.workers[0].signal("CONT").await;
    wait_until("all arrive", SOON, || rotated.count() == 20 && new.count() == 20).await;
    for request in rotated.requests() {
        request.verify(&secret);
    }
    assert_eq!(
        suspended.count(),
        0,
        "it was disabled before the first event was published"
    );
    let enabled = rig
        .send(
            "POST",
            &format!("/v1/endpoints/{suspended_id}/enable"),
            &json!({}),
        )
        .await;
    assert_eq!((enabled.status, enabled.header(BEHIND)), (200, ""), "{enabled:?}");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_have_ended_are_waited_for_no_longer_than_their_announcement_lasts() {
    let mut rig = Rig::new("ended", 2).await;
    let url = Receiver::ok().await.url();
    assert!(rig.workers.remove(0).terminate().await);
    let asked = Instant::now();
    rig.create(&json!({ "url": url })).await;
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "one that shut down is not waited for"
    );
    rig.workers.remove(0).kill().await;
    let killed = Instant::now();
    wait_until("its announcement has expired", SOON, || {
        killed.elapsed() > Duration::from_millis(3500)
    })
    .await;
    let asked = Instant::now();
    rig.create(&json!({ "url": url })).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    rig.end().await;
}

/// Waits until the worker's readiness says that it is cut off from the database, or does not, as `expected`
/// says.
async fn is_degraded(worker: &Role, expected: bool) {
    wait_for("readiness says whether the worker is degraded", SOON, || async {
        let ready = worker.get("/readyz").await.map_err(|error| error.to_string())?;
        let is = ready.contains("\ndegraded: worker: cut off from the database");
        if ready.starts_with("HTTP/1.1 200") && is == expected {
            Ok(())
        } else {
            Err(ready)
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_without_the_database_fanned_out_can_be_recovered_for_endpoints_it_did_not_know() {
    const EVENTS: usize = 5;
    let postgres = Postgres::start().await;
    let proxy = Proxy::to(postgres.url()).await;
    let settings = [("MAGNETITE_DATABASE__URL", postgres.url())];
    let installation = Installation::with("cut-off", &shared_broker(), &DELAYS_MS, &settings).await;
    let mut command = installation.command(&["worker"]);
    command.env("MAGNETITE_DATABASE__URL", proxy.url());
    let worker = installation.launch(command, "worker");
    worker.wait_until_ready().await;
    let recorder = installation.recorder().await;
    let rig = Rig::on(installation, 0).await;
    let [known, new, changed] = [Receiver::ok().await, Receiver::ok().await, Receiver::ok().await];
    rig.create(&json!({ "url": known.url() })).await;
    let narrow = json!({ "url": changed.url(), "events": ["lead.failed"] });
    let (changed_id, _) = rig.create(&narrow).await;
    is_degraded(&worker, false).await;
    rig.publish(event("org_1", "before")).await;
    wait_until("it arrives", SOON, || known.count() == 1).await;

    proxy.stall();
    is_degraded(&worker, true).await;
    let created = rig
        .send("POST", "/v1/endpoints", &json!({ "url": new.url() }))
        .await;
    assert_eq!(created.status, 201, "{created:?}");
    assert!(!created.header(BEHIND).is_empty(), "{created:?}");
    let (new_id, _) = rig.named(&created);
    let update = json!({ "events": ["*"] });
    let updated = rig
        .send("PATCH", &format!("/v1/endpoints/{changed_id}"), &update)
        .await;
    assert_eq!(updated.header(BEHIND), created.header(BEHIND), "{updated:?}");
    for number in 0..EVENTS {
        rig.publish(event("org_1", &format!("lead_{number}"))).await;
    }
    wait_until("deliveries go on", SOON, || known.count() == 1 + EVENTS).await;
    assert_eq!(new.count() + changed.count(), 0);
    proxy.resume();
    is_degraded(&worker, false).await;

    let recover = async |id: &str, more: &[&str]| -> Value {
        let mut arguments = vec!["endpoint", "recover", id, "--since", "1h", "--json"];
        arguments.extend(more);
        serde_json::from_str(&rig.installation.cli_ok(&arguments).await).unwrap()
    };
    for id in [&new_id, &changed_id] {
        wait_for("what it missed is counted", SOON, || async {
            let counted = recover(id, &["--dry-run"]).await;
            if counted["missed"] == EVENTS {
                Ok(())
            } else {
                Err(counted.to_string())
            }
        })
        .await;
        assert_eq!(recover(id, &[]).await["sent"], EVENTS);
    }
    wait_until("both have what they missed", SOON, || {
        new.count() == EVENTS && changed.count() == EVENTS
    })
    .await;
    assert!(worker.terminate().await && recorder.terminate().await);
    rig.end().await;
}

mod alone {
    use super::*;

    async fn created_then_published(workers: usize) -> Vec<f64> {
        let rig = Rig::new("created", workers).await;
        let receiver = Receiver::ok().await;
        let (endpoints, mut took_ms) = (scaled(50, 500), Vec::new());
        for number in 0..endpoints {
            let url = format!("{}/{number}", receiver.url());
            let json = json!({ "url": url, "project_id": format!("proj_{number}") });
            let asked = Instant::now();
            rig.create(&json).await;
            took_ms.push(asked.elapsed().as_secs_f64() * 1000.0);
            rig.publish(event_of_project(number)).await;
        }
        wait_for("each endpoint has its event", SOON, || async {
            match receiver.count() {
                count if count == endpoints => Ok(()),
                count => Err(count.to_string()),
            }
        })
        .await;
        for request in receiver.requests() {
            let number = request.lead.strip_prefix("lead_").unwrap();
            assert!(request.path.ends_with(&format!("/{number}")), "{request:?}");
        }
        rig.end().await;
        took_ms
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_published_right_after_an_endpoint_was_created_is_delivered_to_it() {
        for workers in [1, 3] {
            let mut took_ms = created_then_published(workers).await;
            let p50 = percentile(&mut took_ms, 50.0);
            let (p99, max) = (percentile(&mut took_ms, 99.0), percentile(&mut took_ms, 100.0));
            report(
                &format!("from creating an endpoint to the answer, {workers} workers"),
                format!(
                    "{} endpoints, p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms",
                    took_ms.len()
                ),
            );
            assert!(workers > 1 || p50 <= 50.0, "p50 {p50:.1} ms");
        }
    }
}
