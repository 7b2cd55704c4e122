//! Tests the journal over HTTP: it reports the same as the command line, and is as careful about sending
//! again.

use std::{collections::HashSet, time::Duration};

use e2e::{Answer, Answered, Api, Endpoint, Installation, Receiver, Role, SOON, event, wait_for, wait_until};
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};

use super::LONG;

const KEY: &str = "endpoints:read,deliveries:read,deliveries:write";

/// An API, a worker and a recorder, and a key of `org_1`.
struct Rig {
    installation: Installation,
    api: Api,
    key: String,
    worker: Role,
    recorder: Role,
}

impl Rig {
    async fn with_delays(name: &str, delays_ms: &[u64]) -> Self {
        let installation = Installation::with_delays(name, delays_ms).await;
        Self {
            api: Api::start(&installation).await,
            key: installation.key("org_1", KEY).await,
            worker: installation.worker().await,
            recorder: installation.recorder().await,
            installation,
        }
    }

    async fn get(&self, path: &str) -> Value {
        let answered = self.api.get(path, &self.key).await;
        assert_eq!(answered.status, 200, "{path}: {answered:?}");
        answered.body
    }

    async fn post(&self, path: &str, body: &Value) -> Answered {
        self.api
            .send("POST", path, &self.key, &[], body.to_string())
            .await
    }

    /// Publishes this many events, waits until all of their deliveries are dead, and returns the ids of the
    /// deliveries.
    async fn dead(&self, organization: &str, count: usize) -> Vec<String> {
        let events: Vec<_> = (0..count)
            .map(|lead| event(organization, &format!("{organization}_{lead}")))
            .collect();
        self.installation.amqp().publish(&events).await;
        let list = [
            "delivery",
            "list",
            "--state",
            "dead",
            "--org",
            organization,
            "--limit",
            "10000",
        ];
        let listed = self.installation.wait_for_listed(&list, count, LONG).await;
        listed
            .iter()
            .map(|row| row["id"].as_str().unwrap().to_owned())
            .collect()
    }

    async fn end(self) {
        for role in [self.api.role, self.worker, self.recorder] {
            assert!(role.terminate().await);
        }
        self.installation.delete().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_story_is_told_over_http_as_on_the_command_line() {
    let rig = Rig::with_delays("http-story", &[200]).await;
    let (good, bad) = (
        Receiver::ok().await,
        Receiver::new(|_, _| Answer::Body(500, "oops")).await,
    );
    let installation = &rig.installation;
    installation.endpoint("org_1", &good.url()).await;
    let failing = installation.endpoint("org_1", &bad.url()).await;
    installation
        .endpoint_with("org_1", &good.url(), &["--events", "research.*"])
        .await;
    known(&rig, 3.0).await;
    let dead = rig.dead("org_1", 1).await.remove(0);
    installation
        .wait_until_recorded(&[&rig.worker], &rig.recorder, SOON)
        .await;

    let listed = rig.get("/v1/events").await;
    let shown = installation.json(&["event", "list"]).await;
    assert_eq!(listed["data"].as_array().unwrap(), &shown);
    assert_eq!(
        listed["data"][0]["deliveries"],
        json!({ "delivered": 1, "dead": 1, "cancelled": 0, "pending": 0 })
    );
    let id = shown[0]["id"].as_str().unwrap();
    let told = rig.get(&format!("/v1/events/{id}")).await;
    assert_eq!(told, installation.json(&["event", "show", id, "--body"]).await[0]);
    let verdicts: HashSet<_> = told["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|endpoint| endpoint["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(verdicts, HashSet::from(["matched", "event_type"]));

    let deliveries = rig.get("/v1/deliveries").await;
    assert_eq!(
        deliveries["data"].as_array().unwrap(),
        &installation.json(&["delivery", "list"]).await
    );
    let mut delivery = installation.json(&["delivery", "show", &dead]).await.remove(0);
    let attempts = delivery.as_object_mut().unwrap().remove("attempts").unwrap();
    assert_eq!(rig.get(&format!("/v1/deliveries/{dead}")).await, delivery);
    let listed = rig.get(&format!("/v1/deliveries/{dead}/attempts")).await;
    assert_eq!(listed["data"], attempts);
    assert_eq!(
        (attempts.as_array().unwrap().len(), &attempts[0]["response"]),
        (2, &json!("oops"))
    );

    let health = rig.get(&format!("/v1/endpoints/{}/health", failing.id)).await;
    assert_eq!(health, installation.show(&failing).await["health"]);
    assert_eq!(
        (&health["attempts_last_hour"], &health["success_rate_last_hour"]),
        (&json!(2), &json!(0.0))
    );
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_sent_again_once_however_many_ask_at_once() {
    let rig = Rig::with_delays("http-resend", &[200]).await;
    // Both attempts of the first run fail. The attempt of the second run hangs until the test releases it.
    let receiver = Receiver::new(|_, before| {
        if before < 2 {
            Answer::status(500)
        } else {
            Answer::Hang
        }
    })
    .await;
    rig.installation.endpoint("org_1", &receiver.url()).await;
    rig.installation.endpoint("org_2", &receiver.url()).await;
    known(&rig, 2.0).await;
    let dead = rig.dead("org_1", 1).await.remove(0);
    let foreign = rig.dead("org_2", 1).await.remove(0);
    let path = format!("/v1/deliveries/{dead}/resend");
    let nothing = json!({});
    let answers = join_all((0..8).map(|_| rig.post(&path, &nothing))).await;
    let run = answers[0].body["id"].as_str().unwrap().to_owned();
    for answered in &answers {
        assert_eq!(
            (answered.status, &answered.body),
            (202, &json!({ "resend_of": dead, "id": run }))
        );
    }
    wait_until("it arrives", SOON, || receiver.count() == 5).await;
    let asked = json!({ "ids": [dead, run, foreign, "dlv_nothing"] });
    let answered = rig.post("/v1/deliveries/resend", &asked).await;
    assert_eq!(
        answered.body["results"],
        json!([
            { "resend_of": dead, "id": run, "refused": null },
            { "resend_of": run, "id": run, "refused": null },
            { "resend_of": foreign, "id": null, "refused": "not_found" },
            { "resend_of": "dlv_nothing", "id": null, "refused": "not_found" },
        ])
    );
    receiver.release();
    rig.installation
        .wait_for_listed(&["delivery", "list", "--state", "delivered"], 1, SOON)
        .await;
    assert_eq!(receiver.count(), 5, "nothing was sent twice");

    // A delivery that has ended can be sent again, but another organization's cannot.
    let again = rig
        .post(&format!("/v1/deliveries/{run}/resend"), &json!({}))
        .await;
    assert_eq!(again.status, 202, "{again:?}");
    assert_ne!(again.body["id"], run);
    let missing = rig
        .post(&format!("/v1/deliveries/{foreign}/resend"), &json!({}))
        .await;
    assert_eq!(missing.problem(), "not-found");
    wait_until("that arrives, too", SOON, || receiver.count() == 6).await;
    receiver.release();
    rig.end().await;
}

/// Clients that disconnect in the middle, and concurrent clients: nothing is sent twice, and nothing is left.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_recovers_call_by_call_and_nothing_is_sent_twice() {
    const COUNT: usize = 330;
    let rig = Rig::with_delays("http-recover", &[100]).await;
    let receiver = Receiver::new(|request, before| {
        let is_missed = request.lead.starts_with("missed");
        Answer::status(if is_missed || before >= 2 { 200 } else { 500 })
    })
    .await;
    let endpoint = rig.installation.endpoint("org_1", &receiver.url()).await;
    known(&rig, 1.0).await;
    rig.dead("org_1", COUNT).await;
    let missed = missed(&rig, &endpoint).await;
    let path = format!("/v1/endpoints/{}/recover", endpoint.id);
    let asked = json!({ "since_ms": 0, "limit": 50 });
    let counted = rig
        .post(&path, &json!({ "since_ms": 0, "limit": 1000, "dry_run": true }))
        .await;
    assert_eq!(
        counted.body,
        json!({
            "dead": COUNT, "missed": missed, "left": 0, "sent": 0, "more": false, "next_cursor": null, "event_missing": [],
            "dry_run": true,
        })
    );

    // These clients disconnect before anything is done, in the middle, and afterwards.
    for patience_ms in [0, 1, 2, 5, 10, 20, 40] {
        let request = rig
            .api
            .request("POST", &path, &rig.key)
            .header("content-type", "application/json")
            .timeout(Duration::from_millis(patience_ms));
        let _ = request.body(asked.to_string()).send().await;
    }
    let clients = (0..3).map(|_| async {
        loop {
            let answered = rig.post(&path, &asked).await;
            assert_eq!(answered.status, 200, "{answered:?}");
            assert!(answered.body["sent"].as_u64().unwrap() <= 50, "{answered:?}");
            if answered.body["more"] == false {
                return;
            }
        }
    });
    join_all(clients).await;
    let all = COUNT + missed;
    wait_until("all of it arrives", LONG, || receiver.accepted() == all).await;
    let list = ["delivery", "list", "--state", "pending"];
    rig.installation.wait_for_listed(&list, 0, LONG).await;
    assert_eq!(receiver.count(), 2 * COUNT + all, "nothing was sent twice");
    let again = rig.post(&path, &asked).await;
    assert_eq!(
        (&again.body["sent"], &again.body["more"]),
        (&json!(0), &json!(false))
    );
    rig.installation.audit().await.assert_settled();
    rig.end().await;
}

/// The endpoint fails all the time. Everything that is sent is dead again before the next page is sent.
#[tokio::test(flavor = "multi_thread")]
async fn page_by_page_everything_is_sent_once_and_what_has_no_event_is_named() {
    const COUNT: usize = 5;
    let rig = Rig::with_delays("http-pages", &[100]).await;
    let receiver = Receiver::new(|_, _| Answer::status(500)).await;
    let endpoint = rig.installation.endpoint("org_1", &receiver.url()).await;
    known(&rig, 1.0).await;
    let dead = rig.dead("org_1", COUNT).await;
    let path = format!("/v1/endpoints/{}/recover", endpoint.id);
    let (mut sent, mut pages, mut cursor) = (0, 0, Value::Null);
    loop {
        let asked = json!({ "since_ms": 0, "limit": 2, "cursor": cursor });
        let answered = rig.post(&path, &asked).await;
        assert_eq!(answered.status, 200, "{answered:?}");
        sent += answered.body["sent"].as_u64().unwrap() as usize;
        pages += 1;
        let list = ["delivery", "list", "--state", "dead"];
        rig.installation.wait_for_listed(&list, COUNT + sent, LONG).await;
        cursor = answered.body["next_cursor"].clone();
        assert_eq!(answered.body["more"], cursor.is_string(), "{answered:?}");
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!((sent, pages), (COUNT, 3));
    assert_eq!(receiver.count(), 2 * 2 * COUNT, "nothing was sent twice");

    // Without the cursor, everything is found again.
    without_event(&rig, &dead[0]).await;
    let answered = rig.post(&path, &json!({ "since_ms": 0 })).await;
    assert_eq!(
        answered.body,
        json!({
            "dead": COUNT - 1, "missed": 0, "left": 0, "sent": COUNT - 1, "more": false, "next_cursor": null,
            "event_missing": [dead[0]], "dry_run": false,
        })
    );
    rig.end().await;
}

/// Makes a delivery one that was requested and not sent, and deletes its event.
async fn without_event(rig: &Rig, delivery: &str) {
    let path = rig.installation.directory().join("magnetite.db");
    let url = format!("sqlite://{}", path.display());
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    for sql in [
        "UPDATE deliveries SET state = 0, attempts = 0, requested_ms = updated_ms, sent_ms = NULL WHERE id = $1",
        "DELETE FROM events WHERE id = (SELECT event_id FROM deliveries WHERE id = $1)",
    ] {
        let changed = sqlx::query(sql).bind(delivery).execute(&mut database).await;
        assert_eq!(changed.unwrap().rows_affected(), 1, "{sql}");
    }
}

/// Publishes events while the endpoint is disabled, and returns their number.
async fn missed(rig: &Rig, endpoint: &Endpoint) -> usize {
    const COUNT: usize = 20;
    let installation = &rig.installation;
    installation.cli_ok(&["endpoint", "disable", &endpoint.id]).await;
    known(rig, 2.0).await;
    let events: Vec<_> = (0..COUNT)
        .map(|lead| event("org_1", &format!("missed_{lead}")))
        .collect();
    installation.amqp().publish(&events).await;
    installation.amqp().wait_for_ready("events", 0, LONG).await;
    installation
        .wait_until_recorded(&[&rig.worker], &rig.recorder, LONG)
        .await;
    let refused = rig
        .post(
            &format!("/v1/endpoints/{}/recover", endpoint.id),
            &json!({ "since_ms": 0 }),
        )
        .await;
    assert_eq!(refused.problem(), "conflict", "{refused:?}");
    installation.cli_ok(&["endpoint", "enable", &endpoint.id]).await;
    known(rig, 3.0).await;
    COUNT
}

/// Waits until the worker has at least this version of the endpoints.
async fn known(rig: &Rig, version: f64) {
    wait_for("the worker knows of the change", SOON, || async {
        let found = rig.worker.metric("magnetite_registry_version", "").await;
        if found >= version {
            Ok(())
        } else {
            Err(format!("version {found}"))
        }
    })
    .await;
}
