//! What the journal says, asked as an operator asks.

use std::{process::Output, time::Duration};

use serde_json::Value;

use crate::{Installation, Role, wait_for};

/// The answer of `magnetite audit`.
#[derive(Debug)]
pub struct Audit {
    /// Whether it exited with 0.
    pub balances: bool,
    /// What it exited with.
    pub code: Option<i32>,
    /// What `--json` prints: objects of several kinds.
    pub lines: Vec<Value>,
}

impl Audit {
    /// The objects of one kind: `balance`, `queues`, `gap` or `finding`.
    pub fn of_kind(&self, kind: &str) -> Vec<&Value> {
        self.lines.iter().filter(|line| line["kind"] == kind).collect()
    }

    /// A number of the balance, by its path, such as `/deliveries/dead`.
    pub fn number(&self, path: &str) -> u64 {
        let balance = self.of_kind("balance")[0];
        let found = balance.pointer(path).and_then(Value::as_u64);
        found.unwrap_or_else(|| panic!("no number {path} in {balance}"))
    }

    /// The names of what was found, in the order of the report.
    pub fn findings(&self) -> Vec<&str> {
        let findings = self.of_kind("finding").into_iter();
        findings
            .map(|finding| finding["finding"].as_str().unwrap())
            .collect()
    }

    /// Panics unless every matched delivery has ended and nothing was found.
    pub fn assert_settled(&self) {
        assert!(self.balances, "{self:#?}");
        assert_eq!(self.number("/deliveries/pending"), 0, "{self:#?}");
        let ended =
            ["delivered", "dead", "cancelled"].map(|state| self.number(&format!("/deliveries/{state}")));
        assert_eq!(self.number("/matched"), ended.iter().sum::<u64>(), "{self:#?}");
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

    /// Runs `magnetite doctor`: its checks.
    pub async fn doctor(&self) -> Vec<Value> {
        objects(&self.cli(&["doctor", "--json"]).await)
    }

    /// Runs `magnetite audit`, over all time.
    pub async fn audit(&self) -> Audit {
        let output = self.cli(&["audit", "--since", "30d", "--json"]).await;
        let lines = objects(&output);
        assert!(!lines.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        Audit {
            balances: output.status.success(),
            code: output.status.code(),
            lines,
        }
    }

    /// Waits until the workers have settled what they hold, and the recorder has stored all that they
    /// reported.
    pub async fn wait_until_recorded(&self, workers: &[&Role], recorder: &Role, limit: Duration) {
        for worker in workers {
            worker.wait_for_unacked("", 0, limit).await;
        }
        let amqp = self.connect().await;
        // What leaves the queue is unacked at once: first the one, then the other.
        for queue in ["journal", "dead", "rejected"] {
            amqp.wait_for_ready(queue, 0, limit).await;
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

/// What a command has printed, an object a line.
fn objects(output: &Output) -> Vec<Value> {
    let stdout = std::str::from_utf8(&output.stdout).unwrap();
    let lines = stdout.lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}
