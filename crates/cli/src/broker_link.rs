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

    /// For who knows that a broker is there. A login that the only broker refuses is told at once.
    pub(crate) async fn log_in(config: &broker::Config) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let link = Link::open(config, "magnetite command", stop.clone());
        let limit = LOGIN_MAX * config.addresses_count();
        let is_let_in = tokio::select! {
            up = timeout(limit, link.connection()) => up.is_ok(),
            () = refusal(&link), if config.addresses_count() == 1 => false,
        };
        if !is_let_in {
            stop.cancel();
            let why = link
                .failure()
                .unwrap_or_else(|| format!("no answer within {limit:?}"));
            bail!("the broker at {} does not let us in: {why}", config.address());
        }
        Ok(Self { link, stop })
    }

    /// Says goodbye, so that the broker logs no lost connection.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        self.link.closed().await;
    }
}

/// Waits until the broker has refused the login. Another one would be refused as well.
async fn refusal(link: &Link) {
    const WORDS: [&str; 2] = ["ACCESS_REFUSED", "NOT_ALLOWED"];
    let mut link = link.clone();
    while !link
        .failure()
        .is_some_and(|failure| WORDS.iter().any(|word| failure.contains(word)))
    {
        link.changed().await;
    }
}
