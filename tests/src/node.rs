//! A RabbitMQ node of a test's own, for tests that break it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tokio::process::Command;

use crate::wait_for;

/// A private node; stopped and deleted when dropped.
pub struct Node {
    directory: TempDir,
    url: String,
}

impl Node {
    /// Starts a node on free ports.
    pub async fn start() -> Self {
        let directory = TempDir::with_prefix("magnetite-node-").unwrap();
        let url = script("start", directory.path(), &[]).await;
        Self { directory, url }
    }

    /// Its URL, the same after every start.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// SIGKILL.
    pub async fn kill(&self) {
        script("kill", self.directory.path(), &[]).await;
    }

    /// Starts it again with the data that it had.
    pub async fn start_again(&self) {
        let url = script("start", self.directory.path(), &[]).await;
        assert_eq!(url, self.url, "the node keeps its port");
    }

    /// Waits until a queue holds nothing: neither ready, nor unacked, nor about to be dead-lettered. RabbitMQ counts every 5 s.
    pub async fn wait_for_empty(&self, queue: &str, limit: Duration) {
        wait_for(&format!("{queue} is empty"), limit, || async {
            let queues = self.ctl(&["list_queues", "-q", "name", "messages"]).await;
            let line = queues.lines().find(|line| line.split('\t').next() == Some(queue));
            match line {
                Some(line) if line.ends_with("\t0") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// `rabbitmqctl` on this node.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        script("ctl", self.directory.path(), arguments).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let script = path();
        let _ = std::process::Command::new(script)
            .arg("remove")
            .arg(self.directory.path())
            .output();
    }
}

/// The repository's directory.
pub(crate) fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("the tests' directory has a parent").to_owned()
}

fn path() -> PathBuf {
    root().join("deploy/local/broker.sh")
}

async fn script(verb: &str, directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new(path())
        .arg(verb)
        .arg(directory)
        .args(arguments)
        .output()
        .await
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "broker.sh {verb}: {stderr}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
