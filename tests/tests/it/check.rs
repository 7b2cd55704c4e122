//! Tests `magnetite check` against receivers that behave correctly and receivers that do not.

use std::{
    env,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use e2e::{Answer, Certificates, Hostile, Hostility, Receiver, Request};
use serde_json::Value;
use signature::{Secret, TOLERANCE_S, Verifier};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The output of the command, and the JSON object of each check.
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

    /// Returns the names of the checks with this outcome.
    fn with_outcome(&self, outcome: &str) -> Vec<&str> {
        let some = self.checks.iter().filter(|check| check["outcome"] == outcome);
        some.map(|check| check["check"].as_str().unwrap()).collect()
    }
}

/// Returns a `magnetite check` command with a minimal environment. There is no broker and no database where
/// it would look for them.
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
    check_with(url, more, None).await
}

async fn check_trusting(url: &str, more: &[&str], certificates: &Certificates) -> Report {
    let directory = tempfile::tempdir().unwrap();
    let authorities = directory.path().join("authority.pem");
    certificates.write_pem(&authorities);
    check_with(url, more, Some(&authorities)).await
}

/// Runs `magnetite check`. `authorities` is a file of certificates to trust.
async fn check_with(url: &str, more: &[&str], authorities: Option<&Path>) -> Report {
    let mut command = command(url, &[&["--secret", SECRET, "--json"], more].concat());
    if let Some(authorities) = authorities {
        command.env("MAGNETITE_EGRESS__ROOT_CERTIFICATES", authorities);
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

/// Answers as the documentation requires: accepts every request with a valid signature, including repeated
/// ones.
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
    let report = check_trusting(&receiver.url(), &HERE, &certificates).await;
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

/// A Python server that uses OpenSSL, with the certificate, the key and the version of TLS from its
/// arguments. It accepts every request, and prints its port.
const SERVER: &str = r#"
import http.server, ssl, sys

class Taker(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
context.minimum_version = context.maximum_version = ssl.TLSVersion[sys.argv[3]]
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taker)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"#;

/// Creates an authority and a server certificate signed by it with openssl. Both have keys of the same kind.
async fn issue(directory: &Path, key: &[&str], signing: &[&str]) {
    let openssl = async |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(directory);
        let output = command.output().await.expect("openssl: apt-get install openssl");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    for name in ["authority.key", "server.key"] {
        openssl(&[&["genpkey", "-out", name, "-algorithm"], key].concat()).await;
    }
    let days = ["-days", "90"];
    let authority = [
        "req",
        "-x509",
        "-new",
        "-key",
        "authority.key",
        "-out",
        "authority.pem",
    ];
    let of = [
        "-subj",
        "/CN=authority",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
    ];
    openssl(&[&authority[..], &of, &days, signing].concat()).await;
    let request = ["req", "-new", "-key", "server.key", "-out", "server.csr"];
    let of = ["-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1"];
    openssl(&[&request[..], &of].concat()).await;
    let signed = ["x509", "-req", "-in", "server.csr", "-out", "server.pem"];
    let by = [
        "-CA",
        "authority.pem",
        "-CAkey",
        "authority.key",
        "-CAcreateserial",
    ];
    openssl(&[&signed[..], &by, &days, signing, &["-copy_extensions", "copy"]].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_on_p_521_and_for_rsa_pss_alone_are_verified() {
    let digest_long: &[&str] = &["-sigopt", "rsa_pss_saltlen:digest"];
    for (key, signing) in [
        (["EC", "-pkeyopt", "ec_paramgen_curve:P-521"], &[][..]),
        (["RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"], digest_long),
    ] {
        let directory = tempfile::tempdir().unwrap();
        issue(directory.path(), &key, signing).await;
        let (_server, url) = serve(directory.path(), "TLSv1_3").await;
        let trusted = directory.path().join("authority.pem");
        let report = check_with(&url, &HERE, Some(&trusted)).await;
        for name in ["tls", "good request"] {
            assert_eq!(report.outcome(name), "ok", "{key:?}: {:?}", report.checks);
        }
        assert_eq!(report.named("tls")["version"], "TLS 1.3");
        // Without trust in the authority.
        let report = check(&url, &HERE).await;
        for name in ["certificate", "good request"] {
            assert_eq!(report.outcome(name), "fail", "{:?}", report.checks);
        }
        // With trust in another authority of the same name.
        let other = tempfile::tempdir().unwrap();
        issue(other.path(), &key, signing).await;
        let report = check_with(&url, &HERE, Some(&other.path().join("authority.pem"))).await;
        assert_eq!(report.outcome("good request"), "fail", "{:?}", report.checks);
    }
}

/// In TLS 1.2, the name of a signature scheme determines the hash but not the curve.
#[tokio::test(flavor = "multi_thread")]
async fn ecdsa_with_any_hash_is_verified_in_tls_1_2() {
    for curve in ["ec_paramgen_curve:P-256", "ec_paramgen_curve:P-384"] {
        let directory = tempfile::tempdir().unwrap();
        issue(directory.path(), &["EC", "-pkeyopt", curve], &["-sha512"]).await;
        let (_server, url) = serve(directory.path(), "TLSv1_2").await;
        let trusted = directory.path().join("authority.pem");
        let report = check_with(&url, &HERE, Some(&trusted)).await;
        assert_eq!(
            report.outcome("good request"),
            "ok",
            "{curve}: {:?}",
            report.checks
        );
    }
}

/// Starts [`SERVER`] with the server certificate in `directory`, and returns it and its URL.
async fn serve(directory: &Path, version: &str) -> (Child, String) {
    let python = env::var("MAGNETITE_TEST_PYTHON").expect("run the tests by tests/run.sh");
    let mut server = Command::new(python)
        .args(["-c", SERVER, "server.pem", "server.key", version])
        .current_dir(directory)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let port = lines.next_line().await.unwrap().expect("the server's port");
    (server, format!("https://127.0.0.1:{port}/"))
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
    let report = check_trusting(&expired.url(), &HERE, &certificates).await;
    assert_eq!(
        (report.code(), report.with_outcome("fail")),
        (Some(1), vec!["certificate", "good request"])
    );
    assert!(report.named("certificate")["days_left"].as_i64().unwrap() < -1000);
    let detail = report.named("good request")["detail"].as_str().unwrap();
    assert!(detail.contains("has expired"), "{detail}");

    let soon = Receiver::secure(certificates.good_for_days(5), by_the_book).await;
    let report = check_trusting(&soon.url(), &HERE, &certificates).await;
    assert_eq!(
        (report.code(), report.with_outcome("fail")),
        (Some(1), vec!["certificate"])
    );
    assert_eq!(report.named("certificate")["days_left"], 5);

    // This check does not trust the authority.
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
            !address.contains("egress.allow") && address.contains("add --allow "),
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
