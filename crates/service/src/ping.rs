//! Checks whether an endpoint responds: publishes a ping like a due delivery. A worker makes its single
//! attempt, and the journal records the result.

use std::time::Duration;

use broker::{Outgoing, PublishError, Publisher, Topology};
use store::{AttemptRow, DeliveryRow, Store};
use tokio::time::{Instant, sleep};
use webhook::{Delivery, Endpoint, journal::DeliveryState};

/// The interval between two reads of the journal.
const POLL: Duration = Duration::from_millis(100);

/// The state of a ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinged {
    /// The ping's delivery and its state.
    pub delivery: DeliveryRow,
    /// Its attempt. During a secret rotation there are two requests if the first one was refused.
    pub attempts: Vec<AttemptRow>,
}

impl Pinged {
    /// Returns whether the delivery has ended.
    pub fn is_over(&self) -> bool {
        self.delivery.standing.state != DeliveryState::Pending
    }

    /// Returns whether the endpoint responded with 2xx.
    pub fn is_delivered(&self) -> bool {
        self.delivery.standing.state == DeliveryState::Delivered
    }
}

/// Publishes a ping of the endpoint, and returns it when the broker has confirmed the publish. The ping is
/// attempted once, whether the endpoint is enabled or disabled.
///
/// # Errors
/// Returns an error if the ping is not known to be in the queue of due deliveries.
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

/// Waits until the journal has the ping's result, for at most `patience`. Returns the ping's state at that
/// time; `None` if nothing has been recorded about it.
///
/// # Errors
/// Returns an error if the database operation fails.
///
/// # Cancel safety
/// This function is cancel safe: it only reads.
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
