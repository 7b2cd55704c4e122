//! Tests that one command shows, for every endpoint, why it received an event or not.

use std::{collections::BTreeSet, net::TcpListener};

use e2e::{
    Answer, Endpoint, Installation, Receiver, SOON, event, event_of, is_between, now_ms, shared_broker,
    wait_for,
};
use serde_json::Value;

/// Returns what the story says about an endpoint.
fn chapter<'a>(story: &'a Value, endpoint: &Endpoint) -> &'a Value {
    let mut chapters = story["endpoints"].as_array().unwrap().iter();
    let found = chapters.find(|chapter| chapter["endpoint_id"] == endpoint.id.as_str());
    found.unwrap_or_else(|| panic!("nothing of {}: {story}", endpoint.id))
}

/// Panics unless the endpoint has exactly one delivery, in this state, with one attempt that has these
/// values.
fn assert_attempted(story: &Value, endpoint: &Endpoint, state: &str, values: &[(&str, Value)]) {
    let chapter = chapter(story, endpoint);
    assert_eq!(chapter["verdict"], "matched", "{chapter}");
    let [delivery] = &chapter["deliveries"].as_array().unwrap()[..] else {
        panic!("not one delivery: {chapter}");
    };
    let [attempt] = &delivery["attempts"].as_array().unwrap()[..] else {
        panic!("not one attempt: {chapter}");
    };
    assert_eq!(
        (&delivery["state"], &attempt["number"]),
        (&state.into(), &1.into()),
        "{chapter}"
    );
    for (name, value) in values {
        assert_eq!(attempt[name], *value, "{name}: {chapter}");
    }
    let next_ms = delivery["next_attempt_ms"].as_u64();
    assert_eq!(next_ms.is_some(), state == "pending", "{chapter}");
    if let Some(next_ms) = next_ms {
        assert_eq!(attempt["next_attempt_ms"], next_ms, "{chapter}");
        let ended_ms = attempt["began_ms"].as_u64().unwrap() + attempt["duration_ms"].as_u64().unwrap();
        let due_ms = ended_ms + 60_000..=ended_ms + 61_000;
        assert!(is_between(&due_ms, next_ms), "{chapter}");
    }
}

/// Panics unless the endpoint did not receive the event, for this reason.
fn assert_not_matched(story: &Value, endpoint: &Endpoint, verdict: &str) {
    let chapter = chapter(story, endpoint);
    assert_eq!(chapter["verdict"], verdict, "{chapter}");
    assert_eq!(chapter["deliveries"], Value::Array(Vec::new()), "{chapter}");
}

/// Waits until this many attempts of the only event are recorded, and returns the event's id.
async fn told(installation: &Installation, attempts: usize) -> String {
    wait_for("the story is complete", SOON, || async {
        let events = installation.json(&["event", "list", "--org", "org_1"]).await;
        let Some(id) = events.first().and_then(|event| event["id"].as_str()) else {
            return Err("no event".to_owned());
        };
        let deliveries = installation.json(&["delivery", "list", "--event", id]).await;
        let mut made = deliveries.iter().filter_map(|row| row["attempt_count"].as_u64());
        if made.by_ref().sum::<u64>() as usize == attempts {
            Ok(id.to_owned())
        } else {
            Err(format!("{deliveries:?}"))
        }
    })
    .await
}

/// The endpoints of a story, each named after what it does with the event, and the receivers behind them. All
/// are created before the event.
struct Endpoints {
    delivered: Endpoint,
    failed: Endpoint,
    gone: Endpoint,
    timed_out: Endpoint,
    refused: Endpoint,
    elsewhere: Endpoint,
    uninterested: Endpoint,
    disabled: Endpoint,
    deleted: Endpoint,
    /// The only endpoint of another organization.
    foreign: Endpoint,
    /// The receiver that answers with 200.
    ok: Receiver,
    /// Keeps the other receivers listening.
    _others: [Receiver; 3],
}

impl Endpoints {
    async fn create(installation: &Installation) -> Self {
        let ok = Receiver::new(|_, _| Answer::Body(200, "thank you")).await;
        let broken = Receiver::new(|_, _| Answer::Body(500, "<h1>no such table: leads</h1>\n")).await;
        let leaving = Receiver::new(|_, _| Answer::status(410)).await;
        let slow = Receiver::new(|_, _| Answer::Hang).await;
        // No process connects from this address, so its port stays closed.
        let closed = TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap();
        let create = async |url: String, more: &[&str]| installation.endpoint_with("org_1", &url, more).await;
        Self {
            delivered: create(ok.url(), &[]).await,
            failed: create(broken.url(), &[]).await,
            gone: create(leaving.url(), &[]).await,
            timed_out: create(slow.url(), &[]).await,
            refused: create(format!("http://{closed}/hook"), &[]).await,
            elsewhere: create(ok.url(), &["--project", "proj_2"]).await,
            uninterested: create(ok.url(), &["--events", "magnet.viewed,research.*"]).await,
            disabled: create(ok.url(), &[]).await,
            deleted: create(ok.url(), &[]).await,
            foreign: installation.endpoint("org_2", &ok.url()).await,
            ok,
            _others: [broken, leaving, slow],
        }
    }

    /// Panics unless the story has the right attempt of every endpoint that received the event.
    fn assert_attempted_in(&self, story: &Value) {
        let answered = |status: u16, body: &str| [("status", status.into()), ("response", body.into())];
        let unanswered = |phase: &str, failure: &str| {
            [
                ("status", Value::Null),
                ("phase", phase.into()),
                ("failure", failure.into()),
            ]
        };
        assert_attempted(story, &self.delivered, "delivered", &answered(200, "thank you"));
        assert_attempted(story, &self.deleted, "delivered", &answered(200, "thank you"));
        let response = "<h1>no such table: leads</h1>\n";
        assert_attempted(story, &self.failed, "pending", &answered(500, response));
        assert_attempted(story, &self.gone, "dead", &answered(410, ""));
        let refusal = unanswered("connect", "connection_refused");
        assert_attempted(story, &self.refused, "pending", &refusal);
        let timeout = unanswered("response", "timeout");
        assert_attempted(story, &self.timed_out, "pending", &timeout);
    }

    /// Panics unless the printed story explains every endpoint of the organization and says nothing of the
    /// other one. The endpoint `late` was created after the event.
    fn assert_explained_in(&self, text: &str, late: &Endpoint) {
        assert_told(
            text,
            &[
                (&self.delivered, &["matched", "thank you", "delivered at"]),
                (&self.deleted, &["(deleted since)", "thank you"]),
                (
                    &self.failed,
                    &["status 500", "no such table: leads", "attempt 2 is due at"],
                ),
                (
                    &self.gone,
                    &["status 410", "dead since", "gone", "endpoint enable"],
                ),
                (
                    &self.refused,
                    &["connection_refused in connect", "attempt 2 is due at"],
                ),
                (&self.timed_out, &["timeout in response", "within 1 s"]),
                (
                    &self.elsewhere,
                    &["does not receive events of project proj_1 (only of project proj_2)"],
                ),
                (&self.uninterested, &["not subscribed to lead.completed"]),
                (
                    &self.disabled,
                    &[
                        "disabled since",
                        "(manual)",
                        "endpoint enable",
                        "endpoint recover",
                    ],
                ),
                (late, &["created after the event"]),
            ],
        );
        assert!(!text.contains(&self.foreign.id), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_an_event_names_every_endpoint_of_its_organization_and_why() {
    let settings = [("MAGNETITE_EGRESS__ATTEMPT_TIMEOUT", "1s")];
    let installation = Installation::with("story", &shared_broker(), &[60_000], &settings).await;
    let endpoints = Endpoints::create(&installation).await;
    let (before_ms, disable) = (now_ms(), ["endpoint", "disable", &endpoints.disabled.id]);
    installation.cli_ok(&disable).await;
    let (disabled_ms, worker) = (before_ms..=now_ms(), installation.worker().await);
    let recorder = installation.recorder().await;
    let body = event("org_1", "lead_1");
    installation.amqp().publish(&[&body]).await;
    let id = told(&installation, 6).await;
    let late = installation.endpoint("org_1", &endpoints.ok.url()).await;
    let delete = ["endpoint", "delete", &endpoints.deleted.id];
    installation.cli_ok(&delete).await;

    let story = &installation.json(&["event", "show", &id]).await[0];
    assert_eq!(
        (
            &story["lead_id"],
            &story["type"],
            story["endpoints"].as_array().unwrap().len()
        ),
        (&"lead_1".into(), &"lead.completed".into(), 10),
        "{story}"
    );
    endpoints.assert_attempted_in(story);
    assert_not_matched(story, &endpoints.elsewhere, "project");
    assert_not_matched(story, &endpoints.uninterested, "event_type");
    assert_not_matched(story, &endpoints.disabled, "disabled");
    assert_not_matched(story, &late, "created_after");
    assert_eq!(chapter(story, &endpoints.deleted)["deleted"], true);
    let since = &chapter(story, &endpoints.disabled)["disabled"];
    assert_eq!(since["reason"], "manual", "{since}");
    assert!(
        is_between(&disabled_ms, since["since_ms"].as_u64().unwrap()),
        "{since}"
    );

    let text = installation.cli_ok(&["event", "show", &id]).await;
    endpoints.assert_explained_in(&text, &late);
    let shown = installation.cli_ok(&["event", "show", &id, "--body"]).await;
    assert_eq!(shown, body, "no newline is added");
    assert!(recorder.terminate().await && worker.terminate().await);
    installation.delete().await;
}

/// Panics unless the paragraph about each endpoint contains these words.
fn assert_told(text: &str, endpoints: &[(&Endpoint, &[&str])]) {
    for (endpoint, words) in endpoints {
        let mut paragraphs = text.split("\n\n");
        let told = paragraphs.find(|paragraph| paragraph.starts_with(&endpoint.id));
        let told = told.unwrap_or_else(|| panic!("nothing of {}: {text}", endpoint.id));
        for word in *words {
            assert!(told.contains(word), "{word}: {told}");
        }
    }
}

/// Options of `event list`, and the indices in [`bodies`] of the events that each has to show.
const FILTERS: [(&[&str], &[usize]); 12] = [
    (&["--org", "org_1"], &[0, 1, 2]),
    (&["--org", "org_5"], &[]),
    (&["--project", "proj_2"], &[2]),
    (&["--lead", "lead_1"], &[0, 1, 3]),
    (&["--lead", "lead_1", "--org", "org_2"], &[3]),
    (&["--type", "magnet.viewed"], &[1]),
    (&["--state", "delivered"], &[0, 1, 2]),
    (&["--state", "pending"], &[3]),
    (&["--state", "dead"], &[4]),
    (&["--state", "cancelled"], &[]),
    (&["--since", "1h"], &[0, 1, 2, 3, 4, 5]),
    (&["--until", "1h"], &[]),
];

/// Returns six events, each known by something else.
fn bodies() -> [String; 6] {
    [
        event("org_1", "lead_1"),
        event_of("magnet.viewed", "org_1", "lead_1"),
        event("org_1", "lead_2").replace("proj_1", "proj_2"),
        event("org_2", "lead_1"),
        event("org_3", "lead_3"),
        // No endpoint receives this event.
        event("org_4", "lead_4"),
    ]
}

/// Publishes the events, waits until they and their deliveries are recorded, and returns all rows of
/// `event list`.
async fn publish_and_list(installation: &Installation, bodies: &[String; 6]) -> Vec<Value> {
    // The last event is received more than a millisecond, the resolution of the clock, after all others.
    let (last, first) = bodies.split_last().unwrap();
    for body in first {
        installation.amqp().publish(std::slice::from_ref(body)).await;
    }
    installation.wait_for_listed(&["event", "list"], 5, SOON).await;
    installation.amqp().publish(std::slice::from_ref(last)).await;
    installation.wait_for_listed(&["delivery", "list"], 5, SOON).await;
    installation.wait_for_listed(&["event", "list"], 6, SOON).await
}

fn received_ms(row: &Value) -> u64 {
    row["received_ms"].as_u64().unwrap()
}

/// Returns the index of the event that a row of `event list` is about.
fn position(row: &Value, bodies: &[String]) -> usize {
    let same = |body: &String| {
        let body: Value = serde_json::from_str(body).unwrap();
        ["organization_id", "project_id", "lead_id"]
            .iter()
            .all(|name| body[name] == row[name])
            && body["event"] == row["type"]
    };
    bodies.iter().position(same).unwrap()
}

/// Panics unless `--since` and `--until` accept a time in the format in which the listing prints it. `all` is
/// the whole listing.
async fn assert_printed_time_is_accepted(installation: &Installation, all: &[Value]) {
    let table = installation.cli_ok(&["event", "list"]).await;
    let time = table.lines().next().unwrap().split('\t').next().unwrap();
    for (side, later) in [("--since", true), ("--until", false)] {
        let expected: Vec<_> = all
            .iter()
            .filter(|row| (received_ms(row) >= received_ms(&all[0])) == later)
            .cloned()
            .collect();
        assert!(!expected.is_empty(), "{all:?}");
        assert_eq!(
            installation.json(&["event", "list", side, time]).await,
            expected,
            "{side} {time}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_listed_by_what_is_known_of_them() {
    let installation = Installation::with_delays("events", &[60_000]).await;
    let ok = Receiver::ok().await;
    let broken = Receiver::new(|_, _| Answer::status(500)).await;
    let leaving = Receiver::new(|_, _| Answer::status(410)).await;
    for (organization, receiver) in [("org_1", &ok), ("org_2", &broken), ("org_3", &leaving)] {
        installation.endpoint(organization, &receiver.url()).await;
    }
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    let bodies = bodies();
    let all = publish_and_list(&installation, &bodies).await;
    assert!(
        all.is_sorted_by_key(|row| u64::MAX - received_ms(row)),
        "newest first: {all:?}"
    );

    for (filter, expected) in FILTERS {
        let rows = installation.json(&[&["event", "list"], filter].concat()).await;
        let listed: BTreeSet<_> = rows.iter().map(|row| position(row, &bodies)).collect();
        let expected: BTreeSet<_> = expected.iter().copied().collect();
        assert_eq!(listed, expected, "{filter:?}");
    }
    assert_eq!(
        installation.json(&["event", "list", "--limit", "2"]).await,
        all[..2]
    );
    assert_printed_time_is_accepted(&installation, &all).await;
    assert!(recorder.terminate().await && worker.terminate().await);
    installation.delete().await;
}
