//! Asking an endpoint whether it answers: a ping is published like a delivery that is due, a worker makes its
//! one attempt, and the journal has what became of it.

use std::time::Duration;

use broker::{Outgoing, PublishError, Publisher, Topology};
use store::{AttemptRow, DeliveryRow, Store};
use tokio::time::{Instant, sleep};
use webhook::{Delivery, Endpoint, journal::DeliveryState};

/// How often the journal is asked.
const POLL: Duration = Duration::from_millis(100);

/// What became of a ping so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinged {
    /// How it stands.
    pub delivery: DeliveryRow,
    /// Its attempt; two requests while a secret is rotated and the first one is refused.
    pub attempts: Vec<AttemptRow>,
}

impl Pinged {
    /// Whether nothing more will come.
    pub fn is_over(&self) -> bool {
        self.delivery.standing.state != DeliveryState::Pending
    }

    /// Whether the endpoint answered with a 2xx.
    pub fn is_delivered(&self) -> bool {
        self.delivery.standing.state == DeliveryState::Delivered
    }
}

/// Publishes a ping of the endpoint, and returns it when the broker has confirmed that it has it. It is
/// attempted once, whether the endpoint is enabled or not.
///
/// # Errors
/// When it is not known to be in the queue of due deliveries.
pub async fn send(
    publisher: &Publisher,
    topology: &Topology,
    endpoint: &Endpoint,
    now_ms: u64,
    random: [u8; 16],
) -> Result<Delivery, PublishError> {
    let ping = Delivery::ping(endpoint, now_ms, random);
    publisher.publish(&Outgoing::due(topology, &ping)).await?;
    Ok(ping)
}

/// Waits until the journal says how the ping ended, or as it stands after `patience`: `None` when nothing is
/// recorded of it.
///
/// # Errors
/// Only the database's.
///
/// # Cancel safety
/// Safe to drop: it only reads.
pub async fn result(
    store: &Store,
    ping: &Delivery,
    patience: Duration,
) -> Result<Option<Pinged>, store::Error> {
    let (id, deadline) = (ping.id(), Instant::now() + patience);
    loop {
        let pinged = match store.delivery(&id).await? {
            None => None,
            Some(delivery) => Some(Pinged {
                attempts: store.attempts(&id).await?,
                delivery,
            }),
        };
        if pinged.as_ref().is_some_and(Pinged::is_over) || Instant::now() >= deadline {
            return Ok(pinged);
        }
        sleep(POLL).await;
    }
}
