//! Logs, to standard error.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, util::SubscriberInitExt as _};

use crate::configuration::{Log, LogFormat};

/// Logs from now on; `filter` is for a configuration that names none.
pub(crate) fn start(log: &Log, filter: &str) {
    let filter = EnvFilter::new(log.filter.as_deref().unwrap_or(filter));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    // An error says that there is a subscriber already, which is as good.
    let _ = match log.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    };
}
