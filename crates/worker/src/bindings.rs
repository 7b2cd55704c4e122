//! Checks for missing bindings once a minute, and restores them.
//!
//! If the binding of a queue is missing, the exchange refuses messages for it, including retries, while all
//! queues and consumers look healthy. `broker::Topology::missing_bindings` describes how a missing binding is
//! detected.

use std::time::Duration;

use broker::{Binding, Link, Publisher, Topology, bindings_missing};
use rand::RngExt as _;
use tokio::time::{sleep, timeout};

use crate::display_chain;

const EVERY: Duration = Duration::from_mins(1);
const MEND_MAX: Duration = Duration::from_secs(10);

/// Checks once a minute. Never returns.
pub(crate) async fn watch(publisher: &Publisher, link: &Link, topology: &Topology) {
    // Creates the metrics' series, so that they exist from the start.
    for binding in topology.bindings() {
        bindings_missing(topology, &binding.exchange).increment(0);
    }
    // Workers that start at the same time check at different times.
    let first = EVERY.mul_f64(rand::rng().random_range(0.5..=1.0));
    sleep(first).await;
    loop {
        // A second check shows whether restoring the bindings succeeded.
        if link.is_writable() && look(publisher, link, topology).await {
            look(publisher, link, topology).await;
        }
        sleep(EVERY).await;
    }
}

/// Checks once. Returns whether anything was missing.
async fn look(publisher: &Publisher, link: &Link, topology: &Topology) -> bool {
    match topology.missing_bindings(publisher).await {
        Ok(missing) => {
            for binding in &missing {
                bindings_missing(topology, &binding.exchange).increment(1);
                mend(link, topology, binding).await;
            }
            !missing.is_empty()
        }
        Err(error) if error.is_missing_exchange() => {
            let declared = timeout(MEND_MAX, topology.declare(link)).await;
            let is_mended = matches!(declared, Ok(Ok(())));
            tracing::warn!(
                error = display_chain(&error),
                is_mended,
                "an exchange was missing, and messages published to it were refused; find out who deleted it"
            );
            true
        }
        Err(error) => {
            tracing::debug!(error = display_chain(&error), "cannot check for missing bindings");
            false
        }
    }
}

async fn mend(link: &Link, topology: &Topology, binding: &Binding) {
    let error = match timeout(MEND_MAX, topology.bind(link, binding)).await {
        Ok(Ok(())) => {
            tracing::warn!(
                %binding,
                "restored a missing binding; messages for that queue were refused while it was missing; find out who removed it"
            );
            return;
        }
        Ok(Err(error)) => display_chain(&error),
        Err(_) => format!("no answer within {MEND_MAX:?}"),
    };
    tracing::error!(%binding, error, "a binding is missing and cannot be restored: run `magnetite topology declare`");
}
