//! What workers record, as it happens. Neither way needs the database.

use std::{pin::pin, time::Duration};

use client::{Client, TailEvents};
use futures_util::{TryStreamExt as _, stream::BoxStream};
use runtime::vital;
use service::tail::{Filter, Reader, Readers};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use webhook::EndpointId;
use wire::TailLine;

use crate::{
    broker_link::BrokerLink,
    configuration::Configuration,
    output,
    remote::{Remote, told},
};

/// How long to wait before a stream of the API that has ended is opened again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long to wait for the answer of the API before a stream that has ended counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(1);

/// The records of workers from now on.
pub(crate) enum Records {
    Broker(OfBroker),
    Api(OfApi),
}

/// Copies from the broker.
pub(crate) struct OfBroker {
    broker: BrokerLink,
    reader: Reader,
    stop: CancellationToken,
}

/// A stream of the API.
pub(crate) struct OfApi {
    client: Client,
    which: TailEvents,
    /// `None` while the stream is not open.
    lines: Option<BoxStream<'static, Result<TailLine, client::Error>>>,
    /// Whether the stream was open before.
    was_open: bool,
}

impl Records {
    /// Connects to the broker.
    pub(crate) async fn of_broker(configuration: &Configuration, filter: Filter) -> anyhow::Result<Self> {
        let broker = BrokerLink::open(&configuration.broker.config()).await?;
        let readers = Readers::new(|line| line);
        let reader = readers.add(filter);
        let (link, topology) = (broker.link.clone(), configuration.topology());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        // A task of its own, because printing blocks while the terminal is slow.
        tokio::spawn(vital("records of workers", async move {
            readers.watch(&link, &topology, &stopped).await;
        }));
        Ok(Self::Broker(OfBroker { broker, reader, stop }))
    }

    /// Uses the API. Connects when the first lines are read.
    pub(crate) fn of_api(remote: &Remote, filter: Filter) -> anyhow::Result<Self> {
        let client = remote.client()?;
        let client = match filter.organization {
            Some(organization) => client.for_organization(organization),
            None => client,
        };
        Ok(Self::Api(OfApi {
            client,
            which: TailEvents {
                event_type: filter.event_type,
                endpoint_id: filter.endpoint.as_ref().map(EndpointId::to_string),
                outcome: filter.outcome,
            },
            lines: None,
            was_open: false,
        }))
    }

    /// Waits for lines. Connects again whenever the connection is lost.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Vec<TailLine>> {
        match self {
            Self::Broker(of) => Ok(of.next().await),
            Self::Api(of) => Ok(vec![of.next().await?]),
        }
    }

    /// Closes the connection.
    pub(crate) async fn close(self) {
        if let Self::Broker(of) = self {
            of.stop.cancel();
            of.broker.close().await;
        }
    }
}

impl OfBroker {
    /// Waits for lines, without [`TailLine::Interrupted`], because the log says it.
    async fn next(&self) -> Vec<TailLine> {
        let lines = self.reader.next().await;
        let values = lines.iter().map(|line| line.value.clone());
        values
            .filter(|line| !matches!(line, TailLine::Interrupted { .. }))
            .collect()
    }
}

impl OfApi {
    async fn next(&mut self) -> anyhow::Result<TailLine> {
        loop {
            let Some(lines) = &mut self.lines else {
                self.open().await?;
                continue;
            };
            match lines.try_next().await {
                Ok(Some(line)) => return Ok(line),
                Err(error) if !error.is_transient() => return Err(told(error)),
                Ok(None) | Err(_) => self.lines = None,
            }
            sleep(AGAIN_AFTER).await;
            self.open_again().await?;
        }
    }

    /// Opens the stream after it has ended. The API also ends a stream whose key is no longer valid, and says so when
    /// the stream is opened again. Then the connection was not lost.
    async fn open_again(&mut self) -> anyhow::Result<()> {
        const LOST: &str = "the connection to the API was lost; connecting again; what workers record in the meantime is not shown";
        let mut opening = pin!(self.open());
        if let Ok(opened) = timeout(LOST_AFTER, opening.as_mut()).await {
            opened?;
            output::note(LOST);
            return Ok(());
        }
        output::note(LOST);
        opening.await
    }

    /// Opens the stream. After it was open once, this is tried until it succeeds, or fails for a reason that does
    /// not pass.
    async fn open(&mut self) -> anyhow::Result<()> {
        loop {
            match self.client.tail_events(&self.which).await {
                Ok(lines) => {
                    (self.lines, self.was_open) = (Some(lines), true);
                    return Ok(());
                }
                Err(error) if error.is_transient() && self.was_open => {
                    output::note(&format!("{error}; trying again"));
                    sleep(AGAIN_AFTER).await;
                }
                Err(error) => return Err(told(error)),
            }
        }
    }
}
