//! Tests a full disk of SQLite that later has room again: records wait, and everything else continues.

use std::{
    fs,
    time::{Duration, Instant},
};

use e2e::{Answered, Api, Installation, Receiver, Role, SOON, SmallDisk, wait_for, wait_until};
use serde_json::json;

/// How long the disk stays full. The recorder tries many times in this time.
const FULL: Duration = Duration::from_secs(10);
/// The maximum number of lines that a role may log about it.
const LINES_MAX: usize = 3;
const EVENTS: usize = 60;

/// Returns an event of 30 kB.
fn large_event(number: usize) -> String {
    let event = json!({
        "event": "lead.completed", "timestamp": 1_703_123_456_789_u64, "organization_id": "org_1", "project_id": "proj_1",
        "lead_id": format!("lead_{number}"), "data": {"pad": "x".repeat(30_000)},
    });
    event.to_string()
}

fn lines(installation: &Installation, role: &str) -> Vec<String> {
    let log = fs::read_to_string(installation.directory().join(format!("{role}.log"))).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

async fn create(api: &Api, key: &str, url: &str) -> Answered {
    let json = json!({ "url": url }).to_string();
    api.send("POST", "/v1/endpoints", key, &[], json).await
}

/// Waits until the recorder says that the disk is full, in its log and in its readiness.
async fn recorder_says_so(installation: &Installation, recorder: &Role) {
    wait_for("the recorder says that the disk is full", SOON, || async {
        let log = lines(installation, "recorder");
        let says_so = |line: &String| line.contains("cannot write the journal") && line.contains("full");
        if log.iter().any(says_so) {
            Ok(())
        } else {
            Err(log.join("\n"))
        }
    })
    .await;
    wait_for("the recorder is not ready", SOON, || async {
        let ready = recorder.get("/readyz").await.unwrap();
        let says_why = ready.starts_with("HTTP/1.1 503") && ready.contains("full");
        if says_why { Ok(()) } else { Err(ready) }
    })
    .await;
}

/// Waits until the API refuses to create an endpoint because there is no room. What is stored can still be
/// read.
async fn api_says_so(api: &Api, key: &str, url: &str) {
    wait_for("the API answers that there is no room", SOON, || async {
        let refused = create(api, key, url).await;
        let says_so = refused.body["detail"].to_string().contains("no room");
        let is_honest =
            refused.status == 201 || (refused.status == 503 && !refused.header("retry-after").is_empty());
        assert!(is_honest, "{refused:?}");
        if says_so {
            Ok(())
        } else {
            Err(format!("{refused:?}"))
        }
    })
    .await;
    assert_eq!(
        api.get("/v1/endpoints", key).await.status,
        200,
        "what is there can be read"
    );
}

fn assert_few_lines(installation: &Installation, role: &str) {
    let log = lines(installation, role);
    assert!(
        log.len() <= LINES_MAX,
        "{role}, {} lines:\n{}",
        log.len(),
        log.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_delays_what_is_recorded_and_nothing_else() {
    let mut installation = Installation::new("full").await;
    let disk = SmallDisk::mount(&installation.directory().join("disk"), 16 * 1024).await;
    installation.move_database_to(&disk).await;
    let receiver = Receiver::ok().await;
    installation.endpoint("org_1", &receiver.url()).await;
    let key = installation.key("org_1", "endpoints:read,endpoints:write").await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    let api = Api::start(&installation).await;

    disk.fill();
    let events: Vec<_> = (0..EVENTS).map(large_event).collect();
    installation.amqp().publish(&events).await;
    wait_until("every event is delivered", SOON, || receiver.count() == EVENTS).await;
    recorder_says_so(&installation, &recorder).await;
    let began = Instant::now();
    api_says_so(&api, &key, &receiver.url()).await;
    wait_until("it was full for a while", FULL + SOON, || began.elapsed() >= FULL).await;
    for role in ["worker", "recorder"] {
        assert_few_lines(&installation, role);
    }

    disk.make_room();
    wait_for("the API takes what it is sent", SOON, || async {
        let created = create(&api, &key, &receiver.url()).await;
        if created.status == 201 {
            Ok(())
        } else {
            Err(format!("{created:?}"))
        }
    })
    .await;
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;
    recorder.wait_until_ready().await;
    let audit = installation.audit().await;
    audit.assert_settled();
    assert_eq!(audit.number("/events"), EVENTS as u64);
    for role in [worker, recorder, api.role] {
        assert!(role.terminate().await);
    }
    installation.delete().await;
}
