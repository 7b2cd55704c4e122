//! Tests the commands about events and deliveries over the HTTP API.

use std::process::Output;

use e2e::{Answer, Installation, Receiver, SOON, event, wait_until};
use serde_json::Value;

use super::{Laptop, Rig, stderr, stdout};

/// The scopes that all of these commands need together.
const SCOPES: &str = "endpoints:read,deliveries:read,deliveries:write";

/// A system with an event of each of two organizations, whose deliveries have ended in different ways, and a
/// machine with a key of `org_1`.
struct Scene {
    rig: Rig,
    /// The receiver that answers with 500.
    bad: Receiver,
    /// Keeps the other receiver listening.
    _good: Receiver,
    /// The id of the event of `org_1`.
    event: String,
    /// The dead delivery of this event: its first run, which was sent again.
    dead: String,
    /// A delivery of a ping.
    ping: String,
}

/// The ids of the endpoints of `org_1` to which something happens after the event.
struct Endpoints {
    pinged: String,
    deleted: String,
}

impl Scene {
    async fn new(name: &str) -> Self {
        let mut rig = Rig::new(name).await;
        let (good, bad) = (
            Receiver::new(|_, _| Answer::Body(200, "thank you")).await,
            Receiver::new(|_, _| Answer::Body(500, "\u{1b}[31m<h1>oops</h1>\n")).await,
        );
        let installation = &rig.installation;
        let endpoints = create_endpoints(installation, &good, &bad).await;
        let (event, dead) = publish(installation).await;
        // Created after the event.
        installation.endpoint("org_1", &good.url()).await;
        let delete = ["endpoint", "delete", &endpoints.deleted];
        installation.cli_ok(&delete).await;
        installation.cli_ok(&["delivery", "resend", &dead]).await;
        let runs = ["delivery", "list", "--event", &event, "--state", "dead"];
        installation.wait_for_listed(&runs, 2, SOON).await;
        let pinged = ["endpoint", "ping", &endpoints.pinged];
        let pinged = installation.json(&pinged).await.remove(0);
        installation
            .wait_until_recorded(&[&rig.worker], &rig.recorder, SOON)
            .await;
        let key = installation.key("org_1", SCOPES).await;
        rig.laptop = Laptop::new(rig.api.url(), &key);
        Self {
            rig,
            bad,
            _good: good,
            event,
            dead,
            ping: text(&pinged, "delivery_id"),
        }
    }

    /// Runs a command in both ways. Panics unless both print the same, apart from how long ago the event was
    /// received, and exit with this code. Returns the output over the API.
    async fn same(&self, code: i32, arguments: &[&str]) -> Output {
        let (direct, remote) = self.rig.both(code, arguments, arguments).await;
        assert_eq!(
            timeless(&stdout(&direct)),
            timeless(&stdout(&remote)),
            "{arguments:?}"
        );
        remote
    }

    /// Compares what a command prints in both ways, for text and for JSON. Panics if it fails or prints nothing.
    async fn same_in_both_forms(&self, arguments: &[&str]) {
        for form in [None, Some("--json")] {
            let arguments: Vec<&str> = arguments.iter().copied().chain(form).collect();
            let output = self.same(0, &arguments).await;
            assert!(!output.stdout.is_empty(), "{arguments:?}: {}", stderr(&output));
        }
    }

    /// Returns a machine with another key.
    fn laptop(&self, key: &str) -> Laptop {
        Laptop::new(self.rig.api.url(), key)
    }
}

/// Creates endpoints of `org_1` that match the event and endpoints that do not, and one of `org_2`.
async fn create_endpoints(installation: &Installation, good: &Receiver, bad: &Receiver) -> Endpoints {
    let create = async |receiver: &Receiver, more: &[&str]| {
        let created = installation.endpoint_with("org_1", &receiver.url(), more).await;
        created.id
    };
    let pinged = create(good, &[]).await;
    create(bad, &[]).await;
    create(good, &["--project", "proj_2"]).await;
    create(good, &["--events", "magnet.viewed,research.*"]).await;
    let disabled = create(good, &[]).await;
    let disable = ["endpoint", "disable", &disabled];
    installation.cli_ok(&disable).await;
    let deleted = create(good, &[]).await;
    installation.endpoint("org_2", &good.url()).await;
    Endpoints { pinged, deleted }
}

/// Publishes an event of each organization. Returns the id of that of `org_1`, and its dead delivery, when all
/// deliveries have ended and are recorded.
async fn publish(installation: &Installation) -> (String, String) {
    for organization in ["org_1", "org_2"] {
        installation
            .amqp()
            .publish(&[event(organization, "lead_1")])
            .await;
    }
    for (state, count) in [("delivered", 3), ("dead", 1)] {
        let list = ["delivery", "list", "--state", state];
        installation.wait_for_listed(&list, count, SOON).await;
    }
    let events = installation.json(&["event", "list", "--org", "org_1"]).await;
    let dead = installation.json(&["delivery", "list", "--state", "dead"]).await;
    (text(&events[0], "id"), text(&dead[0], "id"))
}

fn text(object: &Value, name: &str) -> String {
    let found = object[name].as_str();
    found.unwrap_or_else(|| panic!("{object}")).to_owned()
}

/// Returns what a command printed, without how long ago the event was received.
fn timeless(printed: &str) -> String {
    let lines = printed.split_inclusive('\n').map(|line| {
        let is_timed = line.starts_with("received ") && line.ends_with(" ago\n");
        let kept = line.split_once(", ").filter(|_| is_timed);
        kept.map_or(line, |(received, _)| received)
    });
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_deliveries_are_shown_as_on_the_database() {
    let mut scene = Scene::new("remote-events").await;
    let event = scene.event.as_str();
    for arguments in [
        &["event", "list", "--org", "org_1"][..],
        &["event", "list", "--org", "org_1", "--limit", "1"],
        &[
            "event", "list", "--org", "org_1", "--state", "dead", "--since", "1h",
        ],
        &[
            "event",
            "list",
            "--org",
            "org_1",
            "--project",
            "proj_1",
            "--lead",
            "lead_1",
        ],
        &["event", "list", "--org", "org_1", "--type", "webhook.ping"],
        &["event", "show", event],
        &["event", "show", event, "--org", "org_1"],
        &["event", "show", event, "--body"],
        &["delivery", "list", "--org", "org_1"],
        &["delivery", "list", "--org", "org_1", "--limit", "1"],
        &["delivery", "list", "--event", event, "--state", "dead"],
    ] {
        scene.same_in_both_forms(arguments).await;
    }
    let list = ["delivery", "list", "--org", "org_1"];
    let listed = scene.rig.installation.json(&list).await;
    assert_eq!(listed.len(), 5, "{listed:?}");
    for delivery in &listed {
        let (id, endpoint) = (text(delivery, "id"), text(delivery, "endpoint_id"));
        scene.same_in_both_forms(&["delivery", "show", &id]).await;
        let of_endpoint = ["delivery", "list", "--endpoint", &endpoint];
        scene.same_in_both_forms(&of_endpoint).await;
    }
    let none = ["event", "list", "--org", "org_1", "--until", "1h"];
    assert_eq!(stdout(&scene.same(0, &none).await), "");

    // A platform key lists what a command lists that has the database.
    let platform = scene.rig.installation.platform_key(SCOPES).await;
    scene.rig.laptop = scene.laptop(&platform);
    for kind in ["event", "delivery"] {
        let all = stdout(&scene.same(0, &[kind, "list", "--json"]).await);
        assert!(all.contains("org_1") && all.contains("org_2"), "{all}");
    }
    scene
        .same_in_both_forms(&["event", "show", &scene.event, "--org", "org_1"])
        .await;
    scene.rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_sent_again_as_over_the_broker() {
    let Scene {
        rig,
        bad,
        _good,
        dead,
        ping,
        ..
    } = Scene::new("remote-resend").await;
    let Rig {
        installation,
        api,
        worker,
        recorder,
        laptop,
    } = rig;
    let before = bad.count();
    // Without a worker, what is sent stays pending. Sending it again then returns the same delivery.
    assert!(worker.terminate().await);
    let many: Vec<String> = (0..150).map(|number| format!("dlv_{number}")).collect();
    let asked = ["delivery", "resend", &dead, "dlv_nothing", &ping, &dead];
    for form in [None, Some("--json")] {
        let all = asked.into_iter().chain(many.iter().map(String::as_str));
        let arguments: Vec<&str> = all.chain(form).collect();
        let remote = laptop.run(&arguments).await;
        let direct = installation.cli(&arguments).await;
        assert_eq!((remote.status.code(), direct.status.code()), (Some(1), Some(1)));
        let printed = stdout(&remote);
        assert_eq!((printed.lines().count(), &printed), (1, &stdout(&direct)));
        // The notes about deliveries that are refused are the same, too.
        let told = stderr(&remote);
        assert_eq!(told, stderr(&direct));
        for words in [
            "dlv_nothing: there is no such delivery",
            "deliveries refused: 152",
        ] {
            assert!(told.contains(words), "{told}");
        }
    }
    let worker = installation.worker().await;
    wait_until("both attempts are made", SOON, || bad.count() == before + 2).await;
    let list = ["delivery", "list", "--state", "dead"];
    installation.wait_for_listed(&list, 3, SOON).await;
    assert_eq!(bad.count(), before + 2, "it was sent once");
    for role in [api.role, worker, recorder] {
        assert!(role.terminate().await);
    }
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_deliveries_that_a_key_may_not_see_are_refused() {
    let scene = Scene::new("remote-foreign").await;
    for arguments in [
        ["event", "show", "evt_nothing"],
        ["delivery", "show", "dlv_nothing"],
        ["delivery", "resend", "dlv_nothing"],
    ] {
        assert_eq!(stdout(&scene.same(1, &arguments).await), "");
    }
    let installation = &scene.rig.installation;
    let (event, dead) = (scene.event.as_str(), scene.dead.as_str());
    let foreign = scene.laptop(&installation.key("org_2", SCOPES).await);
    for arguments in [
        &["event", "show", event][..],
        &["delivery", "show", dead],
        &["delivery", "resend", dead],
        &["event", "list", "--org", "org_1"],
        &["delivery", "list", "--org", "org_1"],
    ] {
        let refused = foreign.run(arguments).await;
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
        assert_eq!(stdout(&refused), "");
    }
    for kind in ["event", "delivery"] {
        let own = stdout(&foreign.run(&[kind, "list"]).await);
        assert!(own.lines().count() == 1 && !own.contains("org_1"), "{own}");
    }
    let narrow = scene.laptop(&installation.key("org_1", "endpoints:read").await);
    for (kind, action, id, scope) in [
        ("event", "list", None, "deliveries:read"),
        ("event", "show", Some(event), "deliveries:read"),
        ("delivery", "list", None, "deliveries:read"),
        ("delivery", "show", Some(dead), "deliveries:read"),
        ("delivery", "resend", Some(dead), "deliveries:write"),
    ] {
        let arguments: Vec<&str> = [kind, action].into_iter().chain(id).collect();
        let told = narrow.refused(1, &arguments).await;
        assert!(told.contains(scope), "{arguments:?}: {told}");
    }
    scene.rig.end().await;
}
