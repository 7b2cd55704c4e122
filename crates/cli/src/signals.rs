//! SIGTERM and SIGINT.

use anyhow::Context as _;
use runtime::{logs, vital};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancelled by the first signal. The second ends the process at once, with exit code 1: whatever is in flight is
/// handed out again by the broker.
pub(crate) fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    tokio::spawn(vital("signals", async move {
        let first = either(&mut terminate, &mut interrupt).await;
        tracing::info!(
            signal = first,
            "stopping; a second signal ends the process at once"
        );
        cancelled.cancel();
        let second = either(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = second, "ending at once");
        logs::end();
        std::process::exit(1);
    }));
    Ok(stop)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
