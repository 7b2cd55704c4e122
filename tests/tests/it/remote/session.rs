//! Tests a session from a laptop, as docs/remote.md tells it: a fresh directory, the program, and a key.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use e2e::{Answer, Receiver, SOON, binary, wait_for, wait_until, with_input};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use super::{Rig, stderr, stdout};

const EVENT: [&str; 6] = [
    "--event",
    "lead.completed",
    "--org",
    "org_1",
    "--project",
    "proj_1",
];

/// A user with a fresh home directory.
struct Session {
    home: TempDir,
    /// The key, which no output may contain.
    key: String,
}

impl Session {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.home.path())
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command that succeeds, and returns its results.
    async fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().await.unwrap();
        let (printed, told) = (stdout(&output), stderr(&output));
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {told}");
        assert!(
            !printed.contains(&self.key) && !told.contains(&self.key),
            "{arguments:?}"
        );
        printed
    }

    /// Runs a command with `--json`, and returns the objects that it prints.
    async fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let printed = self.run(&[arguments, &["--json"]].concat()).await;
        let objects = printed.lines().map(|line| serde_json::from_str(line).unwrap());
        objects.collect()
    }

    /// Publishes an event about this lead, and returns its id.
    async fn publish(&self, lead: &str) -> String {
        let publish = [&["publish"][..], &EVENT, &["--lead", lead]].concat();
        self.run(&publish).await.trim().to_owned()
    }

    /// Waits until the event's only delivery in this state is listed, and returns its id.
    async fn delivery(&self, event: &str, state: &str) -> String {
        let list = ["delivery", "list", "--event", event, "--state", state];
        wait_for("the delivery is listed", SOON, || async {
            match self.json(&list).await.as_slice() {
                [delivery] => Ok(delivery["id"].as_str().unwrap().to_owned()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// Starts a command that goes on, and returns it with what it says.
    fn start(&self, arguments: &[&str]) -> (Child, Lines<BufReader<ChildStderr>>) {
        let mut command = self.command(arguments);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let told = BufReader::new(child.stderr.take().unwrap()).lines();
        (child, told)
    }

    /// Waits until a command says these words, and returns the line.
    async fn tells(&self, told: &mut Lines<BufReader<ChildStderr>>, words: &str) -> String {
        let telling = async {
            while let Some(line) = told.next_line().await.unwrap() {
                assert!(!line.contains(&self.key), "the key is told before {words:?}");
                if line.contains(words) {
                    return line;
                }
            }
            panic!("the command ended and did not say {words:?}");
        };
        timeout(SOON, telling).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_and_the_program_are_enough_for_a_session_from_a_laptop() {
    let rig = Rig::new("session").await;
    let session = Session {
        home: tempfile::tempdir().unwrap(),
        key: rig.laptop.key.clone(),
    };
    let status = Arc::new(AtomicU16::new(200));
    let answers = Arc::clone(&status);
    let receiver = Receiver::new(move |_, _| Answer::status(answers.load(Ordering::SeqCst))).await;

    logs_in(&rig, &session).await;
    let url = receiver.url();
    let create = ["endpoint", "create", "--org", "org_1", "--url", &url];
    let created = session.json(&create).await.remove(0);
    rig.installation.keep_secret(created["secret"].as_str().unwrap());
    let id = created["id"].as_str().unwrap();
    publishes_and_watches(&session, id).await;
    repairs(&session, id, &status, &receiver).await;

    let rotated = session.json(&["endpoint", "rotate-secret", id]).await.remove(0);
    let secret = rotated["secret"].as_str().unwrap();
    rig.installation.keep_secret(secret);
    assert_ne!(created["secret"], rotated["secret"]);
    let changes = session.json(&["changes", "--limit", "10"]).await;
    let about = changes.iter().filter(|change| change["subject"] == id);
    assert!(about.count() >= 2, "it was created and rotated: {changes:?}");

    listens_and_forwards(&session).await;
    session.run(&["endpoint", "delete", id, "--yes"]).await;
    session.run(&["logout"]).await;
    let output = session.command(&["endpoint", "list"]).output().await.unwrap();
    assert!(!output.status.success(), "{}", stdout(&output));
    rig.end().await;
}

async fn logs_in(rig: &Rig, session: &Session) {
    let login = session.command(&["login", rig.api.url()]);
    let output = with_input(login, format!("{}\n", session.key).as_bytes()).await;
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(!told.contains(&session.key), "{told}");
    let config = session.run(&["config"]).await;
    assert!(config.contains(rig.api.url()), "{config}");
}

/// Publishes events, and sees them in the journal and, as they happen, with `event tail`.
async fn publishes_and_watches(session: &Session, endpoint: &str) {
    let event = session.publish("lead_1").await;
    session.delivery(&event, "delivered").await;
    let shown = session.json(&["event", "show", &event]).await.remove(0);
    assert!(shown.to_string().contains(endpoint), "{shown}");

    let (mut tail, mut told) = session.start(&["event", "tail", "--endpoint", endpoint]);
    session.tells(&mut told, "watching").await;
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    // Workers learn only after a moment that someone watches.
    let watching = async {
        for number in 0.. {
            session.publish(&format!("lead_watched_{number}")).await;
            let next = timeout(std::time::Duration::from_secs(1), lines.next_line()).await;
            if let Ok(line) = next {
                return line.unwrap().expect("it goes on");
            }
        }
        unreachable!("there is always a next number")
    };
    let line = timeout(SOON, watching).await.unwrap();
    assert!(line.contains("lead.completed"), "{line}");
    assert!(!line.contains(&session.key), "the key is printed");
}

/// Sends one event again that failed, and recovers another one.
async fn repairs(session: &Session, endpoint: &str, status: &AtomicU16, receiver: &Receiver) {
    status.store(503, Ordering::SeqCst);
    let (resent, recovered) = (
        session.publish("lead_resent").await,
        session.publish("lead_recovered").await,
    );
    let delivery = session.delivery(&resent, "dead").await;
    session.delivery(&recovered, "dead").await;
    let shown = session.run(&["delivery", "show", &delivery]).await;
    assert!(shown.contains("503"), "{shown}");
    let failing = session.json(&["endpoint", "list", "--failing"]).await;
    assert!(
        failing
            .iter()
            .any(|failing| failing.to_string().contains(endpoint)),
        "{failing:?}"
    );

    status.store(200, Ordering::SeqCst);
    let run = session.run(&["delivery", "resend", &delivery]).await;
    assert!(run.starts_with("dlv_"), "{run}");
    session.delivery(&resent, "delivered").await;
    let report = session
        .json(&["endpoint", "recover", endpoint, "--since", "1h"])
        .await
        .remove(0);
    assert!(report["sent"].as_u64() >= Some(1), "{report}");
    session.delivery(&recovered, "delivered").await;
    let accepted = |lead: &str| receiver.receipts()[lead].iter().any(|receipt| receipt.accepted);
    assert!(accepted("lead_resent") && accepted("lead_recovered"));
}

/// Receives a real event, and passes it to an application that verifies it.
async fn listens_and_forwards(session: &Session) {
    let app = Receiver::new(|_, _| Answer::Body(202, "thank you")).await;
    let forward = app.url();
    let (mut listen, mut told) = session.start(&["listen", "--forward", &forward, "--count", "1"]);
    let signed = session.tells(&mut told, "signed with the secret whsec_").await;
    let secret = signed.rsplit(' ').next().unwrap();
    let greeting = session.tells(&mut told, "receiving the events of org_1").await;
    let relay = greeting.rsplit(' ').next().unwrap().to_owned();
    let event = session.publish("lead_listened").await;
    wait_until("the application has the event", SOON, || app.count() == 1).await;
    let request = &app.requests()[0];
    request.verify(secret);
    assert_eq!(
        (request.event_id(), request.lead.as_str()),
        (event.clone(), "lead_listened")
    );
    assert!(timeout(SOON, listen.wait()).await.unwrap().unwrap().success());
    let list = ["delivery", "list", "--event", &event, "--endpoint", &relay];
    wait_for("the application's answer is recorded", SOON, || async {
        match session.json(&list).await.as_slice() {
            [delivery] if delivery["state"] == "delivered" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
