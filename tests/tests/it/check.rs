//! `magnetite check`, against receivers that do what they should, and others.

use std::{process::Output, time::Duration};

use e2e::{Answer, Certificates, Hostile, Hostility, Receiver, Request};
use serde_json::Value;
use signature::{Secret, TOLERANCE_S, Verifier};
use tokio::process::Command;

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// What the command printed, a JSON object for each check.
struct Report {
    output: Output,
    checks: Vec<Value>,
}

impl Report {
    fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    fn named(&self, name: &str) -> &Value {
        let found = self.checks.iter().find(|check| check["check"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {:?}; {}", self.checks, self.stderr()))
    }

    fn outcome(&self, name: &str) -> &str {
        self.named(name)["outcome"].as_str().unwrap()
    }

    /// The names of those with this outcome.
    fn with_outcome(&self, outcome: &str) -> Vec<&str> {
        let some = self.checks.iter().filter(|check| check["outcome"] == outcome);
        some.map(|check| check["check"].as_str().unwrap()).collect()
    }
}

/// `magnetite check`, with nothing around it but its environment. No broker and no database are where it would look.
fn command(url: &str, more: &[&str]) -> Command {
    let mut command = Command::new(e2e::binary());
    command
        .args(["check", url])
        .args(more)
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("MAGNETITE_BROKER__URL", "amqp://127.0.0.1:1/%2f")
        .current_dir("/")
        .kill_on_drop(true);
    command
}

async fn check(url: &str, more: &[&str]) -> Report {
    check_trusting(url, more, None).await
}

async fn check_trusting(url: &str, more: &[&str], certificates: Option<&Certificates>) -> Report {
    let directory = tempfile::tempdir().unwrap();
    let mut command = command(url, &[&["--secret", SECRET, "--json"], more].concat());
    if let Some(certificates) = certificates {
        let pem = directory.path().join("authority.pem");
        certificates.write_pem(&pem);
        command.env("MAGNETITE_EGRESS__ROOT_CERTIFICATES", pem);
    }
    let output = command.output().await.unwrap();
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    let checks = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    Report { output, checks }
}

const HERE: [&str; 2] = ["--allow", "127.0.0.0/8"];

/// As the documentation asks for: what verifies is taken, however often it comes.
fn by_the_book(request: &Request, _: usize) -> Answer {
    let verifier = Verifier::new(&[Secret::parse(SECRET).unwrap()]);
    let verified = verifier.verify_standard(
        request.header("webhook-id"),
        request.header("webhook-timestamp"),
        request.header("webhook-signature"),
        &request.body,
        (request.at_ms / 1000) as i64,
        TOLERANCE_S,
    );
    Answer::status(if verified.is_ok() { 200 } else { 401 })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_does_everything_right_passes() {
    let certificates = Certificates::new();
    let receiver = Receiver::secure(certificates.good_for_days(60), by_the_book).await;
    let report = check_trusting(&receiver.url(), &HERE, Some(&certificates)).await;
    assert_eq!(report.code(), Some(0), "{:?} {}", report.checks, report.stderr());
    assert_eq!(
        report.with_outcome("ok"),
        [
            "address",
            "connection",
            "tls",
            "certificate",
            "good request",
            "repeated request",
            "wrong signature",
            "other body",
            "stale request"
        ]
    );
    assert_eq!(report.named("certificate")["days_left"], 60);
    assert_eq!(report.named("tls")["version"], "TLS 1.3");
    assert_eq!(report.named("good request")["status"], 200);
    for (name, figure) in [
        ("connection", "connect_ms"),
        ("tls", "tls_ms"),
        ("good request", "first_byte_ms"),
    ] {
        assert!(report.named(name)[figure].is_u64(), "{}", report.named(name));
    }

    let requests = receiver.requests();
    assert_eq!(requests.len(), 5);
    requests[0].verify(SECRET);
    assert_eq!(requests[0].header("user-agent"), "Magnetite-Webhooks/1.0");
    assert_eq!(requests[0].header("x-magnetite-event"), "lead.completed");
    assert_eq!(requests[1].event_id(), requests[0].event_id());
    assert_eq!((requests[0].attempt(), requests[1].attempt()), (1, 2));
    assert_eq!(requests[0].json()["data"]["lead_id"], requests[0].lead.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_takes_everything_does_not_verify_signatures() {
    let receiver = Receiver::ok().await;
    let report = check(&receiver.url(), &HERE).await;
    assert_eq!(report.code(), Some(1), "{}", report.stderr());
    assert_eq!(report.with_outcome("fail"), ["wrong signature", "other body"]);
    assert_eq!(
        report.with_outcome("warn"),
        ["tls", "stale request"],
        "{:?}",
        report.checks
    );
    let detail = report.named("wrong signature")["detail"].as_str().unwrap();
    assert!(detail.contains("does not verify signatures"), "{detail}");
    assert!(
        report.stderr().contains("docs/failures.md"),
        "{}",
        report.stderr()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_verifies_but_not_the_time_is_advised() {
    let receiver = Receiver::new(|request, _| {
        let verifier = Verifier::new(&[Secret::parse(SECRET).unwrap()]);
        let verified = verifier.verify(&request.body, request.header("x-magnetite-signature"));
        Answer::status(if verified.is_ok() { 200 } else { 401 })
    })
    .await;
    let report = check(&receiver.url(), &HERE).await;
    assert_eq!(report.code(), Some(0), "{:?}", report.checks);
    assert_eq!(report.with_outcome("warn"), ["tls", "stale request"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses_what_it_has_had_is_told_to_take_it() {
    let receiver = Receiver::new(|request, seen| match by_the_book(request, seen) {
        Answer::Status(200, _) if seen > 0 => Answer::status(409),
        answer => answer,
    })
    .await;
    let report = check(&receiver.url(), &HERE).await;
    assert_eq!(
        (report.code(), report.with_outcome("fail")),
        (Some(1), vec!["repeated request"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_with_another_secret_gets_no_further_request() {
    let receiver = Receiver::new(|_, _| Answer::status(401)).await;
    let report = check(&receiver.url(), &HERE).await;
    assert_eq!(
        (report.code(), report.with_outcome("fail")),
        (Some(1), vec!["good request"])
    );
    let fix = report.named("good request")["fix"].as_str().unwrap();
    assert!(fix.contains("--secret"), "{fix}");
    assert_eq!(receiver.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_told_by_scheme_and_host_and_not_followed() {
    let target = Receiver::ok().await;
    let to = format!("{}?token=hidden", target.url());
    let receiver = Receiver::new(move |_, _| Answer::Status(307, vec![("location", to.clone())])).await;
    let report = check(&receiver.url(), &HERE).await;
    assert_eq!(report.code(), Some(1));
    let good = report.named("good request");
    let origin = target.url().replace("/hook", "");
    assert_eq!(good["redirects_to"], origin.as_str());
    assert!(good["detail"].as_str().unwrap().contains(&origin), "{good}");
    let printed = String::from_utf8_lossy(&report.output.stdout).into_owned() + &report.stderr();
    assert!(
        !printed.contains("hidden") && !printed.contains("whsec_"),
        "{printed}"
    );
    assert_eq!(target.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_endpoint_is_advised_to_answer_first_and_work_later() {
    let receiver = Receiver::new(|request, seen| match by_the_book(request, seen) {
        Answer::Status(200, _) => Answer::Late(Duration::from_millis(1_200), 200),
        answer => answer,
    })
    .await;
    let report = check(&receiver.url(), &HERE).await;
    assert_eq!(report.code(), Some(0), "{:?}", report.checks);
    assert_eq!(
        report.with_outcome("warn"),
        ["tls", "good request", "repeated request"]
    );
    let good = report.named("good request");
    assert!(good["first_byte_ms"].as_u64().unwrap() >= 1_200, "{good}");
    assert!(good["fix"].as_str().unwrap().contains("later"), "{good}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_expired_or_soon_will_is_shown_with_its_days() {
    let certificates = Certificates::new();
    let expired = Hostile::start(Hostility::Expired, &certificates).await;
    let report = check_trusting(&expired.url(), &HERE, Some(&certificates)).await;
    assert_eq!(
        (report.code(), report.with_outcome("fail")),
        (Some(1), vec!["certificate", "good request"])
    );
    assert!(report.named("certificate")["days_left"].as_i64().unwrap() < -1000);
    let detail = report.named("good request")["detail"].as_str().unwrap();
    assert!(detail.contains("has expired"), "{detail}");

    let soon = Receiver::secure(certificates.good_for_days(5), by_the_book).await;
    let report = check_trusting(&soon.url(), &HERE, Some(&certificates)).await;
    assert_eq!(
        (report.code(), report.with_outcome("fail")),
        (Some(1), vec!["certificate"])
    );
    assert_eq!(report.named("certificate")["days_left"], 5);

    // Nobody here trusts the authority.
    let report = check(&soon.url(), &HERE).await;
    assert_eq!(report.outcome("good request"), "fail");
    let detail = report.named("good request")["detail"].as_str().unwrap();
    assert!(detail.contains("issuer is unknown"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_refuses_connections_or_never_answers_is_told_in_the_workers_words() {
    let certificates = Certificates::new();
    for (hostility, words) in [
        (Hostility::NotListening, "refused the connection"),
        (Hostility::Closes, "connection"),
        (Hostility::NotHttp, "protocol"),
    ] {
        let receiver = Hostile::start(hostility, &certificates).await;
        let report = check(&receiver.url(), &HERE).await;
        assert_eq!(
            (report.code(), report.outcome("good request")),
            (Some(1), "fail"),
            "{hostility}"
        );
        let detail = report.named("good request")["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{hostility}: {detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_public_is_refused_and_nothing_is_sent() {
    let receiver = Receiver::ok().await;
    for url in [receiver.url(), receiver.url().replace("127.0.0.1", "localhost")] {
        let report = check(&url, &[]).await;
        assert_eq!(
            (report.code(), report.with_outcome("fail")),
            (Some(1), vec!["address"]),
            "{url}"
        );
        let address = report.named("address").to_string();
        assert!(
            address.contains("egress.allow") && address.contains("add --allow "),
            "{address}"
        );
    }
    assert_eq!(receiver.count(), 0);
    let output = command(&receiver.url(), &[])
        .env("MAGNETITE_EGRESS__ALLOW", "127.0.0.0/8")
        .env("WEBHOOK_SECRET", SECRET)
        .output()
        .await
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("ok    good request"), "{stdout}");
    assert_eq!(receiver.count(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_url_or_no_secret_is_a_usage_error() {
    for (arguments, word) in [
        (["check", "ftp://example.com/", "--secret", SECRET], "https"),
        (
            ["check", "https://u:p@example.com/", "--secret", SECRET],
            "user name",
        ),
        (
            ["check", "https://example.com/", "--secret", "whsec_hunter2"],
            "--secret",
        ),
    ] {
        let output = Command::new(e2e::binary())
            .args(arguments)
            .output()
            .await
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {stderr}");
        assert!(stderr.contains(word) && !stderr.contains("hunter2"), "{stderr}");
    }
}
