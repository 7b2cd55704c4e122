//! The broker connection of commands, whose waits are bounded.

use std::time::Duration;

use anyhow::{anyhow, bail};
use broker::{Link, Server};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The maximum time for a login at each of the broker's addresses. A refused login is retried within this
/// time.
const LOGIN_MAX: Duration = Duration::from_secs(5);

/// An established connection.
pub(crate) struct BrokerLink {
    pub(crate) link: Link,
    stop: CancellationToken,
}

impl BrokerLink {
    /// Connects and logs in. The error says which of the two failed.
    pub(crate) async fn open(config: &broker::Config) -> anyhow::Result<Self> {
        // This reports a refused connection at once, whereas a link would keep reconnecting.
        Server::of(config).await.map_err(|error| {
            anyhow!(
                "{:#}; start the broker, or correct broker.url (MAGNETITE_BROKER__URL)",
                anyhow!(error)
            )
        })?;
        Self::log_in(config).await
    }

    /// Logs in to a broker that is known to be reachable. If there is only one broker address and it refuses
    /// the login, returns the error at once.
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
            bail!("cannot log in to the broker at {}: {why}", config.address());
        }
        Ok(Self { link, stop })
    }

    /// Closes the connection properly, so that the broker does not log a lost connection.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        self.link.closed().await;
    }
}

/// Waits until the broker has refused the login. Retrying would not help: the broker would refuse again.
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
