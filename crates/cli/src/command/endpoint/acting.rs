//! Waits until the workers act on a change, and names those that are not known to do so.

use broker::Changes;
use service::{
    view,
    workers::{self, Behind},
};
use store::Store;
use webhook::Endpoint;

use crate::{configuration::Configuration, output};

/// Waits until all running workers act on the changes so far, two seconds at most.
pub(super) async fn wait(store: &Store, configuration: &Configuration) -> Behind {
    let changes = Changes::lazily(&configuration.broker.config(), configuration.topology());
    let behind = workers::act(store, &changes).await;
    changes.close().await;
    behind
}

/// Waits for the workers, and prints what was done to the endpoint.
pub(super) async fn said(
    changed: &Endpoint,
    done: &str,
    store: &Store,
    configuration: &Configuration,
    json: bool,
) -> anyhow::Result<()> {
    let behind = wait(store, configuration).await;
    let shown = view::behind(view::endpoint(changed), &behind);
    output::said(json, &shown, &format!("{done} {}", changed.id))?;
    note(&behind);
    Ok(())
}

/// Names the workers that do not act on the change yet, if there are any, in one line on standard error.
pub(super) fn note(behind: &Behind) {
    if behind.unknown {
        output::note(
            "it is not known which workers act on this change yet: the database could not be queried",
        );
    } else if !behind.is_empty() {
        let workers = behind.workers.iter().map(|worker| {
            let unseen_s = worker.unseen.as_secs_f64();
            format!(
                "{} on {}, last seen {unseen_s:.1} s ago",
                worker.process, worker.host
            )
        });
        let workers: Vec<_> = workers.collect();
        output::note(&format!(
            "these workers may not act on this change yet: {}",
            workers.join("; ")
        ));
    }
}
