//! Publishes events at a steady rate with `magnetite publish`.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::ChildStdout,
    sync::oneshot,
    task::JoinHandle,
};

use crate::{Installation, event};

/// A `magnetite publish` process that receives one line after the other until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    publishing: JoinHandle<Vec<(String, Instant)>>,
}

impl Load {
    /// Starts publishing events of `organization`, about leads `lead_0`, `lead_1` and so on.
    pub fn start(installation: &Installation, organization: &str, per_second: u32) -> Self {
        Self::numbered(installation, organization, per_second, 0)
    }

    /// Like [`Load::start`], but numbers the leads from `first`.
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
            let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            let (connected, mut connects) = oneshot::channel();
            let ids = tokio::spawn(count_ids(stdout, connected));
            let mut leads = Vec::new();
            let mut pace = tokio::time::interval(Duration::from_secs(1) / per_second);
            while !stopped.load(Ordering::Relaxed) {
                let due = pace.tick().await.into_std();
                let lead = format!("lead_{}", first + leads.len());
                let line = format!("{}\n", event(&organization, &lead));
                stdin.write_all(line.as_bytes()).await.unwrap();
                leads.push((lead, due));
                if leads.len() == 1 {
                    // The pace starts when the publisher has connected and confirmed the first event.
                    let _ = (&mut connects).await;
                    pace.reset();
                }
            }
            drop(stdin);
            let status = child.wait().await.unwrap();
            assert!(status.success(), "publish did not get every event confirmed");
            let ids = ids.await.unwrap();
            assert_eq!(ids, leads.len(), "publish prints an id for each event");
            leads
        });
        Self { stop, publishing }
    }

    /// Stops publishing, and returns the leads with the time at which each was due to be handed to the
    /// publisher. If it was handed over late, its latency still counts from that time. All of the events are
    /// confirmed.
    pub async fn stop(self) -> Vec<(String, Instant)> {
        self.stop.store(true, Ordering::Relaxed);
        self.publishing.await.unwrap()
    }
}

/// Counts the ids that the publisher prints, one for each confirmed event, and signals the first one.
async fn count_ids(stdout: ChildStdout, first: oneshot::Sender<()>) -> usize {
    let (mut ids, mut count) = (BufReader::new(stdout).lines(), 0);
    let mut first = Some(first);
    while ids.next_line().await.unwrap().is_some() {
        count += 1;
        if let Some(first) = first.take() {
            let _ = first.send(());
        }
    }
    count
}
