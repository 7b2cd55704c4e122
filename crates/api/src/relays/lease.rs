//! Keeps the lease of a connected relay, and finds out when the relay has ended.

use std::time::Duration;

use runtime::{Lasting, display_chain};
use service::relay::LEASE;
use store::{Renewal, Store};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use webhook::{ApiKeyId, EndpointId};

use super::end::End;

/// The interval between two renewals. It is short compared with the lease, so that some may fail.
const RENEW_EVERY: Duration = Duration::from_secs(15);

/// The condition that leases cannot be renewed, of all connections.
static UNRENEWED: Lasting = Lasting::new();

/// Renews the lease until the relay has ended or the key is not valid any more. While the database is away, nothing
/// ends.
pub(super) async fn keep(store: &Store, endpoint_id: &EndpointId, key_id: &ApiKeyId) -> End {
    let mut renewals = interval_at(Instant::now() + RENEW_EVERY, RENEW_EVERY);
    renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        renewals.tick().await;
        match store.renew_relay(endpoint_id, key_id, LEASE).await {
            Ok(Renewal::Renewed) => {
                UNRENEWED.end();
            }
            Ok(Renewal::Ended) => return End::Ended,
            Ok(Renewal::KeyInvalid) => return End::KeyInvalid,
            Err(error) => failed(endpoint_id, &error),
        }
    }
}

fn failed(endpoint_id: &EndpointId, error: &store::Error) {
    let error = display_chain(error);
    if let Some(report) = UNRENEWED.again() {
        tracing::warn!(
            error,
            failures = report.times,
            "cannot renew the leases of relays; their connections go on; trying again"
        );
    } else {
        tracing::debug!(endpoint.id = %endpoint_id, error, "cannot renew the lease of a relay");
    }
}
