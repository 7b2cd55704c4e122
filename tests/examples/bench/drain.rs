//! How fast a queue that was filled before is emptied.

use std::{fmt, path::Path, time::Duration};

use e2e::Installation;
use tokio::process::{Child, Command};

use crate::{
    Options,
    client::{self, Side},
    event,
    process::Process,
    receiver::Receiver,
};

pub(crate) struct Drained {
    pub(crate) side: Side,
    /// From the first receipt to the last.
    pub(crate) per_second: f64,
    /// Of the client's process from its start to its end.
    pub(crate) cpu_us: f64,
    pub(crate) peak_mib: f64,
    /// How many the client opened.
    connections: u64,
}

/// Several times what the slowest machine should need for 200,000 events.
const DRAIN_MAX: Duration = Duration::from_mins(10);

/// One drain, with a broker's queue and a receiver of its own. Panics unless every event arrived exactly once and nothing is
/// left.
pub(crate) async fn run(side: Side, options: &Options, pair: usize) -> Drained {
    let events = options.events;
    let installation = Installation::new(&format!("bench-{side}-{pair}")).await;
    let mut receiver = Receiver::start(events).await;
    let endpoint = installation.endpoint(event::ORGANIZATION, &receiver.url()).await;
    event::preload(installation.amqp(), events).await;
    assert_eq!(installation.amqp().ready("events").await as usize, events);

    let client = match side {
        Side::Raw => client::raw(&installation, &receiver.url(), &endpoint, events),
        Side::Worker | Side::Unrecorded => client::worker(&installation, side, options),
    };
    let profile = options
        .profile
        .as_ref()
        .map(|directory| profile(&client, side, directory));
    receiver.complete(DRAIN_MAX).await;
    let cost = client.end().await;
    if let Some(mut profile) = profile {
        profile.wait().await.unwrap();
    }

    let receipts = receiver.end().await;
    assert_eq!(receipts.requests as usize, events, "an event arrived twice");
    for queue in installation
        .work_queues()
        .iter()
        .map(String::as_str)
        .chain(["dead", "rejected"])
    {
        assert_eq!(installation.amqp().ready(queue).await, 0, "{queue} is not empty");
    }
    installation.delete().await;

    let first = receipts.at_ns.iter().min().unwrap();
    let last = receipts.at_ns.iter().max().unwrap();
    let took = Duration::from_nanos(last - first);
    Drained {
        side,
        per_second: (events - 1) as f64 / took.as_secs_f64(),
        cpu_us: cost.cpu.as_secs_f64() * 1e6 / events as f64,
        peak_mib: cost.peak_bytes as f64 / f64::from(1 << 20),
        connections: receipts.connections,
    }
}

/// Ends with the client.
fn profile(client: &Process, side: Side, directory: &Path) -> Child {
    let output = directory.join(format!("{side}.data"));
    Command::new("perf")
        .args([
            "record",
            "--quiet",
            "--freq",
            "997",
            "--pid",
            &client.pid().to_string(),
            "--output",
        ])
        .arg(output)
        .spawn()
        .expect("perf is installed (apt-get install linux-perf)")
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            side,
            per_second,
            cpu_us,
            peak_mib,
            connections,
        } = self;
        write!(
            f,
            "{side} | {per_second:.0} | {cpu_us:.1} | {peak_mib:.1} | {connections}"
        )
    }
}
