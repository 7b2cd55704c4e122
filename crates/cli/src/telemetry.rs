//! Logs, to standard error.

use std::{
    fs::File,
    io::{self, IsTerminal as _},
    os::fd::AsFd as _,
    sync::Arc,
};

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, util::SubscriberInitExt as _};

use crate::configuration::{Log, LogFormat};

/// Logs from now on; `filter` is for a configuration that names none.
pub(crate) fn start(log: &Log, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::new(log.filter.as_deref().unwrap_or(filter));
    // A line is one write either way. Not through `io::stderr()`, over whose lock threads put each other to sleep.
    let stderr = io::stderr().as_fd().try_clone_to_owned();
    let stderr = stderr.context("cannot open standard error once more: is `ulimit -n` too low?")?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Arc::new(File::from(stderr)));
    // An error says that there is a subscriber already, which is as good.
    let _ = match log.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    };
    Ok(())
}
