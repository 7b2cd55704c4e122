//! Tests the command line from outside: exit codes, and messages that say what to do.

mod events;

use std::process::{Output, Stdio};

use e2e::{Api, Installation};
use tokio::{io::AsyncReadExt as _, process::Command};

fn stderr(output: &Output) -> String {
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
        ("http://93.184.216.34/", "egress.allow_http"),
        ("ftp://example.com/", "https"),
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
async fn endpoints_with_http_are_registered_only_where_it_is_allowed_and_named_elsewhere() {
    let mut installation = Installation::new("plain").await;
    let create = ["endpoint", "create", "--org", "org_1", "--url"];
    let asked = |url| [&create[..], &[url, "--json"]].concat();
    let public = "http://93.184.216.34/hook";
    let (api, key) = (
        Api::start(&installation).await,
        installation.key("org_1", "admin").await,
    );
    let body = serde_json::json!({ "url": public }).to_string();
    let refused = api.send("POST", "/v1/endpoints", &key, &[], body).await;
    assert_eq!((refused.status, refused.problem()), (422, "invalid-fields"));
    let told = refused.body["errors"][0]["detail"].as_str().unwrap();
    assert!(told.contains("https") && !told.contains("egress"), "{told}");
    assert!(api.role.terminate().await);

    // The address is in a network of `egress.allow`.
    installation.cli_ok(&asked("http://127.0.0.1:9000/hook")).await;
    installation.set("MAGNETITE_EGRESS__ALLOW_HTTP", "true");
    let before: serde_json::Value = serde_json::from_str(&installation.cli_ok(&asked(public)).await).unwrap();
    // More endpoints than doctor queries at once.
    for port in 9001..9030 {
        installation
            .endpoint("org_2", &format!("http://127.0.0.1:{port}/"))
            .await;
    }
    let https = async |installation: &Installation| {
        let checks = installation.doctor().await;
        checks
            .into_iter()
            .find(|check| check["check"] == "https")
            .expect("it is checked")
    };
    assert_eq!(https(&installation).await["outcome"], "ok");
    installation.set("MAGNETITE_EGRESS__ALLOW_HTTP", "false");
    let named = https(&installation).await;
    let id = before["id"].as_str().unwrap();
    assert_eq!(named["outcome"], "warn", "{named}");
    assert!(
        named["detail"]
            .as_str()
            .unwrap()
            .ends_with(&format!("http: {id}")),
        "{named}"
    );
    // The existing endpoint keeps its URL.
    let kept = installation
        .cli(&["endpoint", "update", id, "--events", "lead.*"])
        .await;
    assert!(kept.status.success(), "{}", stderr(&kept));
    let moved = installation
        .cli(&["endpoint", "update", id, "--url", public])
        .await;
    assert!(stderr(&moved).contains("egress.allow_http"), "{}", stderr(&moved));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_is_made_by_no_command_but_those_that_say_so() {
    let mut installation = Installation::new("database-named").await;
    let there = installation.directory().join("magnetite.db");
    let output = installation.cli(&["endpoint", "list"]).await;
    assert!(output.status.success() && output.stdout.is_empty());
    let none = format!("none in sqlite://{}", there.display());
    assert!(stderr(&output).contains(&none), "{}", stderr(&output));

    let missing = installation.directory().join("missing.db");
    installation.set(
        "MAGNETITE_DATABASE__URL",
        &format!("sqlite://{}", missing.display()),
    );
    for arguments in [&["endpoint", "list"][..], &["audit"], &["worker"], &["recorder"]] {
        let output = installation.cli(arguments).await;
        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments:?}: {}",
            stderr(&output)
        );
        let words = format!(
            "there is no database {} (database.url, from MAGNETITE_DATABASE__URL)",
            missing.display()
        );
        assert!(
            stderr(&output).contains(&words),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(!missing.exists(), "{arguments:?}");
    }
    installation.set("MAGNETITE_DATABASE__URL", "sqlite:///m.db?mode=rwc");
    let output = installation.cli(&["endpoint", "list"]).await;
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));

    let url = format!("sqlite://{}", missing.display());
    installation.set("MAGNETITE_DATABASE__URL", &url);
    let output = installation.cli(&["migrate"]).await;
    let words = format!("{url} is a new, empty database");
    assert!(stderr(&output).contains(&words), "{}", stderr(&output));
    let output = installation.cli(&["migrate"]).await;
    let words = format!("{url} is up to date");
    assert!(stderr(&output).contains(&words), "{}", stderr(&output));
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn colours_are_where_they_are_wanted_and_never_in_objects() {
    const GREEN: &str = "\u{1b}[32mok\u{1b}[0m";
    let installation = Installation::new("colours").await;
    let doctor = async |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = installation.command(&[&["doctor"], arguments].concat());
        let output = command.envs(variables.iter().copied()).output().await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for (arguments, variables, is_colored) in [
        (&[][..], &[][..], false),
        (&[], &[("CLICOLOR_FORCE", "1")], false),
        (&["--color", "always"], &[], true),
        (&["--color", "always"], &[("NO_COLOR", "1")], true),
        (&["--color", "never"], &[], false),
        (&["--color", "always", "--json"], &[], false),
    ] {
        let printed = doctor(arguments, variables).await;
        assert_eq!(
            printed.contains(GREEN),
            is_colored,
            "{arguments:?} {variables:?}: {printed}"
        );
        assert_eq!(
            printed.contains('\u{1b}'),
            is_colored,
            "{arguments:?} {variables:?}: {printed}"
        );
    }
    let on_terminal = async |variable: &str| {
        let typed = format!("{variable} {} doctor", e2e::binary().display());
        let mut script = installation.command_of(
            "script",
            &["--quiet", "--return", "--command", &typed, "/dev/null"],
        );
        let output = script.env("TERM", "xterm").output().await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(on_terminal("").await.contains(GREEN));
    assert!(!on_terminal("NO_COLOR=1").await.contains('\u{1b}'));
    assert!(!on_terminal("TERM=dumb").await.contains('\u{1b}'));
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_status_clears_a_terminal_and_writes_no_controls_elsewhere() {
    let installation = Installation::new("watched").await;
    let begin = async |mut command: Command| {
        let mut watching = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut first = [0; 9];
        let mut stdout = watching.stdout.take().unwrap();
        stdout.read_exact(&mut first).await.unwrap();
        String::from_utf8(first.to_vec()).unwrap()
    };
    let piped = installation.command(&["status", "--watch"]);
    assert_eq!(begin(piped).await, "MAGNETITE");
    let typed = format!("{} status --watch", e2e::binary().display());
    let on_terminal = installation.command_of(
        "script",
        &["--quiet", "--flush", "--command", &typed, "/dev/null"],
    );
    assert!(begin(on_terminal).await.starts_with("\u{1b}[H\u{1b}[2J"));
    installation.delete().await;
}

/// Returns the exit code and the standard error of a command whose standard output has no reader, as in
/// `| jq` where jq is not installed.
async fn unread(installation: &Installation, arguments: &[&str]) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = installation.command(arguments);
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().await.unwrap();
    (output.status.code(), stderr(&output))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_reads_is_an_error_where_it_is_shown_once_and_no_verdict_is_lost() {
    let mut installation = Installation::new("unread").await;
    let endpoint = installation.endpoint("org_1", "http://127.0.0.1:9/").await;
    for (arguments, words) in [
        (
            &[
                "endpoint",
                "create",
                "--org",
                "org_1",
                "--url",
                "http://127.0.0.1:9/",
            ][..],
            "was created, but its secret could not be printed; `magnetite endpoint rotate-secret ep_",
        ),
        (
            &["endpoint", "rotate-secret", &endpoint.id, "--json"],
            "has a new secret, but it could not be printed; `magnetite endpoint rotate-secret ep_",
        ),
        (
            &[
                "api-key", "create", "--org", "org_1", "--name", "n", "--scopes", "admin",
            ],
            "was created, but it could not be printed; revoke it with `magnetite api-key revoke key_",
        ),
    ] {
        let (code, told) = unread(&installation, arguments).await;
        assert_eq!(code, Some(1), "{arguments:?}: {told}");
        assert!(told.contains(words), "{arguments:?}: {told}");
    }
    assert_eq!(unread(&installation, &["endpoint", "list"]).await.0, Some(0));
    assert_eq!(unread(&installation, &["doctor"]).await.0, Some(0));
    // No role is running.
    assert_eq!(unread(&installation, &["status"]).await.0, Some(1));
    installation.set("MAGNETITE_DATABASE__URL", "sqlite:///nowhere/magnetite.db");
    assert_eq!(unread(&installation, &["doctor"]).await.0, Some(1));
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_told_once_and_says_what_to_correct() {
    let mut installation = Installation::new("login").await;
    let port = installation.broker_port();
    for (url, words, fix) in [
        (
            format!("amqp://guest:wrong@127.0.0.1:{port}/%2f"),
            "ACCESS_REFUSED",
            "correct user and password",
        ),
        (
            format!("amqp://guest:guest@127.0.0.1:{port}/nope"),
            "vhost nope not found",
            "rabbitmqctl add_vhost",
        ),
    ] {
        installation.set("MAGNETITE_BROKER__URL", &url);
        let output = installation.cli(&["doctor", "--json"]).await;
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        let told: Vec<_> = report.lines().filter(|line| line.contains(words)).collect();
        assert!(
            told.len() == 1 && told[0].contains(fix) && told[0].contains("login"),
            "{report}"
        );
        assert!(!report.contains("wrong@"), "{report}");
        let event = [
            "--event",
            "lead.completed",
            "--org",
            "o",
            "--project",
            "p",
            "--lead",
            "l",
        ];
        for command in [&["topology", "declare"][..], &[&["publish"][..], &event].concat()] {
            let output = installation.cli(command).await;
            let told = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{told}");
            assert!(told.contains(words) && told.contains(fix), "{told}");
            assert!(!told.contains("WARN") && !told.contains("trying again"), "{told}");
        }
    }
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_prints_a_fix_that_many_checks_share_once() {
    let mut installation = Installation::new("undeclared").await;
    installation.set("MAGNETITE_BROKER__PREFIX", "undeclared.by-anyone");
    let output = installation.cli(&["doctor"]).await;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = |words: &str| report.lines().filter(|line| line.contains(words)).count();
    assert!(count("fail  topology") > 5, "{report}");
    assert_eq!(
        count("fix: run `magnetite topology declare`, or start a worker"),
        1,
        "{report}"
    );
    installation.delete().await;
}
