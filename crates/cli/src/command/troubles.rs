//! What a process has noticed lately, told to the database for `magnetite doctor`.

use std::time::Duration;

use runtime::troubles;
use serde::{Deserialize, Serialize};
use store::Store;
use tokio::time::sleep;

/// How often it is looked whether there is something new to tell.
const EVERY: Duration = Duration::from_secs(5);

/// One thing that was noticed, as it stands in the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) kind: String,
    pub(super) subject: String,
    pub(super) detail: String,
}

/// Reports what the process of this name notices; never returns.
pub(super) async fn report(process: &str, store: &Store) {
    let mut told = None;
    loop {
        let now = noticed();
        if now != told {
            match store.report_troubles(process, now.as_deref()).await {
                Ok(true) => told = now,
                // No role has announced itself yet.
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "cannot report what was noticed"),
            }
        }
        sleep(EVERY).await;
    }
}

fn noticed() -> Option<String> {
    let recent: Vec<_> = troubles::recent()
        .into_iter()
        .map(|(trouble, subject, detail)| Told {
            kind: trouble.as_str().to_owned(),
            subject,
            detail,
        })
        .collect();
    let is_any = !recent.is_empty();
    is_any.then(|| serde_json::to_string(&recent).expect("texts can be written"))
}

/// What stands in the database; nothing for what a later version wrote in another form.
pub(super) fn read(troubles: Option<&str>) -> Vec<Told> {
    let read = troubles.and_then(|json| serde_json::from_str(json).ok());
    read.unwrap_or_default()
}
