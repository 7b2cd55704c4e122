//! Tests relays: `listen` receives real events over the API, its answers count, and a relay ends with its program.

mod frames;
mod hostile;
mod lasting;
mod managed;
mod many;
mod outages;

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use client::{ApiKey, Client};
use e2e::{Answer, Answered, Api, Installation, Receiver, Role, SOON, binary, event, wait_for, wait_until};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
    time::timeout,
};

/// The maximum time until a connection learns that its relay or its key has ended: the interval between two renewals of
/// the lease, and some seconds.
const TOLD_MAX: Duration = Duration::from_secs(30);

/// A running system, with a key of `org_1` for everything.
struct Rig {
    installation: Installation,
    api: Api,
    worker: Role,
    recorder: Role,
    key: String,
}

/// A running `magnetite listen`.
struct Listen {
    child: Child,
    /// The id of its endpoint.
    endpoint: String,
    lines: Lines<BufReader<ChildStdout>>,
    told: Lines<BufReader<ChildStderr>>,
}

impl Rig {
    /// Starts a system that makes up to five attempts within two seconds.
    async fn new(name: &str) -> Self {
        Self::on(Installation::with_delays(name, &[100, 200, 400, 800]).await).await
    }

    async fn on(installation: Installation) -> Self {
        Self {
            api: Api::start(&installation).await,
            worker: installation.worker().await,
            recorder: installation.recorder().await,
            key: installation.key("org_1", "admin").await,
            installation,
        }
    }

    /// Starts `magnetite listen` over the API with these options, and waits until it receives events.
    async fn listen(&self, more: &[&str]) -> Listen {
        self.listen_at(self.api.url(), &self.key, more).await
    }

    /// Starts `magnetite listen` over the API at this URL with this key.
    async fn listen_at(&self, url: &str, key: &str, more: &[&str]) -> Listen {
        let mut child = Command::new(binary())
            .args([&["listen", "--json", "--api", url][..], more].concat())
            .env_clear()
            .env("MAGNETITE_API_KEY", key)
            .current_dir(self.installation.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut listen = Listen {
            endpoint: String::new(),
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            told: BufReader::new(child.stderr.take().unwrap()).lines(),
            child,
        };
        let greeting = listen.tells("receiving the events of org_1", SOON).await;
        listen.endpoint = last_word(&greeting);
        listen
    }

    /// Publishes an event of `org_1` over the API. Returns its id.
    async fn publish(&self, lead: &str) -> String {
        let event = event("org_1", lead);
        let answered = self.api.send("POST", "/v1/events", &self.key, &[], event).await;
        assert_eq!(answered.status, 202, "{answered:?}");
        answered.body["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the only delivery of the event is recorded in this state, and returns it.
    async fn delivery(&self, event: &str, state: &str) -> Value {
        let path = format!("/v1/deliveries?event_id={event}&state={state}");
        wait_for("the delivery is recorded", SOON, || async {
            let listed = self.api.get(&path, &self.key).await;
            match listed.body["data"].as_array().map(Vec::as_slice) {
                Some([delivery]) => Ok(delivery.clone()),
                _ => Err(format!("{listed:?}")),
            }
        })
        .await
    }

    /// Returns the attempts of a delivery.
    async fn attempts(&self, delivery: &Value) -> Value {
        let path = format!("/v1/deliveries/{}/attempts", delivery["id"].as_str().unwrap());
        self.api.get(&path, &self.key).await.body["data"].clone()
    }

    async fn is_gone(&self, endpoint: &str) -> bool {
        let path = format!("/v1/endpoints/{endpoint}");
        self.api.get(&path, &self.key).await.status == 404
    }

    async fn wait_until_gone(&self, endpoint: &str, limit: Duration) {
        wait_for("the endpoint is deleted", limit, || async {
            if self.is_gone(endpoint).await {
                Ok(())
            } else {
                Err(format!("{endpoint} is still there"))
            }
        })
        .await;
    }

    async fn end(self) {
        for role in [self.api.role, self.worker, self.recorder] {
            assert!(role.terminate().await);
        }
        self.installation.delete().await;
    }
}

impl Listen {
    /// Waits until a line on standard error contains these words, and returns it.
    async fn tells(&mut self, words: &str, limit: Duration) -> String {
        let telling = async {
            let mut before = Vec::new();
            while let Some(line) = self.told.next_line().await.unwrap() {
                if line.contains(words) {
                    return line;
                }
                before.push(line);
            }
            panic!("listen ended and did not say {words:?}: {before:?}");
        };
        let told = timeout(limit, telling).await;
        told.unwrap_or_else(|_| panic!("listen did not say {words:?} within {limit:?}"))
    }

    /// Waits for the next request that is printed.
    async fn prints(&mut self) -> Value {
        let line = timeout(SOON, self.lines.next_line()).await.unwrap();
        serde_json::from_str(&line.unwrap().expect("listen goes on")).unwrap()
    }

    /// Waits until a request about this lead is printed.
    async fn prints_lead(&mut self, lead: &str) {
        while self.prints().await["lead"] != lead {}
    }

    /// Waits until the command has exited. Returns its exit code and what it has printed since the last look.
    async fn ends(mut self) -> (Option<i32>, Vec<Value>) {
        let mut printed = Vec::new();
        let ending = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                printed.push(serde_json::from_str(&line).unwrap());
            }
            self.child.wait().await.unwrap()
        };
        let status = timeout(SOON, ending).await.unwrap();
        (status.code(), printed)
    }

    async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status()
            .await
            .unwrap();
        assert!(sent.success());
    }
}

fn last_word(text: &str) -> String {
    let word = text.trim().rsplit(' ').next().unwrap();
    assert!(word.starts_with("ep_"), "{text}");
    word.to_owned()
}

fn client(url: &str, key: &str) -> Client {
    let key = ApiKey::parse(key).unwrap();
    Client::builder(url, key).no_proxy().build().unwrap()
}

/// Returns the number and the status of each attempt; 0 if there was no response.
fn statuses(attempts: &Value) -> Vec<u64> {
    let attempts = attempts.as_array().unwrap().iter();
    attempts
        .map(|attempt| attempt["status"].as_u64().unwrap_or(0))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn listen_receives_the_events_of_its_organization_and_its_answers_count() {
    let rig = Rig::new("relay-listen").await;
    let listen = rig.listen(&["--fail", "500,drop", "--count", "3"]).await;
    let endpoint = listen.endpoint.clone();
    let stranger = rig.installation.key("org_2", "admin").await;
    let foreign = event("org_2", "lead_2");
    let answered = rig.api.send("POST", "/v1/events", &stranger, &[], foreign).await;
    assert_eq!(answered.status, 202, "{answered:?}");
    let id = rig.publish("lead_1").await;
    let (code, printed) = listen.ends().await;
    assert_eq!(code, Some(0));
    let seen: Vec<_> = printed
        .iter()
        .map(|line| {
            (
                line["event_id"].as_str().unwrap(),
                line["attempt"].as_u64().unwrap(),
            )
        })
        .collect();
    let id = id.as_str();
    assert_eq!(seen, [(id, 1), (id, 2), (id, 3)], "{printed:?}");
    assert!(printed.iter().all(|line| line["verified"] == true), "{printed:?}");
    assert_eq!(printed[0]["headers"]["content-type"], "application/json");
    assert_eq!(printed[2]["repeated"], true);

    let delivery = rig.delivery(id, "delivered").await;
    assert_eq!(delivery["endpoint_id"], endpoint);
    let attempts = rig.attempts(&delivery).await;
    assert_eq!(statuses(&attempts), [500, 0, 200], "{attempts}");
    let response = attempts[0]["response"].as_str().unwrap_or_default();
    assert!(response.starts_with("500 "), "{attempts}");
    assert_eq!(attempts[1]["failure"], "connection_reset", "{attempts}");
    assert!(rig.is_gone(&endpoint).await, "the endpoint ends with the command");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listen_receives_only_the_types_and_the_project_that_were_named() {
    let rig = Rig::new("relay-filters").await;
    let mut typed = rig.listen(&["--events", "research.*", "--count", "1"]).await;
    let key = rig.installation.key("org_1", "endpoints:write").await;
    let project = ["--project", "proj_other", "--count", "1"];
    let mut other = rig.listen_at(rig.api.url(), &key, &project).await;
    let events = [
        event("org_1", "lead_1"),
        e2e::event_of("research.started", "org_1", "lead_2"),
        event("org_1", "lead_3").replace("proj_1", "proj_other"),
    ];
    rig.installation.amqp().publish(&events).await;
    assert_eq!(typed.prints().await["lead"], "lead_2");
    assert_eq!(other.prints().await["lead"], "lead_3");
    for listen in [typed, other] {
        assert_eq!(listen.ends().await, (Some(0), Vec::new()));
    }
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listen_forwards_real_events_and_answers_what_the_application_answers() {
    let rig = Rig::new("relay-forward").await;
    let app = Receiver::new(|_, before| match before {
        0 => Answer::Status(503, vec![("retry-after", "1".to_owned())]),
        1 => Answer::status(418),
        _ => Answer::Body(202, "thank you"),
    })
    .await;
    let listen = rig.listen(&["--forward", &app.url(), "--count", "3"]).await;
    let id = rig.publish("lead_1").await;
    let (code, printed) = listen.ends().await;
    assert_eq!(code, Some(0));
    assert_eq!(printed[2]["status"], 202, "{printed:?}");
    let request = &app.requests()[2];
    assert_eq!((request.event_id(), request.attempt()), (id.clone(), 3));
    assert_eq!(request.lead, "lead_1");
    let delivery = rig.delivery(&id, "delivered").await;
    let attempts = rig.attempts(&delivery).await;
    assert_eq!(statuses(&attempts), [503, 418, 202], "{attempts}");
    // The delay tiers end at 800 ms.
    let receipts = &app.receipts()["lead_1"];
    let waited = receipts[1].at - receipts[0].at;
    assert!(
        waited >= Duration::from_millis(700),
        "Retry-After is lost: {waited:?}"
    );
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_listen_after_the_answer_that_is_in_progress() {
    let rig = Rig::new("relay-signal").await;
    let app = Receiver::new(|_, _| Answer::Late(Duration::from_secs(2), 200)).await;
    let listen = rig.listen(&["--forward", &app.url()]).await;
    let endpoint = listen.endpoint.clone();
    let id = rig.publish("lead_1").await;
    wait_until("the application has the request", SOON, || app.count() == 1).await;
    listen.signal("TERM").await;
    let (code, printed) = listen.ends().await;
    assert_eq!((code, printed.len()), (Some(0), 1), "{printed:?}");
    let delivery = rig.delivery(&id, "delivered").await;
    assert_eq!(statuses(&rig.attempts(&delivery).await), [200]);
    assert!(rig.is_gone(&endpoint).await);
    rig.end().await;
}

/// The reader of standard output has stopped, as `less` does after its first page.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_listen_although_its_output_is_not_read() {
    let rig = Rig::new("relay-blocked").await;
    let mut listen = rig.listen(&[]).await;
    let endpoint = listen.endpoint.clone();
    // Each is longer than what a pipe holds.
    let text = format!(r#""data":{{"text":"{}","#, "x".repeat(200 * 1024));
    let events: Vec<_> = (0..8)
        .map(|number| event("org_1", &format!("lead_{number}")).replace(r#""data":{"#, &text))
        .collect();
    rig.installation.amqp().publish(&events).await;
    let beginning = timeout(SOON, listen.lines.get_mut().fill_buf()).await.unwrap();
    assert!(!beginning.unwrap().is_empty(), "listen goes on");
    listen.signal("TERM").await;
    listen.tells("ending; a second signal ends at once", SOON).await;
    let status = timeout(SOON, listen.child.wait()).await.unwrap();
    assert_eq!(status.unwrap().code(), Some(0));
    assert!(rig.is_gone(&endpoint).await);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_listen_at_once() {
    let rig = Rig::new("relay-signals").await;
    let app = Receiver::new(|_, _| Answer::Hang).await;
    let listen = rig.listen(&["--forward", &app.url()]).await;
    rig.publish("lead_1").await;
    wait_until("the application has the request", SOON, || app.count() == 1).await;
    let began = Instant::now();
    listen.signal("INT").await;
    // A signal that arrives before the first one was handled counts as one.
    wait_for("the second signal is counted", SOON, || async {
        listen.signal("INT").await;
        let path = format!("/proc/{}/stat", listen.child.id().unwrap());
        let stat = std::fs::read_to_string(path).unwrap_or_default();
        let has_ended = stat.is_empty() || stat.contains(") Z ");
        has_ended.then_some(()).ok_or(stat)
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(listen.ends().await.0, Some(1));
    app.release();
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_listen_with_the_same_key_ends_the_first() {
    let rig = Rig::new("relay-second").await;
    let mut first = rig.listen(&[]).await;
    let mut second = rig.listen(&["--count", "1"]).await;
    let told = first.tells("has ended", TOLD_MAX).await;
    assert!(
        told.contains(&first.endpoint) && told.contains("a key for each"),
        "{told}"
    );
    assert_eq!(first.ends().await, (Some(1), Vec::new()));
    rig.publish("lead_1").await;
    assert_eq!(second.prints().await["lead"], "lead_1");
    assert_eq!(second.ends().await.0, Some(0));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listen_ends_when_its_endpoint_is_deleted_or_its_key_is_revoked() {
    let rig = Rig::new("relay-revoked").await;
    let create = [
        "api-key",
        "create",
        "--org",
        "org_1",
        "--name",
        "n",
        "--scopes",
        "endpoints:write",
    ];
    let created = rig.installation.json(&create).await.remove(0);
    let key = created["key"].as_str().unwrap();
    rig.installation.keep_secret(key);
    let mut revoked = rig.listen_at(rig.api.url(), key, &[]).await;
    let mut deleted = rig.listen(&[]).await;
    let revoke = ["api-key", "revoke", created["id"].as_str().unwrap()];
    rig.installation.cli_ok(&revoke).await;
    let path = format!("/v1/endpoints/{}", deleted.endpoint);
    let delete = rig.api.request("DELETE", &path, &rig.key);
    assert_eq!(Answered::to(delete).await.status, 204);
    deleted.tells("it was deleted", TOLD_MAX).await;
    assert_eq!(deleted.ends().await.0, Some(1));
    revoked.tells("the API key is no longer valid", TOLD_MAX).await;
    assert_eq!(revoked.ends().await.0, Some(1));
    rig.end().await;
}

#[tokio::test]
async fn listen_needs_a_secret_or_an_api_and_not_both() {
    let api = ["--api", "http://127.0.0.1:1"];
    let secret = ["--secret", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="];
    let (addr, events) = (["--addr", "127.0.0.1:0"], ["--events", "lead.completed"]);
    for (arguments, words) in [
        (vec![], "--secret or WEBHOOK_SECRET"),
        (vec![api, secret], "omit --secret"),
        (vec![api, addr], "--addr is for requests that arrive on a port"),
        (vec![secret, events], "apply only over the HTTP API"),
        (vec![api], "MAGNETITE_API_KEY is not set"),
    ] {
        let arguments: Vec<&str> = arguments.into_iter().flatten().collect();
        let output = Command::new(binary())
            .arg("listen")
            .args(&arguments)
            .env_clear()
            .output()
            .await
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}
