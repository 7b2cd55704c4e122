//! Tests the OpenAPI document: a public linter finds nothing to report, and the API behaves as documented,
//! whatever requests it receives.

use std::{fs, path::Path, process::Output};

use e2e::{Api, Installation, Receiver, SOON, event, scaled, seed, wait_for, wait_until};
use serde_json::Value;
use tokio::process::Command;

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

/// Sends bodies, paths and queries as the document shows them, with the ids and URLs of existing objects.
#[tokio::test(flavor = "multi_thread")]
async fn every_example_of_the_document_is_taken() {
    let installation = Installation::new("examples").await;
    let (api, receiver) = (Api::start(&installation).await, Receiver::ok().await);
    let key = installation.key("org_123abc", "admin").await;
    let other = [
        "--org",
        "org_123abc",
        "--name",
        "other",
        "--scopes",
        "events:write",
    ];
    let other = installation
        .json(&[&["api-key", "create"][..], &other].concat())
        .await
        .remove(0);
    installation.keep_secret(other["key"].as_str().unwrap());
    let endpoint = installation.endpoint("org_123abc", &receiver.url()).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    let document: Value = serde_json::from_str(&installation.cli_ok(&["openapi"]).await).unwrap();

    let example = operations(&document)
        .find(|operation| operation.id == "publishEvent")
        .and_then(|publish| publish.body)
        .expect("it has a body");
    let file = installation.directory().join("event.jsonl");
    fs::write(&file, example.to_string()).unwrap();
    installation.cli_ok(&["validate", file.to_str().unwrap()]).await;
    let published = api
        .send("POST", "/v1/events", &key, &[], example.to_string())
        .await;
    assert_eq!(published.status, 202, "{published:?}");
    let delivery = delivered(&api, &key).await;
    let real = [
        ("ep_", endpoint.id.clone()),
        ("dlv_", delivery),
        ("evt_", published.body["id"].as_str().unwrap().to_owned()),
        // The key that is used must not be revoked.
        ("key_", other["id"].as_str().unwrap().to_owned()),
        ("https://example.com", receiver.url()),
    ];

    // Operations that delete something come last.
    let (last, first): (Vec<_>, _) = operations(&document)
        .filter(|operation| operation.has_end)
        .partition(|operation| operation.method == "DELETE");
    let mut bodies = 0;
    for operation in first.into_iter().chain(last) {
        bodies += usize::from(operation.body.is_some());
        let (path, body) = (
            replaced(&operation.path, &real),
            operation
                .body
                .map_or_else(String::new, |body| replaced_in(body, &real).to_string()),
        );
        let answer = api.send(&operation.method, &path, &key, &[], body.clone()).await;
        assert!(
            (200..300).contains(&answer.status),
            "{} {path} {body}: {answer:?}",
            operation.method
        );
    }
    assert!(bodies >= 7, "only {bodies} operations with a body");
    assert!(api.role.terminate().await && worker.terminate().await && recorder.terminate().await);
    installation.delete().await;
}

/// An operation, with the request that the document shows as its example.
struct Operation {
    id: String,
    method: String,
    /// The path with the query.
    path: String,
    body: Option<Value>,
    /// Whether the answer has an end, unlike a stream or an upgraded connection.
    has_end: bool,
}

fn operations(document: &Value) -> impl Iterator<Item = Operation> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(|(method, operation)| Operation::new(path, method, operation))
    })
}

impl Operation {
    fn new(template: &str, method: &str, operation: &Value) -> Self {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        let (mut path, mut query) = (template.to_owned(), Vec::new());
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            let value = match &parameter["example"] {
                Value::Array(values) => values[0].clone(),
                value => value.clone(),
            };
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            match parameter["in"].as_str().unwrap() {
                "path" => path = path.replace(&format!("{{{name}}}"), &text),
                "query" if !value.is_null() => query.push(format!("{name}={text}")),
                _ => {}
            }
        }
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        let body = operation.get("requestBody").map(|body| {
            let example = &body["content"]["application/json"]["example"];
            assert!(!example.is_null(), "{id}: the body has no example");
            example.clone()
        });
        let (answers, upgraded) = (&operation["responses"], &operation["responses"]["101"]);
        let streamed = &answers["200"]["content"]["application/x-ndjson"];
        Self {
            id,
            method: method.to_uppercase(),
            path,
            body,
            has_end: streamed.is_null() && upgraded.is_null(),
        }
    }
}

/// Replaces every word that begins with one of these prefixes by the corresponding real value.
fn replaced(text: &str, real: &[(&str, String)]) -> String {
    let words = text.split_inclusive(['/', '=', '&', '?']).map(|word| {
        let (body, end) = match word.strip_suffix(['/', '=', '&', '?']) {
            Some(body) => word.split_at(body.len()),
            None => (word, ""),
        };
        let found = real.iter().find(|(prefix, _)| body.starts_with(prefix));
        found.map_or_else(|| word.to_owned(), |(_, value)| format!("{value}{end}"))
    });
    words.collect()
}

fn replaced_in(value: Value, real: &[(&str, String)]) -> Value {
    match value {
        Value::String(text) => {
            let found = real.iter().find(|(prefix, _)| text.starts_with(prefix));
            Value::String(found.map_or(text, |(_, value)| value.clone()))
        }
        Value::Array(items) => items.into_iter().map(|item| replaced_in(item, real)).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| (key, replaced_in(value, real)))
            .collect(),
        other => other,
    }
}

/// Tests a client that a public generator creates from the document, with a program that uses nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_generated_client_registers_publishes_and_sends_again() {
    let installation = Installation::new("client").await;
    let (api, receiver) = (Api::start(&installation).await, Receiver::ok().await);
    let key = installation.key("org_1", "admin").await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    let directory = installation.directory();
    fs::write(
        directory.join("openapi.json"),
        installation.cli_ok(&["openapi"]).await,
    )
    .unwrap();
    // The generator has no type for a stream of lines.
    let settings =
        "post_hooks: []\ncontent_type_overrides:\n  application/x-ndjson: application/octet-stream\n";
    fs::write(directory.join("generator.yaml"), settings).unwrap();
    let generated = tool("MAGNETITE_TEST_PYTHON")
        .args([
            "-m",
            "openapi_python_client",
            "generate",
            "--path",
            "openapi.json",
            "--fail-on-warning",
        ])
        .args([
            "--meta",
            "none",
            "--output-path",
            "client",
            "--config",
            "generator.yaml",
        ])
        .current_dir(&directory)
        .output()
        .await
        .unwrap();
    assert!(generated.status.success(), "{}", said(&generated));

    let client = async |action: &str, argument: &str| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/use_client.py");
        let output = tool("MAGNETITE_TEST_PYTHON")
            .arg(script)
            .args([api.url(), &key, action, argument])
            .env("PYTHONPATH", &directory)
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let endpoint = client("create-endpoint", &receiver.url()).await;
    let event = client("publish", "org_1").await;
    let delivery = delivered(&api, &key).await;
    let again = client("resend", &delivery).await;
    assert_ne!(again, delivery);
    wait_until("it arrives again", SOON, || receiver.count() == 2).await;
    let listed = api.get(&format!("/v1/deliveries/{again}"), &key).await;
    assert_eq!(
        (&listed.body["endpoint_id"], &listed.body["event_id"]),
        (&Value::from(endpoint), &Value::from(event))
    );
    assert!(api.role.terminate().await && worker.terminate().await && recorder.terminate().await);
    installation.delete().await;
}

/// Waits until a delivery is recorded as delivered, and returns the id of the first one.
async fn delivered(api: &Api, key: &str) -> String {
    wait_for("the delivery is recorded", SOON, || async {
        let listed = api.get("/v1/deliveries?state=delivered", key).await;
        match listed.body["data"][0]["id"].as_str() {
            Some(id) => Ok(id.to_owned()),
            None => Err(format!("{listed:?}")),
        }
    })
    .await
}

mod alone {
    use super::*;

    /// Schemathesis generates valid and invalid requests, and sequences of requests, from the document, and
    /// compares every answer with it. There must be no 5xx, no undocumented answer, and no invalid request
    /// that is accepted. A valid request may be refused, because no schema can say where a URL leads, or
    /// which cursor was returned before.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_fuzzer_finds_no_answer_that_is_not_documented() {
        let settings = [("MAGNETITE_API__RATE_PER_KEY", "1000000")];
        let delays_ms = [1000, 2000, 4000, 8000, 16000, 30000];
        let installation = Installation::with("fuzz", &e2e::shared_broker(), &delays_ms, &settings).await;
        let api = Api::start(&installation).await;
        let receiver = Receiver::ok().await;
        // A platform key, which the fuzzer cannot revoke. `schemathesis.toml` names the organization.
        let key = installation.platform_key("admin").await;
        installation.key("org_1", "events:write").await;
        // Lists are not empty then, and the fuzzer can find ids of all kinds.
        installation.endpoint("org_1", &receiver.url()).await;
        let (worker, recorder) = (installation.worker().await, installation.recorder().await);
        let published = api
            .send("POST", "/v1/events", &key, &[], event("org_1", "lead_1"))
            .await;
        assert_eq!(published.status, 202, "{published:?}");
        delivered(&api, &key).await;
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

/// Returns a command that runs a tool that tests/run.sh has installed.
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
