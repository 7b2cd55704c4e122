//! Reads the journal through the commands that an operator uses.

use std::{process::Output, time::Duration};

use serde_json::Value;

use crate::{Installation, Role, wait_for};

/// The result of `magnetite audit`.
#[derive(Debug)]
pub struct Audit {
    /// Whether it exited with 0.
    pub balances: bool,
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The output of `--json`: objects of several kinds.
    pub lines: Vec<Value>,
}

impl Audit {
    /// Returns the objects of one kind: `balance`, `queues`, `gap` or `finding`.
    pub fn of_kind(&self, kind: &str) -> Vec<&Value> {
        self.lines.iter().filter(|line| line["kind"] == kind).collect()
    }

    /// Returns a number of the balance by its JSON pointer, such as `/deliveries/dead`.
    pub fn number(&self, path: &str) -> u64 {
        let balance = self.of_kind("balance")[0];
        let found = balance.pointer(path).and_then(Value::as_u64);
        found.unwrap_or_else(|| panic!("no number {path} in {balance}"))
    }

    /// Returns the names of the findings, in the order of the report.
    pub fn findings(&self) -> Vec<&str> {
        let findings = self.of_kind("finding").into_iter();
        findings
            .map(|finding| finding["finding"].as_str().unwrap())
            .collect()
    }

    /// Panics unless every matched delivery has ended and there are no findings.
    pub fn assert_settled(&self) {
        assert!(self.balances, "{self:#?}");
        assert_eq!(self.number("/deliveries/pending"), 0, "{self:#?}");
        let ended =
            ["delivered", "dead", "cancelled"].map(|state| self.number(&format!("/deliveries/{state}")));
        assert_eq!(self.number("/matched"), ended.iter().sum::<u64>(), "{self:#?}");
    }
}

impl Installation {
    /// Runs a command with `--json`, and returns what it prints, one object per line. Panics if the command
    /// fails.
    pub async fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let printed = self.cli_ok(&[arguments, &["--json"]].concat()).await;
        printed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Runs `magnetite doctor`, and returns its checks.
    pub async fn doctor(&self) -> Vec<Value> {
        objects(&self.cli(&["doctor", "--json"]).await)
    }

    /// Runs `magnetite audit` for the last 30 days.
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

    /// Waits until the workers have settled all messages that they hold, and the recorder has stored
    /// everything that they reported.
    pub async fn wait_until_recorded(&self, workers: &[&Role], recorder: &Role, limit: Duration) {
        for worker in workers {
            worker.wait_for_unacked("", 0, limit).await;
        }
        let amqp = self.connect().await;
        // A message that leaves a queue becomes unacked at once. Checking the queue first therefore misses no
        // message.
        for queue in ["journal", "dead", "rejected"] {
            amqp.wait_for_ready(queue, 0, limit).await;
        }
        recorder.wait_for_unacked("", 0, limit).await;
    }

    /// Waits until `command` lists exactly `count` objects, and returns them.
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

/// Parses a command's output, one JSON object per line.
fn objects(output: &Output) -> Vec<Value> {
    let stdout = std::str::from_utf8(&output.stdout).unwrap();
    let lines = stdout.lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}
