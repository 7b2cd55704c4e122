//! The OpenAPI document: a public linter has nothing to say against it, and the API does what it says, whatever it is sent.

use std::{fs, path::Path, process::Output, time::Duration};

use e2e::{Api, Installation, Receiver, event, scaled, seed, wait_for};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_public_linter_has_nothing_to_say_against_the_document() {
    let installation = Installation::new("openapi").await;
    let document = installation.directory().join("openapi.json");
    fs::write(&document, installation.cli_ok(&["openapi"]).await).unwrap();
    let output = tool("MAGNETITE_TEST_SPECTRAL")
        .args(["lint", "--fail-severity=hint", "--ruleset"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/ruleset.yaml"))
        .arg(&document)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    installation.delete().await;
}

mod alone {
    use super::*;

    /// Schemathesis makes requests of the document, good and bad ones, and chains of them, and compares every answer with it. Whatever
    /// happens, no 5xx, no answer that is not documented, and no request that is taken although it is not valid. What is valid may be
    /// refused: no schema can say where a URL leads, or which cursor was answered.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_fuzzer_finds_no_answer_that_is_not_documented() {
        let settings = [("MAGNETITE_API__RATE_PER_KEY", "1000000")];
        let delays_ms = [1000, 2000, 4000, 8000, 16000, 30000];
        let installation = Installation::with("fuzz", &e2e::shared_broker(), &delays_ms, &settings).await;
        let api = Api::start(&installation).await;
        let receiver = Receiver::ok().await;
        let key = installation.key("org_1", "admin").await;
        // So that lists have something in them, and ids of all kinds can be found.
        installation.endpoint("org_1", &receiver.url()).await;
        let (worker, recorder) = (installation.worker().await, installation.recorder().await);
        let published = api
            .send("POST", "/v1/events", &key, &[], event("org_1", "lead_1"))
            .await;
        assert_eq!(published.status, 202, "{published:?}");
        wait_for("the delivery is recorded", SOON, || async {
            let deliveries = api.get("/v1/deliveries", &key).await;
            match deliveries.body["data"].as_array() {
                Some(items) if !items.is_empty() => Ok(()),
                _ => Err(format!("{deliveries:?}")),
            }
        })
        .await;
        let output = fuzz(&api, &key, &installation.directory()).await;
        assert!(output.status.success(), "{}", said(&output));
        assert!(api.role.terminate().await && worker.terminate().await && recorder.terminate().await);
        installation.delete().await;
    }
}

async fn fuzz(api: &Api, key: &str, directory: &Path) -> Output {
    let examples = scaled("20", "300");
    let mut command = tool("MAGNETITE_TEST_PYTHON");
    command
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/schemathesis.toml"))
        .args(["run", "--suppress-health-check=all", "--checks=all"])
        .arg("--exclude-checks=positive_data_acceptance")
        .args(["--max-examples", examples, "--seed", &seed().to_string()])
        .args(["--header", &format!("Authorization: Bearer {key}")])
        .arg(format!("{}/openapi.json", api.url()))
        .current_dir(directory);
    command.output().await.unwrap()
}

/// What tests/run.sh has installed.
fn tool(variable: &str) -> Command {
    let path = std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run tests/run.sh, which installs what the tests need")
    });
    let mut command = Command::new(path);
    command.kill_on_drop(true);
    command
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}
