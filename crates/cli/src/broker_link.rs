//! The broker, for commands: they cannot wait for ever.

use std::time::Duration;

use anyhow::{anyhow, bail};
use broker::{Link, Server};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long a login may take at each of the broker's addresses; a refused one is tried again in the meantime.
const LOGIN_MAX: Duration = Duration::from_secs(5);

/// A connection that is there.
pub(crate) struct BrokerLink {
    pub(crate) link: Link,
    stop: CancellationToken,
}

impl BrokerLink {
    /// Connects and logs in, or says which of the two failed.
    pub(crate) async fn open(config: &broker::Config) -> anyhow::Result<Self> {
        // A refused connection is told at once; a link would go on trying.
        Server::of(config).await.map_err(|error| {
            anyhow!(
                "{:#}; start the broker, or correct broker.url (MAGNETITE_BROKER__URL)",
                anyhow!(error)
            )
        })?;
        Self::log_in(config).await
    }

    /// For who knows that a broker is there.
    pub(crate) async fn log_in(config: &broker::Config) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let link = Link::open(config, "magnetite command", stop.clone());
        let limit = LOGIN_MAX * config.addresses_count();
        if timeout(limit, link.connection()).await.is_err() {
            stop.cancel();
            bail!(
                "the broker at {} does not let us in within {limit:?}: the warnings above say why; check the \
                 user, the password and the vhost in broker.url",
                config.address()
            );
        }
        Ok(Self { link, stop })
    }

    /// Says goodbye, so that the broker logs no lost connection.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        self.link.closed().await;
    }
}
