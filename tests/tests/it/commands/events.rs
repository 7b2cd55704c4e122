//! Tests the commands that read events: `publish` and `validate`.

use e2e::{Answer, Installation, Receiver, SOON, event, wait_until};

use super::stderr;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_bad_lines_is_published_without_them() {
    let installation = Installation::new("file").await;
    let receiver = Receiver::ok().await;
    installation.endpoint("org_1", &receiver.url()).await;
    let _worker = installation.worker().await;
    let mut lines: Vec<_> = (0..2000).map(|lead| event("org_1", &lead.to_string())).collect();
    lines.insert(700, "{\"event\":\"lead.created\"}".to_owned());
    lines.insert(1400, "nonsense".to_owned());
    let output = installation
        .cli_with_input(&["publish"], (lines.join("\n") + "\n").as_bytes())
        .await;
    assert_eq!(output.status.code(), Some(1));
    for word in ["line 701", "missing", "line 1401"] {
        assert!(stderr(&output).contains(word), "{word}: {}", stderr(&output));
    }
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 2000);
    wait_until("the good ones arrive", SOON, || receiver.distinct() == 2000).await;
    assert_eq!(installation.amqp().ready("rejected").await, 0);
    installation.delete().await;
}

/// Publishes an event by hand. Returns the exit code, the event's id and fate, and standard error.
async fn publish_by_hand(
    installation: &Installation,
    organization: &str,
    wait: &str,
) -> (Option<i32>, String, String, String) {
    let event = [
        "publish",
        "--event",
        "lead.completed",
        "--project",
        "p",
        "--lead",
        "l",
        "--org",
    ];
    let output = installation
        .cli(&[&event[..], &[organization, wait]].concat())
        .await;
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let (id, fate) = printed.split_once("  ").unwrap();
    (
        output.status.code(),
        id.to_owned(),
        fate.to_owned(),
        stderr(&output),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_of_an_earlier_publish_is_told_as_such() {
    let installation = Installation::with_delays("publish-twice", &[100]).await;
    let good = Receiver::ok().await;
    let bad = Receiver::new(|_, _| Answer::status(500)).await;
    for receiver in [&good, &bad] {
        installation.endpoint("org_2", &receiver.url()).await;
    }
    let (_worker, _recorder) = (installation.worker().await, installation.recorder().await);

    // The journal keeps the better result of two publishes of an event, which must not be taken for the latest.
    let twice = event("org_2", "twice");
    let publish_twice = async || {
        let output = installation
            .cli_with_input(&["publish", "--wait"], twice.as_bytes())
            .await;
        let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.code(), printed, stderr(&output))
    };
    let (code, printed, _) = publish_twice().await;
    assert_eq!(code, Some(1));
    assert!(printed.ends_with("  delivered 1, dead 1"), "{printed}");
    let (code, printed, error) = publish_twice().await;
    assert_eq!(code, Some(1));
    assert!(
        printed.ends_with("  published before: delivered 1, dead 1"),
        "{printed}"
    );
    assert!(
        error.contains("events that had been published before: 1"),
        "{error}"
    );
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_waits_until_events_have_ended_and_says_how() {
    let installation = Installation::with_delays("publish-wait", &[100]).await;
    let good = Receiver::ok().await;
    let bad = Receiver::new(|_, _| Answer::status(500)).await;
    for (organization, receiver) in [("org_1", &good), ("org_2", &good), ("org_2", &bad)] {
        installation.endpoint(organization, &receiver.url()).await;
    }
    let _worker = installation.worker().await;
    let recorder = installation.recorder().await;
    let by_hand = async |organization, wait| publish_by_hand(&installation, organization, wait).await;
    let (code, _, fate, _) = by_hand("org_1", "--wait").await;
    assert_eq!((code, fate.as_str()), (Some(0), "delivered 1"));
    let (code, _, fate, _) = by_hand("org_3", "--wait").await;
    assert_eq!((code, fate.as_str()), (Some(0), "no endpoint matched"));
    let (code, id, fate, error) = by_hand("org_2", "--wait").await;
    assert_eq!((code, fate.as_str()), (Some(1), "delivered 1, dead 1"));
    assert!(
        error.contains("every endpoint: 1;") && error.contains(&format!("event show {id}")),
        "{error}"
    );

    let received = good.distinct();
    let lines: Vec<_> = (0..300).map(|lead| event("org_1", &lead.to_string())).collect();
    let output = installation
        .cli_with_input(&["publish", "--wait", "--json"], lines.join("\n").as_bytes())
        .await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    for (index, line) in printed.lines().enumerate() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&line["line"], &line["deliveries"]["delivered"]),
            (&(index + 1).into(), &1.into())
        );
    }
    assert_eq!((printed.lines().count(), good.distinct() - received), (300, 300));

    recorder.kill().await;
    let (code, _, fate, error) = by_hand("org_1", "--wait=1s").await;
    assert_eq!((code, fate.as_str()), (Some(1), "not in the journal yet"));
    assert!(
        error.contains("still pending: 1") && error.contains("magnetite status"),
        "{error}"
    );
    installation.delete().await;
}

/// There is neither a broker nor a database, and the configuration is invalid.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_checked_without_a_broker_and_all_that_is_wrong_is_told() {
    let mut installation = Installation::new("validated").await;
    installation.set("MAGNETITE_BROKER__URL", "none");
    let mut lines = vec![event("org_1", "lead_1")];
    lines.push(lines[0].replace("\"timestamp\":", "\"timestamp\":1703123456,\"at\":"));
    lines.push(
        lines[0]
            .replace("lead.completed", "lead.complete")
            .replace("org_1", ""),
    );
    lines.push(String::new());
    lines.push("{".to_owned());
    let completed = r#"{"lead_id":"lead_1","status":"completed","research_results":{},"generated_content":{},"completed_at":1703123456789}"#;
    lines[0] = lines[0].replace("{\"lead_id\":\"lead_1\"}", completed);
    let (valid, all) = (lines[0].clone(), lines.join("\n"));

    let checked = installation
        .cli_with_input(&["validate", "-"], all.as_bytes())
        .await;
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(1), "{said}");
    for (line, word) in [
        (2, "look like seconds"),
        (3, "did you mean \"lead.completed\"?"),
        (3, "\"organization_id\""),
        (5, "not JSON"),
    ] {
        let told = said
            .lines()
            .any(|told| told.starts_with(&format!("line {line}: ")) && told.contains(word));
        assert!(told, "line {line}, {word}: {said}");
    }
    assert!(!said.contains("line 1:") && !said.contains("line 4:"), "{said}");
    assert!(
        stderr(&checked).contains("not valid: 3 of 4"),
        "{}",
        stderr(&checked)
    );

    let well = installation.cli_with_input(&["validate"], valid.as_bytes()).await;
    assert_eq!(
        (well.status.code(), &well.stdout[..]),
        (Some(0), &b"valid: 1\n"[..])
    );
    let promised = valid.replace("\"status\":\"completed\"", "\"status\":\"done\"");
    let json = installation
        .cli_with_input(&["validate", "--json"], promised.as_bytes())
        .await;
    let found: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((json.status.code(), &found["line"]), (Some(1), &1.into()));
    assert!(
        found["errors"][0].as_str().unwrap().contains("/data/status"),
        "{found}"
    );
    installation.set("MAGNETITE_BROKER__URL", "amqp://127.0.0.1:9/");
    let dry = installation
        .cli_with_input(&["publish", "--dry-run"], promised.as_bytes())
        .await;
    let id = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(
        dry.status.success() && id.starts_with("evt_"),
        "{id} {}",
        stderr(&dry)
    );
}
