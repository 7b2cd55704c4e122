//! Tasks without which a process is of no use.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;

use crate::logs;

/// Does `work`, and ends the process if that panics: tokio would end the task alone, and leave a process that
/// looks alive and does a part of its work. Whatever runs for as long as the process does is wrapped in this.
///
/// # Cancel safety
/// That of `work`.
pub async fn vital<F: Future>(name: &'static str, work: F) -> F::Output {
    if let Ok(output) = AssertUnwindSafe(work).catch_unwind().await {
        return output;
    }
    tracing::error!(
        task = name,
        "this task is vital: the process ends, and is to be started again"
    );
    logs::end_process()
}

#[cfg(test)]
mod tests;
