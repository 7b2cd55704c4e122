//! Pinging endpoints.

use std::time::Duration;

use anyhow::{Context as _, bail};
use broker::{Publisher, Topology};
use service::{
    ping::{self, Pinged},
    view,
};
use webhook::EndpointId;

use crate::{broker_link::BrokerLink, output};

use super::{Backend, Direct, endpoints::unknown};

/// The maximum time that the ping spends in queues and that its record needs to reach the database.
const LAG: Duration = Duration::from_secs(5);

impl Backend {
    /// Pings an endpoint, and returns how it answered. Returns an error if that is not known in time.
    pub(crate) async fn ping(&self, id: &EndpointId) -> anyhow::Result<wire::Ping> {
        match self {
            Self::Direct(direct) => direct.ping(id).await,
            Self::Api(api) => {
                let pinged = api.client.ping_endpoint(id.as_str()).await;
                let pinged = pinged.map_err(|error| unknown(error, id))?;
                if pinged.ok.is_none() {
                    let why = match &pinged.reason {
                        Some(reason) => deferred(reason),
                        None => "it is in progress, or no worker or no recorder is running; `magnetite event show` may show the result later".to_owned(),
                    };
                    bail!("ping {}: no result in time; {why}", pinged.id);
                }
                Ok(pinged)
            }
        }
    }
}

impl Direct {
    async fn ping(&self, id: &EndpointId) -> anyhow::Result<wire::Ping> {
        let (store, configuration) = (&self.store, &self.configuration);
        let endpoint = self.find(id).await?;
        if !configuration.worker.journal {
            bail!(
                "journal.enabled is false, so the result of a ping would be only in the worker's log; enable the journal"
            );
        }
        let (config, topology) = (configuration.broker.config(), configuration.topology());
        let broker = BrokerLink::open(&config).await?;
        let publisher = Publisher::new(broker.link.clone(), &config);
        let now_ms = runtime::now_ms();
        let sent = ping::send(&publisher, &topology, &endpoint, now_ms, rand::random()).await;
        let sent = sent.context("the ping may not have been sent")?;
        let patience = configuration.egress.attempt_timeout + LAG;
        let pinged = ping::result(store, &sent, patience).await?;
        let pinged = match pinged {
            Some(pinged) if pinged.is_over() => pinged,
            pinged => {
                let why = unanswered(pinged.as_ref(), &broker, &topology).await;
                broker.close().await;
                bail!("ping {}: no result within {patience:?}; {why}", sent.event.id);
            }
        };
        broker.close().await;
        Ok(view::ping(&sent, Some(&pinged)))
    }
}

/// Returns why there is no result: what delays the ping, or which role is not running, as far as the queues
/// show.
async fn unanswered(pinged: Option<&Pinged>, broker: &BrokerLink, topology: &Topology) -> String {
    if let Some(pinged) = pinged {
        let reason = &pinged.delivery.standing.reason;
        return match reason.as_str() {
            "" => "it is in progress; `magnetite event show` will show the result".to_owned(),
            reason => deferred(reason),
        };
    }
    let found = topology.check(&broker.link).await.unwrap_or_default();
    let is_idle = |name: String| {
        let mut states = found.iter().flatten();
        states.any(|state| state.name == name && state.consumers == 0)
    };
    match (is_idle(topology.due()), is_idle(topology.journal())) {
        (true, _) => "no worker is running: start one (`magnetite worker`)".to_owned(),
        (_, true) => "no recorder is running: start one (`magnetite recorder`)".to_owned(),
        _ => "a worker and a recorder are running: their logs show what delays it; `magnetite event show` may show the result later".to_owned(),
    }
}

fn deferred(reason: &str) -> String {
    format!(
        "a worker deferred it ({}); `magnetite event show` will show the result",
        output::printable(reason)
    )
}
