//! Tests the tools that a receiver's developer can use without any setup: `trigger`, and `listen` in front of
//! an application.

use std::process::{Output, Stdio};

use e2e::{Answer, Certificates, EVENT_TYPES, Receiver, Request};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
};

const SECRET: &str = "whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
const OTHER: &str = "whsec_AgIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

/// Returns a command with an environment in which there is no configuration, no broker and no database.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(e2e::binary());
    command
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent")
        .current_dir("/")
        .kill_on_drop(true);
    command
}

async fn trigger(event: &str, url: &str, more: &[&str]) -> Output {
    let arguments = ["trigger", event, "--url", url, "--json"];
    let mut command = command(&[&arguments, more].concat());
    command.env("WEBHOOK_SECRET", SECRET).output().await.unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(output)))
}

#[tokio::test(flavor = "multi_thread")]
async fn trigger_sends_a_signed_sample_of_every_event_with_nothing_set_up() {
    let receiver = Receiver::ok().await;
    for (number, event) in EVENT_TYPES.into_iter().enumerate() {
        let output = trigger(event, &receiver.url(), &["--lead", "lead_7"]).await;
        assert_eq!(output.status.code(), Some(0), "{event}: {}", stderr(&output));
        let printed = json(&output);
        assert_eq!((&printed["ok"], &printed["status"]), (&true.into(), &200.into()));
        let request = receiver.requests()[number].clone();
        request.verify(SECRET);
        assert_eq!(request.header("x-magnetite-event"), event);
        assert_eq!(request.header("user-agent"), "Magnetite-Webhooks/1.0");
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(printed["headers"]["webhook-id"], request.event_id());
        assert_eq!(printed["body"].as_str().unwrap().as_bytes(), request.body);
        assert_eq!(request.json()["lead_id"], "lead_7");
    }
    let data = ["--data", r#"{"mine":1.50}"#];
    let output = trigger("lead.created", &receiver.url(), &data).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let request = receiver.requests().pop().unwrap();
    assert!(request.body.ends_with(br#""data":{"mine":1.50}}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn trigger_says_what_the_receiver_did_and_what_to_do() {
    let refusing = Receiver::new(|_, _| Answer::Body(401, "bad signature")).await;
    let output = trigger("lead.created", &refusing.url(), &[]).await;
    let printed = json(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert_eq!(printed["status"], 401);
    assert_eq!(printed["response"], "bad signature");
    assert!(
        printed["advice"].as_str().unwrap().contains("raw body"),
        "{printed}"
    );

    let output = trigger("lead.created", "http://127.0.0.1:1/", &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)["failure"], "connection_refused");

    let url = "http://127.0.0.1:1/";
    for (event, secret, word) in [
        ("lead.created", "hunter2", "whsec_"),
        ("lead.melted", SECRET, "lead.completed"),
    ] {
        let mut command = command(&["trigger", event, "--url", url, "--secret", secret]);
        let output = command.output().await.unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(word) && !said.contains("hunter2"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_can_come_from_standard_input() {
    let receiver = Receiver::ok().await;
    let mut child = command(&[
        "trigger",
        "lead.created",
        "--url",
        &receiver.url(),
        "--secret",
        "-",
    ])
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let line = format!("{SECRET}\n");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(line.as_bytes())
        .await
        .unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("ok: delivered"), "{printed}");
    receiver.requests()[0].verify(SECRET);
}

/// Starts `magnetite listen`, and returns it with its URL.
async fn listen(more: &[&str]) -> (Child, String) {
    let arguments = ["listen", "--addr", "127.0.0.1:0", "--json"];
    let mut child = command(&[&arguments, more].concat())
        .env("WEBHOOK_SECRET", SECRET)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut greeting = String::new();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    said.read_line(&mut greeting).await.unwrap();
    let url = greeting.trim().strip_prefix("listening on ").expect(&greeting);
    let url = format!("{url}hook");
    (child, url)
}

/// Waits until `--count` has ended the command, and returns what it printed for each request.
async fn printed(child: Child) -> Vec<Value> {
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_with_a_certificate_of_its_own_is_forwarded_to_if_so_asked() {
    let certificates = Certificates::new();
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("authority.pem");
    certificates.write_pem(&authority);
    let authority = authority.to_str().unwrap();
    let taking = |_: &Request, _: usize| Answer::Body(202, "thank you");
    let good = Receiver::secure(certificates.good(&[]), taking).await;
    let expired = Receiver::secure(certificates.expired(), taking).await;
    let (good, expired) = (&good.url(), &expired.url());
    let (trusting, blind) = (&["--cacert", authority][..], &["--insecure"][..]);
    for (app, trust, status) in [
        (good, trusting, 202),
        (good, blind, 202),
        (good, &[], 502),
        (expired, trusting, 502),
        (expired, blind, 202),
    ] {
        let (listening, url) = listen(&[&["--forward", app, "--count", "1"], trust].concat()).await;
        let output = trigger("lead.completed", &url, &[]).await;
        assert_eq!(
            json(&output)["status"],
            status,
            "{app} {trust:?}: {}",
            json(&output)
        );
        printed(listening).await;
        let output = trigger("lead.completed", app, trust).await;
        let reached = json(&output)["status"] == 202;
        assert_eq!(reached, status == 202, "{app} {trust:?}: {}", json(&output));
    }
    for (arguments, code, words) in [
        (
            &["--insecure"][..],
            2,
            "apply only to --forward, which is not given",
        ),
        (
            &["--forward", good, "--cacert", "/nonexistent"],
            1,
            "--cacert: cannot read /nonexistent",
        ),
        (
            &["--forward", good, "--cacert", "/dev/null"],
            1,
            "contains no usable certificate",
        ),
    ] {
        let arguments = [
            &["listen", "--addr", "127.0.0.1:0", "--secret", SECRET][..],
            arguments,
        ]
        .concat();
        let output = Command::new(e2e::binary())
            .args(arguments)
            .output()
            .await
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listen_forwards_what_it_verified_and_answers_what_the_application_answers() {
    let app = Receiver::new(|request, _| match request.lead.as_str() {
        "lead_bad" => Answer::Body(422, "what is that?"),
        _ => Answer::Body(202, "thank you"),
    })
    .await;
    let (listening, url) = listen(&["--forward", &app.url(), "--count", "3"]).await;
    let output = trigger("lead.completed", &url, &[]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(json(&output)["response"], "thank you");
    let sent = json(&output);
    let request = app.requests().pop().unwrap();
    request.verify(SECRET);
    assert_eq!(request.body, sent["body"].as_str().unwrap().as_bytes());
    for (name, value) in sent["headers"].as_object().unwrap() {
        assert_eq!(request.header(name), value.as_str().unwrap(), "{name}");
    }

    let output = trigger("lead.completed", &url, &["--lead", "lead_bad"]).await;
    assert_eq!(
        (&json(&output)["status"], output.status.code()),
        (&422.into(), Some(1))
    );
    let output = trigger("lead.created", &url, &["--secret", OTHER]).await;
    assert_eq!(json(&output)["status"], 401);
    assert_eq!(app.count(), 2, "what does not verify is not forwarded");

    drop(app);
    let output = trigger("lead.completed", &url, &[]).await;
    assert_eq!(json(&output)["status"], 502);
    let response = json(&output)["response"].to_string();
    assert!(response.contains("the application gave no answer"), "{response}");

    let printed = printed(listening).await;
    let status: Vec<_> = printed
        .iter()
        .map(|line| line["status"].as_u64().unwrap())
        .collect();
    assert_eq!(status, [202, 422, 401, 502]);
    let verified: Vec<_> = printed
        .iter()
        .map(|line| line["verified"].as_bool().unwrap())
        .collect();
    assert_eq!(verified, [true, true, false, true]);
    // The id of a sample is derived from its body, which shows that the body did not change.
    let signatures = &printed[2]["signatures"];
    assert_eq!(signatures["contract"]["verdict"], "wrong_secret");
    assert_eq!(signatures["standard"]["verdict"], "wrong_secret");
    assert_eq!(printed[0]["signatures"]["standard"]["verdict"], "valid");
    assert_eq!(printed[0]["headers"]["user-agent"], "Magnetite-Webhooks/1.0");
}

#[tokio::test]
async fn completions_are_scripts_and_every_command_has_a_page() {
    for (shell, check) in [("bash", Some("bash")), ("zsh", None), ("fish", None)] {
        let script = command(&["completions", shell]).output().await.unwrap();
        assert!(script.status.success(), "{}", stderr(&script));
        let text = String::from_utf8(script.stdout).unwrap();
        assert!(text.contains("rotate-secret"), "{shell}");
        if let Some(shell) = check {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &text).unwrap();
            let read = std::process::Command::new(shell)
                .arg("-n")
                .arg(file.path())
                .status();
            assert!(read.unwrap().success(), "{shell} cannot read it");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man/man1");
    let written = command(&["man", pages.to_str().unwrap()]).output().await.unwrap();
    assert!(written.status.success(), "{}", stderr(&written));
    for page in [
        "magnetite.1",
        "magnetite-endpoint-rotate-secret.1",
        "magnetite-up.1",
    ] {
        let text = std::fs::read_to_string(pages.join(page)).expect(page);
        assert!(text.contains(".TH"), "{page}");
    }
}
