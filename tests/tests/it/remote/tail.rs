//! Tests `event tail` over the HTTP API, and the stream of the API that it shows.

mod many;
mod slow;

use std::{
    collections::BTreeSet,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use e2e::{Answer, Installation, Receiver, SOON, event};
use reqwest::RequestBuilder;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
    time::timeout,
};

use super::{Laptop, Rig};

/// The scope that the command needs.
const SCOPE: &str = "deliveries:read";
/// The number of processes to which a worker sends copies.
const WATCHERS_MAX: usize = 32;
/// How long to wait for a line before events are published again.
const PATIENCE: Duration = Duration::from_secs(1);
/// The maximum time in which the API ends with streams open. This is far below its shutdown deadline of 25 s, which
/// it would reach if it waited for the streams.
const SHUTDOWN_MAX: Duration = Duration::from_secs(15);

/// A running `event tail`.
struct Tail {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    told: Lines<BufReader<ChildStderr>>,
    /// What was printed so far.
    printed: Vec<String>,
}

impl Tail {
    /// Starts the command, and waits until it reports that it is watching.
    async fn start(mut command: Command) -> Self {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut tail = Self {
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            told: BufReader::new(child.stderr.take().unwrap()).lines(),
            child,
            printed: Vec::new(),
        };
        tail.tells("watching").await;
        tail
    }

    /// Waits until a line on standard error contains these words.
    async fn tells(&mut self, words: &str) {
        let telling = async {
            while let Some(line) = self.told.next_line().await.unwrap() {
                if line.contains(words) {
                    return;
                }
            }
            panic!("the command ended and did not tell {words:?}");
        };
        timeout(SOON, telling).await.unwrap();
    }

    /// Publishes events repeatedly until the command prints a line that contains these words, because workers
    /// learn only after a moment that someone watches.
    async fn prints(&mut self, installation: &Installation, events: &[String], words: &str) {
        let until = Instant::now() + SOON;
        while Instant::now() < until {
            installation.amqp().publish(events).await;
            while let Ok(line) = timeout(PATIENCE, self.lines.next_line()).await {
                let line = line.unwrap().unwrap();
                self.printed.push(line);
                if self.printed.last().unwrap().contains(words) {
                    return;
                }
            }
        }
        panic!("no line with {words:?} within {SOON:?}: {:?}", self.printed);
    }

    /// Waits until the condition accepts what was printed.
    async fn until(&mut self, is_enough: impl Fn(&[String]) -> bool) {
        let reading = async {
            while !is_enough(&self.printed) {
                let line = self.lines.next_line().await.unwrap();
                self.printed.push(line.expect("it goes on"));
            }
        };
        let is_timely = timeout(SOON, reading).await.is_ok();
        let last = self.printed.last();
        assert!(is_timely, "not enough in {} lines: {last:?}", self.printed.len());
    }

    async fn ends(&mut self) -> ExitStatus {
        timeout(SOON, self.child.wait()).await.unwrap().unwrap()
    }
}

/// Returns the ids of the events whose leads have this prefix, of objects that were printed.
fn events_of(printed: &[String], prefix: &str) -> BTreeSet<String> {
    let objects = printed
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let events = objects.filter(|object| {
        let lead = object["lead_id"].as_str();
        lead.is_some_and(|lead| lead.starts_with(prefix))
    });
    events
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect()
}

/// Returns the lines that contain one of the ids, sorted.
fn about(printed: &[String], ids: &BTreeSet<String>) -> Vec<String> {
    let mut lines: Vec<_> = printed
        .iter()
        .filter(|line| ids.iter().any(|id| line.contains(id.as_str())))
        .cloned()
        .collect();
    lines.sort();
    lines
}

/// Opens a stream, and closes it as soon as it has begun.
async fn open_and_close(request: RequestBuilder) {
    let response = request.send().await.unwrap();
    // Too many may be open, until the API has noticed that they were closed.
    assert!(matches!(response.status().as_u16(), 200 | 503), "{response:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_laptop_sees_the_same_lines_as_a_host_of_the_installation() {
    const EVENTS: usize = 5;
    // The event, one attempt that succeeds, and two that fail, the second of which is the last.
    const LINES: usize = 4 * EVENTS;
    let rig = Rig::new("remote-tail").await;
    let (good, bad) = (
        Receiver::ok().await,
        Receiver::new(|_, _| Answer::status(500)).await,
    );
    let installation = &rig.installation;
    installation.endpoint("org_1", &good.url()).await;
    installation.endpoint("org_1", &bad.url()).await;
    let objects = ["event", "tail", "--org", "org_1", "--json"];
    let text = &objects[..4];
    let mut tails = [
        Tail::start(installation.command(&objects)).await,
        Tail::start(rig.laptop.command(&objects)).await,
        Tail::start(installation.command(text)).await,
        Tail::start(rig.laptop.command(text)).await,
    ];
    for tail in &mut tails {
        tail.prints(installation, &[event("org_1", "early")], "org_1")
            .await;
    }
    let events: Vec<_> = (0..EVENTS)
        .map(|number| event("org_1", &format!("marked_{number}")))
        .collect();
    installation.amqp().publish(&events).await;

    let [direct, remote, direct_text, remote_text] = &mut tails;
    for tail in [&mut *direct, &mut *remote] {
        let is_enough = |printed: &[String]| about(printed, &events_of(printed, "marked_")).len() >= LINES;
        tail.until(is_enough).await;
    }
    let ids = events_of(&direct.printed, "marked_");
    assert_eq!(ids.len(), EVENTS);
    assert_eq!(about(&direct.printed, &ids), about(&remote.printed, &ids));
    for tail in [&mut *direct_text, &mut *remote_text] {
        tail.until(|printed| about(printed, &ids).len() >= LINES).await;
    }
    assert_eq!(
        about(&direct_text.printed, &ids),
        about(&remote_text.printed, &ids)
    );
    drop(tails);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_contains_what_its_key_and_its_filters_allow() {
    let rig = Rig::new("remote-filters").await;
    let (good, bad) = (
        Receiver::ok().await,
        Receiver::new(|_, _| Answer::status(500)).await,
    );
    let installation = &rig.installation;
    let first = installation.endpoint("org_1", &good.url()).await;
    installation.endpoint("org_1", &bad.url()).await;
    installation.endpoint("org_2", &good.url()).await;
    let other = Laptop::new(rig.api.url(), &installation.key("org_2", SCOPE).await);
    let platform = Laptop::new(rig.api.url(), &installation.platform_key(SCOPE).await);
    let events = [event("org_1", "lead_1"), event("org_2", "lead_2")];
    let tail = ["event", "tail", "--json"];
    let narrow = |more: &[&'static str]| [&tail[..], more].concat();
    for (laptop, more, wanted, words) in [
        (
            &other,
            narrow(&[]),
            "\"attempt\"",
            "\"organization_id\":\"org_2\"",
        ),
        (
            &platform,
            narrow(&["--org", "org_2"]),
            "\"attempt\"",
            "\"organization_id\":\"org_2\"",
        ),
        (
            &rig.laptop,
            narrow(&["--outcome", "dead"]),
            "exhausted",
            "\"outcome\":\"dead\"",
        ),
        (
            &rig.laptop,
            [&tail[..], &["--endpoint", first.id.as_str()]].concat(),
            "\"attempt\"",
            first.id.as_str(),
        ),
    ] {
        let mut tail = Tail::start(laptop.command(&more)).await;
        tail.prints(installation, &events, wanted).await;
        tail.prints(installation, &events, wanted).await;
        for line in &tail.printed {
            assert!(line.contains(words), "{more:?}: {line}");
        }
    }
    let mut all = Tail::start(platform.command(&tail)).await;
    for organization in ["org_1", "org_2"] {
        all.prints(installation, &events, organization).await;
    }
    let refused = other.refused(1, &["event", "tail", "--org", "org_1"]).await;
    assert!(refused.contains("(403)"), "{refused}");
    let narrow = Laptop::new(rig.api.url(), &installation.key("org_1", "events:write").await);
    let refused = narrow.refused(1, &["event", "tail"]).await;
    assert!(refused.contains("(403)"), "{refused}");
    drop(all);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_key_is_revoked() {
    let rig = Rig::new("remote-revoked").await;
    let create = [
        "api-key", "create", "--org", "org_1", "--name", "n", "--scopes", SCOPE,
    ];
    let created = rig.installation.json(&create).await.remove(0);
    let key = created["key"].as_str().unwrap();
    rig.installation.keep_secret(key);
    let laptop = Laptop::new(rig.api.url(), key);
    let mut tail = Tail::start(laptop.command(&["event", "tail"])).await;
    let mut other = Tail::start(rig.laptop.command(&["event", "tail"])).await;
    let revoke = ["api-key", "revoke", created["id"].as_str().unwrap()];
    rig.installation.cli_ok(&revoke).await;
    // This is the first line, because the connection was not lost.
    let told = timeout(SOON, tail.told.next_line()).await.unwrap().unwrap();
    let told = told.unwrap_or_default();
    assert!(told.contains("No valid API key (401)"), "{told}");
    assert_eq!(tail.ends().await.code(), Some(1));
    let events = [event("org_1", "lead_1")];
    other.prints(&rig.installation, &events, "lead.completed").await;
    drop(other);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_opens_streams_in_a_loop_does_not_stop_others_from_watching() {
    let rig = Rig::new("remote-loop").await;
    let receiver = Receiver::ok().await;
    rig.installation.endpoint("org_1", &receiver.url()).await;
    let key = rig.installation.key("org_2", SCOPE).await;
    let stream = rig.api.request("GET", "/v1/tail", &key);
    for _ in 0..2 * WATCHERS_MAX {
        open_and_close(stream.try_clone().unwrap()).await;
    }
    let looping = tokio::spawn(async move {
        loop {
            open_and_close(stream.try_clone().unwrap()).await;
        }
    });
    let events = [event("org_1", "lead_1")];
    for command in [
        rig.installation.command(&["event", "tail"]),
        rig.laptop.command(&["event", "tail"]),
    ] {
        let mut tail = Tail::start(command).await;
        tail.prints(&rig.installation, &events, "lead.completed").await;
    }
    assert!(!looping.is_finished(), "a request failed");
    looping.abort();
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_ends_although_streams_are_open() {
    let rig = Rig::new("remote-shutdown").await;
    let mut tails = Vec::new();
    for _ in 0..3 {
        tails.push(Tail::start(rig.laptop.command(&["event", "tail"])).await);
    }
    let began = Instant::now();
    assert!(rig.api.role.terminate().await);
    assert!(began.elapsed() < SHUTDOWN_MAX, "{:?}", began.elapsed());
    for tail in &mut tails {
        tail.tells("the connection to the API was lost").await;
    }
    drop(tails);
    for role in [rig.worker, rig.recorder] {
        assert!(role.terminate().await);
    }
    rig.installation.delete().await;
}
