//! What the journal says, asked as an operator asks.

use std::time::Duration;

use serde_json::Value;

use crate::{Installation, Role, wait_for};

/// The answer of `magnetite audit`.
#[derive(Debug)]
pub struct Audit {
    /// Whether it exited with 0.
    pub balances: bool,
    /// What `--json` prints.
    pub report: Value,
}

impl Audit {
    /// A number of the report, by its path, such as `/deliveries/dead`.
    pub fn number(&self, path: &str) -> u64 {
        let found = self.report.pointer(path).and_then(Value::as_u64);
        found.unwrap_or_else(|| panic!("no number {path} in {}", self.report))
    }

    /// A list of the report, by its path.
    pub fn list(&self, path: &str) -> &[Value] {
        let found = self.report.pointer(path).and_then(Value::as_array);
        found.unwrap_or_else(|| panic!("no list {path} in {}", self.report))
    }
}

impl Installation {
    /// What a command that has to succeed prints with `--json`, one object a line.
    pub async fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let printed = self.cli_ok(&[arguments, &["--json"]].concat()).await;
        printed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Runs `magnetite audit`, over all time.
    pub async fn audit(&self) -> Audit {
        let output = self.cli(&["audit", "--since", "30d", "--json"]).await;
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_str(stdout.trim());
        Audit {
            balances: output.status.success(),
            report: report.unwrap_or_else(|error| panic!("{error}: {stdout:?}\n{stderr}")),
        }
    }

    /// Waits until the workers have settled what they hold, and the recorder has stored all that they reported.
    pub async fn wait_until_recorded(&self, workers: &[&Role], recorder: &Role, limit: Duration) {
        for worker in workers {
            worker.wait_for_unacked("", 0, limit).await;
        }
        // What leaves the queue is unacked at once: first the one, then the other.
        for queue in ["journal", "dead", "rejected"] {
            self.amqp().wait_for_ready(queue, 0, limit).await;
        }
        recorder.wait_for_unacked("", 0, limit).await;
    }

    /// Waits for a row count that `command` lists.
    pub async fn wait_for_listed(&self, command: &[&str], count: usize, limit: Duration) -> Vec<Value> {
        wait_for(&format!("{count} lines of {command:?}"), limit, || async {
            let listed = self.json(command).await;
            if listed.len() == count {
                Ok(listed)
            } else {
                Err(format!("{} lines", listed.len()))
            }
        })
        .await
    }
}
