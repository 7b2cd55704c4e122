//! Checks whether the exchanges and queues that a role is about to use belong to its database's installation.

use std::time::Duration;

use anyhow::bail;
use broker::{Link, Mark};
use runtime::Lasting;
use store::Store;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{broker_link::BrokerLink, configuration::Configuration, database, output};

const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Waits for the broker, and marks the prefix as belonging to this installation. Returns an error if it
/// belongs to another.
pub(super) async fn claim(configuration: &Configuration, store: &Store) -> anyhow::Result<()> {
    let (config, topology) = (configuration.broker.config(), configuration.topology());
    let stop = CancellationToken::new();
    // Closes the link when the caller stops waiting.
    let _closing = stop.clone().drop_guard();
    let link = Link::open(&config, "magnetite installation", stop.clone());
    let (mut failures, refused) = (0, Lasting::new());
    loop {
        link.connection().await?;
        let claiming = async {
            let ours = store.installation_id().await?;
            Ok::<_, anyhow::Error>((topology.claim(&link, &ours).await?, ours))
        };
        let error = match timeout(ANSWER_MAX, claiming).await {
            Ok(Ok((Mark::Theirs(theirs), ours))) => bail!(shared(configuration, &theirs, &ours)),
            Ok(Ok((Mark::Ours | Mark::Missing, _))) => break,
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no answer within {ANSWER_MAX:?}"),
        };
        failures += 1;
        if refused.again().is_some() {
            tracing::warn!(
                error,
                failures,
                "cannot determine which installation owns the queues; trying again"
            );
        }
        sleep(broker::backoff(failures)).await;
    }
    stop.cancel();
    link.closed().await;
    Ok(())
}

/// Returns the message that says what is wrong and what to do.
fn shared(configuration: &Configuration, theirs: &str, ours: &str) -> String {
    let prefix = &configuration.broker.prefix;
    format!(
        "the queues {prefix}.* on the broker belong to the installation {theirs}, but this database belongs to {ours}: two databases that \
         share queues take each other's events; {FIX}"
    )
}

pub(super) const FIX: &str = "set another broker.prefix, or set database.url to the other database; if this database has permanently \
                              replaced the other one, run `magnetite topology adopt`";

/// Assigns the queues to this database's installation.
pub(super) async fn adopt(configuration: &Configuration) -> anyhow::Result<()> {
    let store = database::open(&configuration.database).await?;
    let id = store.installation_id().await?;
    store.close().await;
    let broker = BrokerLink::open(&configuration.broker.config()).await?;
    configuration.topology().adopt(&broker.link, &id).await?;
    broker.close().await;
    output::note(&format!(
        "the queues {}.* now belong to the installation {id}; restart the roles of any other installation that uses them",
        configuration.broker.prefix
    ));
    Ok(())
}

/// Returns which installation the queues belong to, and the id of this database's installation.
pub(super) async fn find(configuration: &Configuration, store: &Store) -> anyhow::Result<(Mark, String)> {
    let id = store.installation_id().await?;
    let broker = BrokerLink::open(&configuration.broker.config()).await?;
    let found = configuration.topology().find_mark(&broker.link, &id).await;
    broker.close().await;
    Ok((found?, id))
}
