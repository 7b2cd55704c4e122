//! Tests that a clock that jumps deletes nothing.

use std::{fs, time::Duration};

use e2e::{Answer, Installation, Receiver, Role, SOON, ShiftedClock, event, wait_for};

const DEAD: [&str; 4] = ["delivery", "list", "--state", "dead"];
/// Longer than `retention.age`.
const AHEAD: Duration = Duration::from_hours(31 * 24);

/// Returns the number of dead deliveries of any age, so that the clock does not matter.
async fn dead(installation: &Installation) -> usize {
    installation
        .json(&[&DEAD[..], &["--since", "3650d"]].concat())
        .await
        .len()
}

async fn is_in_doubt(installation: &Installation, recorder: &Role, log: &str) {
    wait_for("the recorder says that clocks disagree", SOON, || async {
        let log = fs::read_to_string(installation.directory().join(format!("{log}.log"))).unwrap_or_default();
        if log.contains("the clocks disagree") && log.contains("retention confirm") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    let stopped = recorder.metric("magnetite_retention_stopped", "").await;
    assert!(stopped > 0.5, "{stopped}");
}

/// Returns the lines of `magnetite doctor` about the retention.
async fn doctor(installation: &Installation) -> String {
    let output = installation.cli(&["doctor"]).await;
    let stdout = String::from_utf8(output.stdout).unwrap();
    let line = stdout.lines().skip_while(|line| !line.contains("retention"));
    line.take(2).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_whose_clock_jumped_31_days_deletes_nothing_until_an_operator_says_so() {
    let installation = Installation::with_delays("jump", &[200]).await;
    let wrong = ShiftedClock::ahead_by(AHEAD, &installation.directory()).await;
    let receiver = Receiver::new(|_, _| Answer::status(500)).await;
    installation.endpoint("org_1", &receiver.url()).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    installation
        .amqp()
        .publish(&["lead_1", "lead_2", "lead_3"].map(|lead| event("org_1", lead)))
        .await;
    installation.wait_for_listed(&DEAD, 3, SOON).await;
    assert!(recorder.terminate().await && worker.terminate().await);
    assert!(
        doctor(&installation)
            .await
            .contains("no recorder has stopped deleting")
    );

    let shifted =
        |role: &'static str, log: &str| installation.launch(wrong.shift(installation.command(&[role])), log);
    let recorder = shifted("recorder", "first");
    is_in_doubt(&installation, &recorder, "first").await;
    assert_eq!(dead(&installation).await, 3);
    let said = doctor(&installation).await;
    assert!(
        said.contains("31 days") && said.contains("retention confirm"),
        "{said}"
    );

    // The other roles on that host have the same clock, so their agreement proves nothing.
    let worker = shifted("worker", "shifted-worker");
    installation.amqp().publish(&[event("org_1", "lead_4")]).await;
    wait_for("what happens by the wrong clock is recorded", SOON, || async {
        let count = dead(&installation).await;
        if count == 4 {
            Ok(())
        } else {
            Err(count.to_string())
        }
    })
    .await;
    assert!(recorder.terminate().await && worker.terminate().await);
    let recorder = shifted("recorder", "second");
    is_in_doubt(&installation, &recorder, "second").await;
    assert!(recorder.terminate().await);
    assert_eq!(dead(&installation).await, 4);

    // An operator confirms the time.
    let said = installation.cli_ok(&["retention", "confirm"]).await;
    assert!(said.contains("confirmed"), "{said}");
    assert!(
        doctor(&installation)
            .await
            .contains("no recorder has stopped deleting")
    );
    let recorder = shifted("recorder", "third");
    is_in_doubt(&installation, &recorder, "third").await;
    assert_eq!(dead(&installation).await, 4);
    let confirmed = wrong
        .shift(installation.command(&["retention", "confirm"]))
        .status()
        .await;
    assert!(confirmed.unwrap().success());
    assert!(recorder.terminate().await);
    let recorder = shifted("recorder", "fourth");
    wait_for("what is too old by that time goes", SOON, || async {
        let count = dead(&installation).await;
        if count == 1 {
            Ok(())
        } else {
            Err(count.to_string())
        }
    })
    .await;
    assert!(recorder.terminate().await);
    installation.delete().await;
}
