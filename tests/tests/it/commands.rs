//! The command line from outside: exit codes, and messages that say what to do.

use e2e::{Installation, Receiver, SOON, event, wait_until};

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_ends_with_64_and_names_the_key() {
    let mut installation = Installation::new("config").await;
    installation.set("MAGNETITE_WORKER__IN_FLIGHT_MAX", "many");
    for arguments in [["worker"].as_slice(), &["publish"], &["doctor"]] {
        let output = installation.cli(arguments).await;
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(
            stderr(&output).contains("worker.in_flight_max"),
            "{}",
            stderr(&output)
        );
    }
    assert_eq!(
        installation
            .cli(&["worker", "--no-such-option"])
            .await
            .status
            .code(),
        Some(2)
    );
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_may_not_be_is_refused_with_the_reason() {
    let mut installation = Installation::new("refused").await;
    installation.set("MAGNETITE_EGRESS__ALLOW", "");
    for (url, word) in [
        ("http://127.0.0.1:9000/hook", "egress.allow"),
        ("http://2130706433/", "egress.allow"),
        ("http://[::ffff:10.0.0.1]/", "egress.allow"),
        ("http://169.254.169.254/latest/meta-data", "egress.allow"),
        ("ftp://example.com/", "http"),
        ("https://user:password@93.184.216.34/", "user"),
        ("not a url", "URL"),
    ] {
        let output = installation
            .cli(&["endpoint", "create", "--org", "org_1", "--url", url])
            .await;
        assert_eq!(output.status.code(), Some(1), "{url}");
        assert!(stderr(&output).contains(word), "{url}: {}", stderr(&output));
        assert!(!stderr(&output).contains("password@"), "{}", stderr(&output));
    }
    let create = [
        "endpoint",
        "create",
        "--org",
        "o",
        "--url",
        "https://93.184.216.34/",
        "--events",
        "lead.complete",
    ];
    let output = installation.cli(&create).await;
    assert!(
        !output.status.success() && stderr(&output).contains("lead.completed"),
        "{}",
        stderr(&output)
    );
    assert_eq!(installation.cli_ok(&["endpoint", "list", "--json"]).await, "");
    installation.delete().await;
}

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

#[tokio::test(flavor = "multi_thread")]
async fn doctor_passes_on_a_good_installation_and_says_what_is_missing_on_another() {
    let mut installation = Installation::new("doctor").await;
    let report = installation.cli_ok(&["doctor"]).await;
    assert!(!report.contains("fail"), "{report}");
    installation.set("MAGNETITE_BROKER__PREFIX", "nothing-here");
    let output = installation.cli(&["doctor"]).await;
    assert_eq!(output.status.code(), Some(1));
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(report.contains("topology declare"), "{report}");
    installation.set("MAGNETITE_BROKER__URL", "amqp://guest:s3cret@127.0.0.1:1/%2f");
    let output = installation.cli(&["doctor"]).await;
    assert_eq!(output.status.code(), Some(1));
    let report = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
    assert!(
        report.contains("127.0.0.1:1") && !report.contains("s3cret"),
        "{report}"
    );
    installation.delete().await;
}
