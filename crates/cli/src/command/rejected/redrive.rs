//! `rejected redrive`.

use anyhow::{anyhow, bail};
use broker::{Outgoing, Publisher, Topology};
use serde_json::json;
use store::{RejectedRow, Store};

use crate::{broker_link::BrokerLink, configuration::Configuration, output};

use super::find;

/// What redriving a message needs.
struct Redrive<'a> {
    store: &'a Store,
    topology: Topology,
    publisher: Publisher,
    again: bool,
}

/// Redrives each message independently: if one fails, the others are still redriven.
pub(super) async fn run(
    ids: &[String],
    again: bool,
    store: &Store,
    configuration: &Configuration,
    as_json: bool,
) -> anyhow::Result<()> {
    let config = configuration.broker.config();
    let broker = BrokerLink::open(&config).await?;
    let redrive = Redrive {
        store,
        topology: configuration.topology(),
        publisher: Publisher::new(broker.link.clone(), &config),
        again,
    };
    let mut failed = 0;
    for id in ids {
        match redrive.one(id).await {
            Ok(()) => output::said(as_json, &json!({ "id": id, "redriven": true }), id)?,
            Err(error) => {
                output::note(&format!("{id}: {error:#}"));
                failed += 1;
            }
        }
    }
    broker.close().await;
    if failed > 0 {
        bail!("not redriven: {failed} of {}, see above", ids.len());
    }
    Ok(())
}

impl Redrive<'_> {
    /// Redrives one message. It is first published and then marked, so that it may be published twice but is
    /// never marked without being published.
    async fn one(&self, id: &str) -> anyhow::Result<()> {
        let rejected = find(self.store, id).await?;
        if rejected.redriven_ms.is_some() && !self.again {
            bail!("it was redriven before; --again redrives it once more");
        }
        let source = rejected.source.clone();
        let message = Outgoing::redriven(&self.topology, &as_it_came(rejected)).ok_or_else(|| {
            anyhow!(
                "it came from {source:?}, which is not a queue to redrive to, or its headers cannot be read; `magnetite \
                 rejected show {id} --body` prints its body"
            )
        })?;
        self.publisher.publish(&message).await?;
        self.store.mark_redriven(id, runtime::now_ms()).await?;
        Ok(())
    }
}

fn as_it_came(rejected: RejectedRow) -> broker::Rejected {
    broker::Rejected {
        id: Some(rejected.id),
        rejected_ms: rejected.rejected_ms,
        source: rejected.source,
        reason: rejected.reason,
        detail: rejected.detail,
        message_id: rejected.message_id,
        event_type: rejected.event_type,
        headers: rejected.headers,
        body: rejected.body,
    }
}
