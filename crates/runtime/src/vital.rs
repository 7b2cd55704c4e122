//! Tasks that a process cannot do without.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;

use crate::logs;

/// Runs `work`, and ends the process if it panics.
///
/// Without this, tokio would end only the task, and the process would seem to be alive but do only a part of
/// its work. Every task that runs as long as the process is wrapped in this function.
///
/// # Cancel safety
/// The same as that of `work`.
pub async fn vital<F: Future>(name: &'static str, work: F) -> F::Output {
    if let Ok(output) = AssertUnwindSafe(work).catch_unwind().await {
        return output;
    }
    tracing::error!(
        task = name,
        "a task that the process needs panicked; the process exits and must be restarted"
    );
    logs::end_process()
}

#[cfg(test)]
mod tests;
