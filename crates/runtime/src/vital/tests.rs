use std::{env, future::pending, process::Command, time::Duration};

use super::*;
use crate::logs::{self, Format};

/// The environment variable that is set in the child process, which panics.
const CHILD: &str = "MAGNETITE_TEST_VITAL";
const EXIT_PANICKED: i32 = 101;
/// A generous limit for a process that is expected to end at once.
const LIMIT: Duration = Duration::from_secs(20);

async fn lose_a_vital_task() {
    logs::start("info", Format::Text, false).unwrap();
    tokio::spawn(vital("heart", async { panic!("arrested") }));
    tokio::time::timeout(LIMIT, pending::<()>()).await.unwrap_err();
    std::process::exit(0);
}

#[tokio::test]
async fn a_panic_of_a_vital_task_ends_the_process_after_its_last_log_line() {
    if env::var_os(CHILD).is_some() {
        lose_a_vital_task().await;
    }
    let name = "vital::tests::a_panic_of_a_vital_task_ends_the_process_after_its_last_log_line";
    let child = Command::new(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.code(), Some(EXIT_PANICKED), "{log}");
    assert!(log.contains("arrested") && log.contains("heart"), "{log}");
}

#[tokio::test]
async fn what_does_not_panic_is_returned() {
    assert_eq!(vital("sum", async { 1 + 1 }).await, 2);
}
