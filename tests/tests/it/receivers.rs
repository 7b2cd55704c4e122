//! Tests the receivers of docs/receiving.md: a customer can copy any of them without losing events.

mod program;
mod request;
mod hostile;

use e2e::{Endpoint, Installation, Role, SOON, event, wait_for, wait_until};
use futures_util::future::join_all;
use lapin::BasicProperties;
use serde_json::Value;
use tempfile::TempDir;

use self::{
    hostile::{BODY_BYTES_MAX, rows},
    program::{PROGRAMS, Receiver, Scheme, receivers, root},
    request::Request,
};

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER_SECRET: &str = "whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

#[test]
fn the_page_for_customers_shows_the_very_programs_that_are_tested() {
    let page = std::fs::read_to_string(root().join("docs/receiving.md")).unwrap();
    for program in &PROGRAMS {
        let source = std::fs::read_to_string(root().join(program.file)).unwrap();
        let block = format!("```{}\n{source}```\n", program.language);
        assert!(
            page.contains(&block),
            "docs/receiving.md has another {}",
            program.file
        );
    }
}

/// An event as it is published, and how receivers identify it.
struct Sent {
    id: String,
    body: String,
}

impl Sent {
    fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            body: event("org_1", id),
        }
    }

    fn known_by(&self, scheme: Scheme) -> String {
        let json: Value = serde_json::from_str(&self.body).unwrap();
        match scheme {
            Scheme::Standard => self.id.clone(),
            Scheme::Simple => format!("{}/{}", json["lead_id"].as_str().unwrap(), json["timestamp"]),
        }
    }

    fn count(&self, receiver: &Receiver) -> usize {
        let id = self.known_by(receiver.scheme);
        receiver.processed().iter().filter(|known| **known == id).count()
    }

    async fn publish(&self, installation: &Installation) {
        let properties = BasicProperties::default().with_message_id(self.id.as_str().into());
        installation
            .amqp()
            .publish_raw(self.body.as_bytes(), properties)
            .await;
    }

    async fn wait_until_processed(&self, receivers: &[Receiver]) {
        wait_for(&format!("everyone processes {}", self.id), SOON, || async {
            let missing = receivers.iter().filter(|receiver| self.count(receiver) == 0);
            let missing: Vec<String> = missing.map(Receiver::name).collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(missing.join(", "))
            }
        })
        .await;
    }

    async fn publish_and_wait(&self, installation: &Installation, receivers: &[Receiver]) {
        self.publish(installation).await;
        self.wait_until_processed(receivers).await;
    }
}

async fn run_all(receivers: &mut [Receiver], secrets: &[String]) {
    let starting = receivers.iter_mut().zip(secrets);
    join_all(starting.map(|(receiver, secret)| receiver.run(secret))).await;
}

/// Publishes an event with an unusual body twice. The second time, the receivers already know it: they answer
/// with 200, and do not process it again.
async fn publish_twice(installation: &Installation, worker: &Role, receivers: &[Receiver]) {
    let mut odd = Sent::new("evt_odd");
    "{ \"data\" : {\"n\":1.50, \"text\":\"é \u{1F9F2} \\u00e9\\u0000 </script>\"},\n\t\"x\":[ ], \"lead_id\":\"l\", \
                \"project_id\":\"p\", \"organization_id\":\"org_1\", \"timestamp\":1703123456789, \"event\":\"magnet.viewed\" }"
        .clone_into(&mut odd.body);
    odd.publish_and_wait(installation, receivers).await;
    odd.publish(installation).await;
    let deliveries = 2.0 * receivers.len() as f64;
    wait_for("both are answered with 200", SOON, || async {
        let delivered = worker
            .metric("magnetite_attempts_total", "outcome=\"delivered\"")
            .await;
        if delivered >= deliveries {
            Ok(())
        } else {
            Err(delivered.to_string())
        }
    })
    .await;
    Sent::new("evt_next")
        .publish_and_wait(installation, receivers)
        .await;
    for receiver in receivers {
        assert_eq!(odd.count(receiver), 1, "{}", receiver.name());
    }
}

/// Runs the receivers with a wrong secret until they have refused an event, and then with their own secrets.
/// Returns the event, which all have processed.
async fn refuse_for_a_while(
    installation: &Installation,
    receivers: &mut [Receiver],
    endpoints: &[Endpoint],
    secrets: &[String],
) -> Sent {
    let wrong = vec![OTHER_SECRET.to_owned(); receivers.len()];
    run_all(receivers, &wrong).await;
    let refused = Sent::new("evt_refused");
    refused.publish(installation).await;
    wait_for("everyone answers 401", SOON, || {
        first_statuses(installation, "evt_refused", endpoints)
    })
    .await;
    run_all(receivers, secrets).await;
    refused.wait_until_processed(receivers).await;
    refused
}

/// Gives every endpoint a new secret, which its receiver learns some time later. Returns the new secrets, and
/// the events that were published after the receivers had been stopped.
async fn rotate_all(
    installation: &Installation,
    receivers: &mut [Receiver],
    endpoints: &[Endpoint],
) -> (Vec<String>, [Sent; 2]) {
    let rotating = endpoints.iter().map(|endpoint| rotate(installation, endpoint));
    let new_secrets: Vec<String> = join_all(rotating).await;
    Sent::new("evt_rotated")
        .publish_and_wait(installation, receivers)
        .await;
    for receiver in &mut *receivers {
        receiver.end().await;
    }
    let meanwhile = Sent::new("evt_meanwhile");
    meanwhile.publish(installation).await;
    run_all(receivers, &new_secrets).await;
    meanwhile.wait_until_processed(receivers).await;
    let last = Sent::new("evt_last");
    last.publish_and_wait(installation, receivers).await;
    (new_secrets, [meanwhile, last])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_receiver_processes_each_event_once_and_loses_none_while_its_secret_changes() {
    let installation = Installation::with_delays("receivers", &[250; 99]).await;
    let mut receivers = receivers(&installation.directory()).await;
    let creating = receivers
        .iter()
        .map(|receiver| async { installation.endpoint("org_1", &receiver.url()).await });
    let endpoints: Vec<Endpoint> = join_all(creating).await;
    let secrets: Vec<String> = endpoints.iter().map(|endpoint| endpoint.secret.clone()).collect();
    run_all(&mut receivers, &secrets).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);

    publish_twice(&installation, &worker, &receivers).await;
    let refused = refuse_for_a_while(&installation, &mut receivers, &endpoints, &secrets).await;
    let (new_secrets, [meanwhile, last]) = rotate_all(&installation, &mut receivers, &endpoints).await;
    // Other events may be processed twice: they were processed just before their receivers were stopped, and
    // PHP's job records only afterwards what it has done.
    for sent in [&refused, &meanwhile, &last] {
        let twice = receivers.iter().filter(|receiver| sent.count(receiver) > 1);
        let twice: Vec<String> = twice.map(Receiver::name).collect();
        assert!(twice.is_empty(), "{} is processed twice by {twice:?}", sent.id);
    }
    assert_eq!(installation.amqp().ready("dead").await, 0);

    // `magnetite check` finds no problem in any of them.
    for (receiver, secret) in receivers.iter().zip(&new_secrets) {
        let check = ["check", &receiver.url(), "--secret", secret];
        let checked = installation.cli(&check).await;
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{}: {said}", receiver.name());
    }
    assert!(worker.terminate().await && recorder.terminate().await);
    installation.delete().await;
}

/// Returns an error unless every endpoint answered the event's first attempt with 401 and a retry is planned.
async fn first_statuses(
    installation: &Installation,
    event: &str,
    endpoints: &[Endpoint],
) -> Result<(), String> {
    let output = installation.cli(&["event", "show", event, "--json"]).await;
    let story: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let asked = story["endpoints"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let first = |endpoint: &Value| endpoint["deliveries"][0]["attempts"][0].clone();
    let refused = asked
        .iter()
        .map(first)
        .filter(|attempt| attempt["status"] == 401 && attempt["outcome"] == "retry");
    let refused = refused.count();
    if refused == endpoints.len() {
        Ok(())
    } else {
        Err(format!("{refused} did: {story}"))
    }
}

async fn rotate(installation: &Installation, endpoint: &Endpoint) -> String {
    let printed = installation
        .cli_ok(&["endpoint", "rotate-secret", &endpoint.id, "--json"])
        .await;
    let printed: Value = serde_json::from_str(&printed).unwrap();
    printed["secret"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hostile_request_is_processed_or_makes_a_receiver_fail() {
    let directory = TempDir::with_prefix("magnetite-e2e-").unwrap();
    let mut receivers = receivers(directory.path()).await;
    let both = vec![format!("{OTHER_SECRET}, {SECRET}"); receivers.len()];
    run_all(&mut receivers, &both).await;
    let misses: Vec<String> = join_all(receivers.iter().map(misses)).await.concat();
    assert!(misses.is_empty(), "{misses:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_receiver_in_php_cannot_store_it_does_not_take() {
    let directory = TempDir::with_prefix("magnetite-e2e-").unwrap();
    let mut receivers = receivers(directory.path()).await;
    receivers.retain(|receiver| receiver.name().contains("php"));
    let good = Sent::new("evt_good");
    let signed = Request::signed(SECRET, &good.id, good.body.as_bytes());
    for receiver in &mut receivers {
        receiver.directory = directory.path().join("not-there");
        receiver.run(SECRET).await;
        assert_eq!(signed.send(receiver.port).await, Some(500), "{}", receiver.name());
    }
}

/// Returns descriptions of everything that a receiver does wrong.
async fn misses(receiver: &Receiver) -> Vec<String> {
    /// No receiver has this secret.
    const STRANGER: &str = "whsec_AgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICE=";
    let (good, large) = (Sent::new("evt_good"), {
        let mut large = Sent::new("evt_large");
        let room = BODY_BYTES_MAX - large.body.len();
        large.body.push_str(&" ".repeat(room));
        large
    });
    let mut misses = Vec::new();
    for row in rows(receiver.scheme, SECRET, STRANGER, good.body.as_bytes()) {
        let answered = row.request.send(receiver.port).await;
        if !row.statuses.contains(&answered) {
            misses.push(format!("{}: {}: {answered:?}", receiver.name(), row.what));
        }
    }
    // The receiver still works after all of that, including with concurrent requests for one event.
    let signed = Request::signed(SECRET, &good.id, good.body.as_bytes());
    let other = Request::signed(OTHER_SECRET, &good.id, good.body.as_bytes()).value("webhook-signature");
    let signatures = format!("v1,AAAA {other} {}", signed.value("webhook-signature"));
    let signed = signed.header("webhook-signature", signatures);
    let answers = join_all((0..8).map(|_| signed.send(receiver.port))).await;
    if answers != [Some(200); 8] {
        misses.push(format!("{}: {answers:?} to eight of one event", receiver.name()));
    }
    let chunked = Request::signed(OTHER_SECRET, &large.id, large.body.as_bytes()).chunked();
    if chunked.send(receiver.port).await != Some(200) {
        misses.push(format!("{}: refuses the largest event", receiver.name()));
    }
    wait_until(
        &format!("{} processes the last event", receiver.name()),
        SOON,
        || large.count(receiver) > 0,
    )
    .await;
    let expected = [&good, &large].map(|sent| sent.known_by(receiver.scheme));
    if receiver.processed() != expected {
        misses.push(format!(
            "{}: processed {:?}",
            receiver.name(),
            receiver.processed()
        ));
    }
    misses
}
