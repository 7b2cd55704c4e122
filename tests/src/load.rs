//! Events at a steady pace, through the program's own publisher.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{io::AsyncWriteExt as _, task::JoinHandle};

use crate::{Installation, event};

/// `magnetite publish`, fed line by line until told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    publishing: JoinHandle<Vec<(String, Instant)>>,
}

impl Load {
    /// Begins to publish events of `organization`, about leads `lead_0`, `lead_1` and so on.
    pub fn start(installation: &Installation, organization: &str, per_second: u32) -> Self {
        Self::numbered(installation, organization, per_second, 0)
    }

    /// The same, from lead number `first` on.
    pub fn numbered(installation: &Installation, organization: &str, per_second: u32, first: usize) -> Self {
        let mut child = installation
            .command(&["publish"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (stop, organization) = (Arc::new(AtomicBool::new(false)), organization.to_owned());
        let stopped = Arc::clone(&stop);
        let publishing = tokio::spawn(async move {
            let mut stdin = child.stdin.take().unwrap();
            let output = tokio::spawn(child.wait_with_output());
            let mut leads = Vec::new();
            let mut pace = tokio::time::interval(Duration::from_secs(1) / per_second);
            while !stopped.load(Ordering::Relaxed) {
                let due = pace.tick().await.into_std();
                let lead = format!("lead_{}", first + leads.len());
                let line = format!("{}\n", event(&organization, &lead));
                stdin.write_all(line.as_bytes()).await.unwrap();
                leads.push((lead, due));
            }
            drop(stdin);
            let output = output.await.unwrap().unwrap();
            assert!(
                output.status.success(),
                "publish did not get every event confirmed"
            );
            let ids = String::from_utf8(output.stdout).unwrap().lines().count();
            assert_eq!(ids, leads.len(), "publish prints an id for each event");
            leads
        });
        Self { stop, publishing }
    }

    /// Ends it, and returns the leads with the time at which each was to be handed to the publisher: if
    /// that was too slow, its latency counts from then. All of them are confirmed.
    pub async fn stop(self) -> Vec<(String, Instant)> {
        self.stop.store(true, Ordering::Relaxed);
        self.publishing.await.unwrap()
    }
}
