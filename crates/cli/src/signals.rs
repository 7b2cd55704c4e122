//! The signals that end a process: SIGTERM, SIGINT, and SIGHUP, which a terminal sends when it is closed.

use std::{fs, future::pending, io};

use anyhow::Context as _;
use runtime::{logs, vital};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Returns a token that the first signal cancels. A second SIGTERM or SIGINT ends the process at once, with
/// exit code 1; the broker redelivers the messages in flight.
pub(crate) fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    tokio::spawn(vital("signals", async move {
        let first = signals.next().await;
        tracing::info!(
            signal = first,
            "stopping; a second signal ends the process at once"
        );
        cancelled.cancel();
        let second = signals.next_but_hangup().await;
        tracing::warn!(signal = second, "ending at once");
        logs::end();
        std::process::exit(1);
    }));
    Ok(stop)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// `None` if the process was started with SIGHUP ignored, as `nohup` does.
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let hangup = (!is_hangup_ignored()).then(|| signal(SignalKind::hangup()));
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: hangup.transpose()?,
        })
    }

    async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hangup => "SIGHUP",
        }
    }

    /// Waits for the next signal other than SIGHUP, because a closed terminal may send several of those.
    async fn next_but_hangup(&mut self) -> &'static str {
        loop {
            match self.next().await {
                "SIGHUP" => {}
                other => return other,
            }
        }
    }
}

/// Returns whether the process was started with SIGHUP ignored. Reads the mask of ignored signals from
/// `/proc/self/status` (see proc(5)), in which SIGHUP is the first bit.
fn is_hangup_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}
