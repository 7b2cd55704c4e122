//! Checks whether the broker lets a link's user publish.
//!
//! A permission that was revoked or granted shows only at the next publish, so [`Link::watch_permissions`]
//! checks exchanges that were not published to recently. A check leaves nothing behind on the broker. To the
//! default exchange and the exchange of deliveries, it publishes a message that no queue receives. From any
//! other exchange, it removes a binding that does not exist, which requires the same permission.

use std::time::Duration;

use lapin::{
    Channel, ExchangeKind,
    options::{
        BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeUnbindOptions,
        QueueDeclareOptions,
    },
    types::FieldTable,
};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::{Link, Refusal, RefusalKind, Topology, channel::ChannelError, refusals::why_not};

/// How often the broker is asked about an exchange, unless the exchange has accepted a message within this
/// time.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// How long the broker may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

impl Link {
    /// Returns what the broker currently refuses, as far as publishing, consuming and
    /// [`watch_permissions`](Self::watch_permissions) have shown.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.noted().current()
    }

    /// Asks the broker every three seconds whether this process may publish to these exchanges, except those
    /// that it has published to since the last time. The empty name is the default exchange. Never returns.
    pub async fn watch_permissions(&self, topology: &Topology, exchanges: &[String]) {
        let mut ticks = interval(ASK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for exchange in exchanges {
                if self.is_writable() && !self.noted().took_within(exchange, ASK_EVERY) {
                    self.ask(topology, exchange).await;
                }
            }
        }
    }

    async fn ask(&self, topology: &Topology, exchange: &str) {
        let asking = async {
            let channel = self.channel().await?;
            let answer = if exchange.is_empty() || *exchange == topology.deliveries_exchange() {
                publish_nowhere(&channel, exchange).await
            } else {
                unbind_nothing(&channel, topology, exchange).await
            };
            if channel.status().connected() {
                let _ = channel.close(200, "OK".into()).await;
            }
            answer.map_err(ChannelError::from)
        };
        match timeout(ANSWER_MAX, asking).await {
            Ok(Ok(())) => self.noted().forget(exchange, RefusalKind::Exchange),
            Ok(Err(ChannelError::Refused(error))) => {
                if let Some(why) = why_not(exchange, &error) {
                    self.noted().remember(exchange, RefusalKind::Exchange, why);
                }
            }
            // A lost connection and an alarm are part of the link's state.
            Ok(Err(ChannelError::Closed(_))) | Err(_) => {}
        }
    }
}

/// Publishes a message to the default exchange or to the exchange of deliveries. The broker drops it, because
/// no queue is bound with an empty key there. During an alarm, the broker notifies the connection.
async fn publish_nowhere(channel: &Channel, exchange: &str) -> lapin::Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicPublishOptions::default();
    let publishing = channel.basic_publish(exchange.into(), "".into(), options, &[], <_>::default());
    publishing.await?.await.map(|_| ())
}

/// Checks that the exchange exists (for the exchange of events, also its queue), and removes a binding that
/// does not exist.
async fn unbind_nothing(channel: &Channel, topology: &Topology, exchange: &str) -> lapin::Result<()> {
    let passive = ExchangeDeclareOptions {
        passive: true,
        ..ExchangeDeclareOptions::default()
    };
    let table = FieldTable::default;
    channel
        .exchange_declare(exchange.into(), ExchangeKind::Topic, passive, table())
        .await?;
    if exchange == topology.events_exchange() {
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(topology.events().as_str().into(), passive, table())
            .await?;
    }
    let (source, options) = (topology.changes_exchange(), ExchangeUnbindOptions::default());
    let nothing = "may this user publish".into();
    channel
        .exchange_unbind(exchange.into(), source.as_str().into(), nothing, options, table())
        .await
}
