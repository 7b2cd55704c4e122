//! Tests that a lasting condition is logged when it begins, once a minute, and when it ends, however many
//! parts of the process wait for it.

use std::{
    fs,
    time::{Duration, Instant},
};

use e2e::{Installation, Postgres, Proxy, Role, SOON, shared_broker, wait_for, wait_until};

/// How long something is unavailable. Each operation of the process is retried several times in this time.
const AWAY: Duration = Duration::from_secs(10);
/// The exclusive limit on the number of lines that are logged during [`AWAY`].
const LINES_MAX: usize = 15;

fn up(installation: &Installation) -> Role {
    let mut command = installation.command(&["up"]);
    // The default log filter of roles.
    command.env("MAGNETITE_LOG__FILTER", "info,lapin=off");
    command.env("MAGNETITE_API__LISTEN", "127.0.0.1:0");
    installation.launch(command, "up")
}

fn log(installation: &Installation) -> Vec<String> {
    let log = fs::read_to_string(installation.directory().join("up.log")).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

/// Waits until the log has a line with all of these words after its first `from` lines.
async fn says(installation: &Installation, from: usize, words: &[&str]) {
    wait_for(&format!("a line with {words:?}"), SOON, || async {
        let log = log(installation);
        let is_there = |line: &String| words.iter().all(|word| line.contains(word));
        if log[from..].iter().any(is_there) {
            Ok(())
        } else {
            Err(log.join("\n"))
        }
    })
    .await;
}

/// Checks that few lines follow the first `from` lines while something is unavailable.
async fn is_told_briefly(installation: &Installation, from: usize) {
    let began = Instant::now();
    wait_until("it was away for a while", AWAY + SOON, || began.elapsed() >= AWAY).await;
    let log = log(installation);
    let lines = log.len() - from;
    assert!(
        lines < LINES_MAX,
        "{lines} lines in {AWAY:?}:\n{}",
        log[from..].join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_never_there_is_told_of_in_a_few_lines() {
    let mut installation = Installation::new("nobroker").await;
    let nowhere = Proxy::to(&shared_broker()).await.url();
    installation.set("MAGNETITE_BROKER__URL", &nowhere);
    let role = up(&installation);
    says(&installation, 0, &["cannot connect to the broker"]).await;
    is_told_briefly(&installation, 0).await;
    assert!(role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_is_told_of_in_a_few_lines() {
    let mut installation = Installation::new("brokergone").await;
    let proxy = Proxy::to(&shared_broker()).await;
    installation.set("MAGNETITE_BROKER__URL", &proxy.url());
    let role = up(&installation);
    role.wait_until_ready().await;
    let from = log(&installation).len();
    drop(proxy);
    says(&installation, from, &["lost the connection to the broker"]).await;
    is_told_briefly(&installation, from).await;
    assert!(role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_and_comes_back_is_told_of_in_a_few_lines() {
    let postgres = Postgres::start().await;
    let settings = [("MAGNETITE_DATABASE__URL", postgres.url())];
    let installation = Installation::with("dbgone", &shared_broker(), &[1000], &settings).await;
    let role = up(&installation);
    role.wait_until_ready().await;
    let from = log(&installation).len();
    postgres.stop().await;
    says(&installation, from, &["cannot check for changed endpoints"]).await;
    is_told_briefly(&installation, from).await;

    let from = log(&installation).len();
    postgres.start_again().await;
    says(&installation, from, &["the database answers again", "failures"]).await;
    assert!(role.terminate().await);

    postgres.stop().await;
    let from = log(&installation).len();
    let role = up(&installation);
    says(&installation, from, &["the database is unavailable"]).await;
    is_told_briefly(&installation, from).await;
    drop(role);
    installation.delete().await;
}
