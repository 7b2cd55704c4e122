//! Tests `magnetite publish` over the HTTP API.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use e2e::{
    Api, Installation, Ledger, Node, Receiver, Role, SOON, event, free_port, report, scaled, wait_until,
};
use tokio::{io::AsyncWriteExt as _, process::Child};

use super::{Laptop, stderr, stdout};

/// A running `magnetite publish`, with its outputs in files.
struct Publishing {
    child: Child,
    ids: PathBuf,
    notes: PathBuf,
}

impl Publishing {
    /// Starts `magnetite publish`, whose standard input stays open.
    fn start(laptop: &Laptop, name: &str) -> Self {
        let file = |kind: &str| laptop.directory.path().join(format!("{name}.{kind}"));
        let (ids, notes) = (file("ids"), file("notes"));
        let mut command = laptop.command(&["publish"]);
        let child = command
            .stdin(Stdio::piped())
            .stdout(File::create(&ids).unwrap())
            .stderr(File::create(&notes).unwrap())
            .spawn()
            .unwrap();
        Self { child, ids, notes }
    }

    /// Returns the ids that are printed so far.
    fn ids(&self) -> String {
        fs::read_to_string(&self.ids).unwrap()
    }

    fn ids_count(&self) -> usize {
        self.ids().lines().count()
    }

    fn notes(&self) -> String {
        fs::read_to_string(&self.notes).unwrap()
    }
}

fn joined(lines: &[String]) -> String {
    lines.join("\n") + "\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_the_api_refuses_are_left_out_and_the_others_have_the_ids_that_they_have_over_amqp() {
    const LINES: usize = 1500;
    let installation = Installation::new("remote-publish").await;
    let receiver = Receiver::ok().await;
    installation.endpoint("org_1", &receiver.url()).await;
    let _worker = installation.worker().await;
    let api = Api::start(&installation).await;
    let laptop = Laptop::new(api.url(), &installation.key("org_1", "events:write").await);
    let mut lines: Vec<_> = (0..LINES).map(|lead| event("org_1", &lead.to_string())).collect();
    // The space is signed and sent, and makes another id.
    lines[3].push(' ');
    let good = joined(&lines);
    lines.insert(700, event("org_2", "foreign"));
    lines.insert(1000, "nonsense".to_owned());
    let all = joined(&lines);

    let dry_run = async |input: &str| {
        installation
            .cli_with_input(&["publish", "--dry-run"], input.as_bytes())
            .await
    };
    let (direct, checked) = (dry_run(&good).await, dry_run(&all).await);
    let told = stderr(&checked);
    let nonsense = told.lines().find(|line| line.starts_with("line 1001: ")).unwrap();
    let published = laptop.run_with_input(&["publish"], &all).await;
    let notes = stderr(&published);
    assert_eq!(published.status.code(), Some(1), "{notes}");
    for words in [
        nonsense,
        "line 701: field \"organization_id\": expected org_1, ",
        "2 lines were left out because they are not valid events, or the API refuses them",
        "1500 events were published",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    assert_eq!(stdout(&published), stdout(&direct));
    wait_until("all others arrive", SOON, || receiver.distinct() == LINES).await;
    let mut received: Vec<_> = receiver.requests().iter().map(e2e::Request::event_id).collect();
    let printed = stdout(&published);
    let mut printed: Vec<_> = printed.lines().collect();
    received.sort_unstable();
    printed.sort_unstable();
    assert_eq!(received, printed);
    assert!(api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_organization_costs_one_request_for_each_group() {
    let installation = Installation::new("remote-foreign-file").await;
    let api = Api::start(&installation).await;
    let laptop = Laptop::new(api.url(), &installation.key("org_1", "events:write").await);
    let lines: Vec<_> = (0..600).map(|lead| event("org_2", &lead.to_string())).collect();
    let published = laptop.run_with_input(&["publish"], &joined(&lines)).await;
    let notes = stderr(&published);
    assert_eq!(published.status.code(), Some(1), "{notes}");
    assert!(notes.contains("600 lines were left out"), "{notes}");
    let metrics = api.role.get("/metrics").await.unwrap();
    let requests: f64 = metrics
        .lines()
        .filter(|line| line.starts_with("magnetite_api_request_duration_seconds_count{"))
        .filter(|line| line.contains("/v1/events/batch\""))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    assert!((requests - 2.0).abs() < 0.5, "{requests}");
    assert!(api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_key_publishes_for_all_and_waits_for_the_deliveries_of_each() {
    let mut installation = Installation::with_delays("remote-wait", &[100]).await;
    // A request for all lines is too large, and one line is too large alone.
    installation.set("MAGNETITE_API__BODY_BYTES_MAX", "16384");
    let good = Receiver::ok().await;
    for organization in ["org_1", "org_2"] {
        installation.endpoint(organization, &good.url()).await;
    }
    let _roles = (installation.worker().await, installation.recorder().await);
    let api = Api::start(&installation).await;
    let key = installation.platform_key("events:write,deliveries:read").await;
    let laptop = Laptop::new(api.url(), &key);
    let mut lines: Vec<_> = (0..300)
        .map(|lead| event(["org_1", "org_2", "org_3"][lead % 3], &lead.to_string()))
        .collect();
    let large = format!(r#""data":{{"x":"{}","#, "x".repeat(20_000));
    lines.insert(100, event("org_1", "large").replace("\"data\":{", &large));
    let published = laptop
        .run_with_input(&["publish", "--wait", "--json"], &joined(&lines))
        .await;
    let notes = stderr(&published);
    assert_eq!(published.status.code(), Some(1), "{notes}");
    assert!(
        notes.contains("line 101: ") && notes.contains("1 line was left out"),
        "{notes}"
    );
    let printed = stdout(&published);
    let printed: Vec<serde_json::Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(printed.len(), 300);
    for line in &printed {
        let number = line["line"].as_u64().unwrap();
        let lead = if number > 101 { number - 2 } else { number - 1 };
        let delivered = u64::from(lead % 3 < 2);
        assert_eq!(line["deliveries"]["delivered"], delivered, "{line}");
        assert_eq!(line["deliveries"]["recorded"], true, "{line}");
    }
    assert_eq!(good.distinct(), 200);
    assert!(api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_read_results_publishes_nothing_that_is_to_be_waited_for() {
    let installation = Installation::new("remote-wait-scope").await;
    let api = Api::start(&installation).await;
    let laptop = Laptop::new(api.url(), &installation.key("org_1", "events:write").await);
    let by_hand = "publish --wait --event lead.completed --org org_1 --project p --lead l";
    let by_hand: Vec<_> = by_hand.split(' ').collect();
    let output = laptop.run(&by_hand).await;
    let told = stderr(&output);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
    for words in ["nothing was published", "deliveries:read"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let lines = joined(&[event("org_1", "lead_1"), event("org_1", "lead_2")]);
    let output = laptop.run_with_input(&["publish", "--wait"], &lines).await;
    let told = stderr(&output);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
    for words in [
        "stopped at line 1",
        "deliveries:read",
        "Events published: 0",
        "magnetite publish --wait --from-line 1",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert_eq!(installation.amqp().ready("events").await, 0);
    assert!(api.role.terminate().await);
    installation.delete().await;
}

/// The id of the organization cannot be named in a header, which its own key does not need.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_recorder_the_wait_ends_after_a_minute_whatever_the_organization_is_called() {
    let installation = Installation::new("remote-wait-silence").await;
    let api = Api::start(&installation).await;
    let laptop = Laptop::new(
        api.url(),
        &installation.key("a, b", "events:write,deliveries:read").await,
    );
    let output = laptop
        .run_with_input(&["publish", "--wait"], &event("a, b", "lead_1"))
        .await;
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(stdout(&output).ends_with("  not in the journal yet\n"), "{told}");
    assert_eq!(installation.amqp().ready("events").await, 1);
    assert!(api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_started_late_gets_every_event() {
    let listen = format!("127.0.0.1:{}", free_port());
    let installation = Installation::new("remote-late").await;
    let key = installation.key("org_1", "events:write").await;
    let laptop = Laptop::new(&format!("http://{listen}"), &key);
    let mut publishing = Publishing::start(&laptop, "late");
    let mut stdin = publishing.child.stdin.take().unwrap();
    stdin
        .write_all(event("org_1", "lead_1").as_bytes())
        .await
        .unwrap();
    drop(stdin);
    wait_until("it tries again", SOON, || {
        publishing.notes().contains("trying again")
    })
    .await;
    let notes = publishing.notes();
    assert!(notes.contains("nothing listens at"), "{notes}");
    let api = start_api(&installation, &listen).await;
    let status = publishing.child.wait().await.unwrap();
    assert!(status.success(), "{}", publishing.notes());
    assert_eq!(publishing.ids_count(), 1);
    assert_eq!(installation.amqp().ready("events").await, 1);
    assert!(api.terminate().await);
    installation.delete().await;
}

/// Starts the API at the same address each time.
async fn start_api(installation: &Installation, listen: &str) -> Role {
    let mut command = installation.command(&["api"]);
    command.env("MAGNETITE_API__LISTEN", listen);
    let role = installation.launch(command, "api");
    role.wait_until_ready().await;
    role
}

/// The command is killed in the middle and run again with all lines. Then the broker and the API are killed
/// while it publishes the second half.
#[tokio::test(flavor = "multi_thread")]
async fn killed_and_run_again_while_the_broker_and_the_api_restart_it_publishes_every_line() {
    const LONG: Duration = Duration::from_mins(2);
    let node = Node::start().await;
    let installation = Installation::with(
        "remote-kill",
        node.url(),
        &[200, 400, 800, 1000, 2000, 2000, 2000],
        &[],
    )
    .await;
    let listen = format!("127.0.0.1:{}", free_port());
    let api = start_api(&installation, &listen).await;
    let key = installation.key("org_1", "events:write").await;
    let laptop = Laptop::new(&format!("http://{listen}"), &key);
    let mut ledger = Ledger::new();
    let receiver = Receiver::ok().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    ledger.endpoint("healthy", endpoint, receiver);
    let worker = installation.worker().await;
    let (count, began) = (scaled(4_000, 100_000), Instant::now());
    let leads: Vec<_> = (0..count).map(|lead| format!("lead_{lead}")).collect();
    let lines: Vec<_> = leads.iter().map(|lead| event("org_1", lead)).collect();
    ledger.published(leads.into_iter().map(|lead| (lead, began)));
    let (first_half, second_half) = (joined(&lines[..count / 2]), joined(&lines[count / 2..]));

    let mut killed = Publishing::start(&laptop, "killed");
    let (mut stdin, input) = (killed.child.stdin.take().unwrap(), first_half.clone());
    // It fails when the command is killed.
    let writing = tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
    wait_until("some are confirmed", SOON, || killed.ids_count() > 0).await;
    killed.child.kill().await.unwrap();
    let _ = writing.await.unwrap();

    let mut publishing = Publishing::start(&laptop, "publishing");
    let mut stdin = publishing.child.stdin.take().unwrap();
    stdin.write_all(first_half.as_bytes()).await.unwrap();
    wait_until("half are confirmed", LONG, || publishing.ids_count() == count / 2).await;
    let broken = Instant::now();
    node.kill().await;
    let writing = tokio::spawn(async move { stdin.write_all(second_half.as_bytes()).await });
    api.kill().await;
    wait_until("it tries again", SOON, || {
        publishing.notes().contains("trying again")
    })
    .await;
    node.start_again().await;
    let api = start_api(&installation, &listen).await;
    ledger.broken("broker and API", broken, None);
    let status = publishing.child.wait().await.unwrap();
    assert!(status.success(), "{}", publishing.notes());
    writing.await.unwrap().unwrap();

    let all = joined(&lines);
    let expected = installation
        .cli_with_input(&["publish", "--dry-run"], all.as_bytes())
        .await;
    assert_eq!(publishing.ids(), stdout(&expected));
    let books = ledger
        .settle_and_end(&installation, &node, vec![worker], LONG)
        .await;
    report(
        "publish over the API, killed once, broker and API killed once",
        &books,
    );
    // The second run publishes again what the first one had published.
    assert!(books.lost.is_empty() && books.unknown.is_empty(), "{books}");
    assert_eq!((books.rejected, books.dead), (0, 0), "{books}");
    assert!(api.terminate().await);
}
