//! Tests what the public contract promises about a request, and that receivers in other languages can verify
//! it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use e2e::{Answer, EVENT_TYPES, Installation, Receiver, SOON, event, event_of, wait_until};
use lapin::BasicProperties;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_every_header_of_the_contract_and_the_published_bytes() {
    let installation = Installation::new("headers").await;
    let receiver = Receiver::ok().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let worker = installation.worker().await;
    // Whitespace, order, escapes and unknown fields have to arrive unchanged.
    let body = "{ \"data\" : {\"n\":1.50, \"u\":\"\\u00e9\"},\n \"x\":[ ], \"lead_id\":\"l\", \"project_id\":\"p\", \
                \"organization_id\":\"org_1\", \"timestamp\":1703123456789, \"event\":\"magnet.viewed\" }";
    let properties = BasicProperties::default().with_message_id("evt-given_1".into());
    installation.amqp().publish_raw(body.as_bytes(), properties).await;
    wait_until("the request arrives", SOON, || receiver.count() == 1).await;

    let request = &receiver.requests()[0];
    assert_eq!(request.body, body.as_bytes());
    for (name, value) in [
        ("content-type", "application/json"),
        ("user-agent", "Magnetite-Webhooks/1.0"),
        ("x-magnetite-event", "magnet.viewed"),
        ("x-magnetite-timestamp", "1703123456789"),
        ("x-magnetite-attempt", "1"),
        ("webhook-id", "evt-given_1"),
    ] {
        assert_eq!(request.header(name), value, "{name}");
    }
    let seconds: u64 = request.header("webhook-timestamp").parse().unwrap();
    assert!((request.at_ms / 1000).abs_diff(seconds) <= 2, "{seconds}");
    assert!(request.header("x-magnetite-delivery").starts_with("dlv_"));
    request.verify(&endpoint.secret);
    assert!(worker.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_gets_the_events_it_subscribed_to_and_no_others() {
    let installation = Installation::new("subscriptions").await;
    let [all, research, project, stranger] = [
        Receiver::ok().await,
        Receiver::ok().await,
        Receiver::ok().await,
        Receiver::ok().await,
    ];
    installation.endpoint("org_1", &all.url()).await;
    installation
        .endpoint_with("org_1", &research.url(), &["--events", "research.*,lead.failed"])
        .await;
    installation
        .endpoint_with("org_1", &project.url(), &["--project", "another"])
        .await;
    installation.endpoint("org_2", &stranger.url()).await;
    let _worker = installation.worker().await;
    let events: Vec<_> = EVENT_TYPES
        .iter()
        .map(|event_type| event_of(event_type, "org_1", event_type))
        .collect();
    installation.amqp().publish(&events).await;
    wait_until("all eight arrive", SOON, || {
        all.count() == 8 && research.count() == 4
    })
    .await;
    installation.wait_until_drained(SOON).await;
    let mut arrived: Vec<_> = research
        .requests()
        .iter()
        .map(|request| request.header("x-magnetite-event").to_owned())
        .collect();
    arrived.sort();
    assert_eq!(
        arrived,
        [
            "lead.failed",
            "research.completed",
            "research.failed",
            "research.started"
        ]
    );
    assert_eq!((project.count(), stranger.count()), (0, 0));
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_the_same_bytes_twice_gives_one_event_id() {
    let installation = Installation::new("same-id").await;
    let receiver = Receiver::ok().await;
    installation.endpoint("org_1", &receiver.url()).await;
    let _worker = installation.worker().await;
    let body = event("org_1", "lead_1");
    installation.amqp().publish(&[&body, &body]).await;
    wait_until("both arrive", SOON, || receiver.count() == 2).await;
    assert_eq!(receiver.distinct(), 1);
    installation.delete().await;
}

/// A receiver in another language. It prints its URL, and then, for each request, `ok ID` or what is wrong.
struct Foreign {
    url: String,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Foreign {
    async fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines
            .next_line()
            .await
            .unwrap()
            .expect("the receiver prints its URL; see its error above");
        Self {
            url,
            lines,
            _child: child,
        }
    }
}

fn receivers() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("receivers")
}

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run tests/run.sh, which installs what it names"))
}

fn node(secret_file: &Path) -> Command {
    let mut command = Command::new("node");
    command
        .arg(receivers().join("node/samples.js"))
        .env("NODE_PATH", variable("MAGNETITE_TEST_NODE_PATH"));
    command.env("WEBHOOK_SECRET_FILE", secret_file);
    command
}

fn python(secret_file: &std::path::Path) -> Command {
    let mut command = Command::new(variable("MAGNETITE_TEST_PYTHON"));
    command
        .arg(receivers().join("python/samples.py"))
        .env("WEBHOOK_SECRET_FILE", secret_file);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_in_node_and_python_verify_every_request_as_documented_and_with_the_official_libraries() {
    let installation = Installation::new("foreign-receivers").await;
    let mut foreign = Vec::new();
    for (name, command) in [
        ("node", node as fn(&std::path::Path) -> Command),
        ("python", python),
    ] {
        let secret_file = installation.directory().join(format!("{name}.secret"));
        let receiver = Foreign::start(command(&secret_file)).await;
        let endpoint = installation.endpoint("org_1", &receiver.url).await;
        std::fs::write(&secret_file, &endpoint.secret).unwrap();
        foreign.push((name, receiver));
    }
    let _worker = installation.worker().await;
    let odd = "{\"event\":\"lead.created\",\"timestamp\":1703123456789,\"organization_id\":\"org_1\",\"project_id\":\"p\",\
               \"lead_id\":\"l\",\"data\":{\"text\":\"é \u{1F9F2} \\u0000 </script>\", \"n\": 1.10}}";
    let mut events: Vec<_> = (0..50).map(|lead| event("org_1", &lead.to_string())).collect();
    events.push(odd.to_owned());
    installation.amqp().publish(&events).await;
    for (name, receiver) in &mut foreign {
        for _ in 0..events.len() {
            let line = tokio::time::timeout(SOON, receiver.lines.next_line()).await;
            let line = line
                .unwrap_or_else(|_| panic!("{name}: a request is missing"))
                .unwrap()
                .unwrap();
            assert!(line.starts_with("ok "), "{name}: {line}");
        }
    }
    installation.wait_until_drained(SOON).await;
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_publisher_of_the_protocol_document_feeds_it() {
    let installation = Installation::new("foreign-publisher").await;
    let receiver = Receiver::ok().await;
    let endpoint = installation.endpoint("org_1", &receiver.url()).await;
    let _worker = installation.worker().await;
    let document = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let document = std::fs::read_to_string(document).unwrap();
    let program = document
        .split("```python\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let file = installation.directory().join("publisher.py");
    std::fs::write(&file, program.expect("docs/protocol.md has a Python program")).unwrap();
    let events: Vec<_> = (0..20).map(|lead| event("org_1", &lead.to_string())).collect();
    let input = installation.directory().join("events.jsonl");
    std::fs::write(&input, events.join("\n") + "\n").unwrap();
    let published = program_run(&installation, &file, &input).await;
    assert!(
        published.status.success(),
        "{}",
        String::from_utf8_lossy(&published.stderr)
    );
    wait_until("all arrive", SOON, || receiver.distinct() == events.len()).await;
    for request in receiver.requests() {
        request.verify(&endpoint.secret);
        assert!(
            events.iter().any(|event| event.as_bytes() == request.body),
            "a body was changed"
        );
    }
    // This event would be rejected later, and a publisher is not told about that.
    let in_seconds = events[0].replace("\"timestamp\":", "\"timestamp\":1703123456,\"at\":");
    std::fs::write(&input, in_seconds + "\n").unwrap();
    let refused = program_run(&installation, &file, &input).await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && told.contains("milliseconds"),
        "{told}"
    );
    installation.delete().await;
}

/// Runs the publisher of the document with these events.
async fn program_run(installation: &Installation, program: &Path, events: &Path) -> std::process::Output {
    Command::new(variable("MAGNETITE_TEST_PYTHON"))
        .arg(program)
        .stdin(std::fs::File::open(events).unwrap())
        .env("MAGNETITE_BROKER__URL", installation.broker_url())
        .env("MAGNETITE_BROKER__PREFIX", installation.prefix())
        .output()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let installation = Installation::with_delays("redirect", &[100]).await;
    let target = Receiver::ok().await;
    let location = target.url();
    let receiver = Receiver::new(move |_, _| Answer::Status(307, vec![("location", location.clone())])).await;
    installation.endpoint("org_1", &receiver.url()).await;
    let _worker = installation.worker().await;
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    installation.amqp().wait_for_ready("dead", 1, SOON).await;
    assert_eq!((receiver.count(), target.count()), (2, 0));
    installation.delete().await;
}
