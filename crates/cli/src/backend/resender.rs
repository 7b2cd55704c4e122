//! Sending deliveries again, a batch at a time.

use client::Client;
use service::{
    resend::{self, Which},
    view,
};
use store::{Refusal, Requested};
use tokio_util::sync::CancellationToken;
use webhook::DeliveryId;
use wire::ResendResult;

use crate::{remote::told, resend::Sender, signals};

use super::{Backend, Direct};

/// Sends deliveries again.
pub(crate) enum Resender<'a> {
    /// Requests the new runs in the database, and publishes them to the broker.
    Direct { direct: &'a Direct, sender: Box<Sender> },
    /// Lets the API do both.
    Api {
        client: &'a Client,
        stop: CancellationToken,
    },
}

/// The result of sending a batch again.
pub(crate) struct Batch {
    /// The result for each delivery that was sent again or refused, in the order of the ids.
    pub(crate) results: Vec<ResendResult>,
    /// The ids of the deliveries that were not sent, in the same order. A repeated request sends them.
    pub(crate) unsent: Vec<String>,
    /// The ids of the deliveries of which it is not known whether they were sent, in the same order. A repeated
    /// request may send them twice.
    pub(crate) unknown: Vec<String>,
    /// Why there are other deliveries; `None` if there are none, or a signal arrived.
    pub(crate) failed: Option<anyhow::Error>,
}

impl Backend {
    /// Begins to send deliveries again. Connects to the broker first, because without it, nothing is requested
    /// either. `rate` is in deliveries per second; over the API, each batch is sent at once. A signal no longer
    /// ends the process from here on.
    pub(crate) async fn resender(&self, rate: f64) -> anyhow::Result<Resender<'_>> {
        Ok(match self {
            Self::Direct(direct) => Resender::Direct {
                sender: Box::new(Sender::start(&direct.store, &direct.configuration, rate).await?),
                direct,
            },
            Self::Api(api) => Resender::Api {
                client: &api.client,
                stop: signals::stop_on_signal()?,
            },
        })
    }
}

impl Resender<'_> {
    /// The maximum number of deliveries in a batch, which is that of the API.
    pub(crate) const BATCH_MAX: usize = 100;

    /// Returns whether a signal has arrived.
    pub(crate) fn is_stopped(&self) -> bool {
        match self {
            Self::Direct { sender, .. } => sender.is_stopped(),
            Self::Api { stop, .. } => stop.is_cancelled(),
        }
    }

    /// Sends a batch of deliveries again, each independently of the others. The ids are distinct.
    pub(crate) async fn send(&mut self, ids: &[String]) -> anyhow::Result<Batch> {
        match self {
            Self::Direct { direct, sender } => through_broker(direct, sender, ids).await,
            Self::Api { client, .. } => Ok(Batch {
                results: client.resend_deliveries(ids).await.map_err(told)?,
                unsent: Vec::new(),
                unknown: Vec::new(),
                failed: None,
            }),
        }
    }

    /// Closes the connection to the broker.
    pub(crate) async fn close(self) {
        if let Self::Direct { sender, .. } = self {
            sender.close().await;
        }
    }
}

async fn through_broker(direct: &Direct, sender: &mut Sender, ids: &[String]) -> anyhow::Result<Batch> {
    let Direct { store, configuration } = direct;
    let asked: Vec<DeliveryId> = ids.iter().map(|id| DeliveryId::new(id.as_str())).collect();
    let requested = resend::request(store, &asked, configuration.late(), runtime::now_ms()).await?;
    let runs: Vec<_> = requested.into_iter().map(Requested::run).collect();
    let wanted: Vec<DeliveryId> = runs.iter().flatten().cloned().collect();
    sender.expect(wanted.len() as u64);
    let mut failed = if wanted.is_empty() {
        None
    } else {
        sender.send(Which::These(&wanted)).await.err()
    };
    let left = if failed.is_some() || sender.is_stopped() {
        sender.unsent_of(&wanted).await
    } else {
        Ok(Vec::new())
    };
    let is_known = left.is_ok() && !failed.as_ref().is_some_and(is_unmarked);
    let left = left.unwrap_or_else(|error| {
        failed.get_or_insert(error);
        wanted
    });
    let (mut results, mut rest) = (Vec::new(), Vec::new());
    for (id, run) in ids.iter().zip(runs) {
        match run {
            Ok(run) if sender.is_unsendable(&run) => {
                results.push(view::resent(id.clone(), Err(Refusal::EventMissing)));
            }
            Ok(run) if left.contains(&run) => rest.push(id.clone()),
            run => results.push(view::resent(id.clone(), run)),
        }
    }
    let (unsent, unknown) = if is_known {
        (rest, Vec::new())
    } else {
        (Vec::new(), rest)
    };
    Ok(Batch {
        results,
        unsent,
        unknown,
        failed,
    })
}

/// Returns whether messages were published that the database may still call unsent.
fn is_unmarked(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<resend::Error>(),
        Some(resend::Error::Unmarked { .. })
    )
}
