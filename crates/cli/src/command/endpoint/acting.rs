//! What was done to an endpoint, and the workers that are not known to act on it.

use wire::Endpoint;

use crate::output;

/// The name that stands for all workers if it is not known which of them act on a change.
const UNKNOWN: &str = "unknown";

/// Prints what was done to the endpoint.
pub(super) fn said(changed: &Endpoint, done: &str, json: bool) -> anyhow::Result<()> {
    output::said(json, changed, &format!("{done} {}", changed.id))?;
    note(&changed.workers_behind);
    Ok(())
}

/// Names the workers that may not act on the change yet, if there are any, in one line on standard error.
pub(super) fn note(workers: &[String]) {
    if workers.iter().any(|worker| worker == UNKNOWN) {
        output::note("it is not known which workers act on this change yet");
    } else if !workers.is_empty() {
        output::note(&format!(
            "these workers may not act on this change yet: {}; `magnetite status` shows where they run",
            workers.join(", ")
        ));
    }
}
