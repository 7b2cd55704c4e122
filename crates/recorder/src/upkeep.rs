//! Background work on the database: deletes old rows, disables endpoints that have failed for days, ends relays
//! whose lease has expired, and publishes operational messages about endpoints.
//!
//! Every recorder does this. Work that two recorders do at once has the same result as if one had done it,
//! except that an operational message may be published twice, with the same id.

use std::time::Duration;

use broker::{Outgoing, PublishError, Publisher, Topology};
use runtime::Lasting;
use serde_json::json;
use store::{OperationRow, Store};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use webhook::DisabledReason;

use crate::{
    Config, display_chain, meters, now_ms,
    relays::{self, Answered},
};

pub(crate) struct Upkeep {
    pub(crate) config: Config,
    pub(crate) publisher: Publisher,
    pub(crate) topology: Topology,
    pub(crate) store: Store,
    /// This host's name.
    pub(crate) host: String,
}

/// The interval between two publishes of operational messages, such as that an endpoint was disabled.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// The maximum interval between two sweeps. It is short compared with the hours and days that they are about.
/// If `failing_age` is shorter, it is the interval.
const SWEEP_EVERY_MAX: Duration = Duration::from_mins(1);
/// How recently an endpoint must have failed to be disabled. An endpoint without requests for longer is not
/// failing now.
const FAILING_RECENTLY: Duration = Duration::from_mins(10);
/// The maximum number of operational messages published at once.
const TOLD_MAX: u32 = 100;
/// The maximum number of rows of each table that one transaction deletes.
///
/// Concurrent writes have to wait until that much is on disk. With 500, one commit in a hundred took three
/// times as long as without deletions.
const DELETED_MAX: u32 = 200;
/// The pause between two such deletions, which lets concurrent writes proceed. It still allows 3,500 attempts
/// per second to be deleted.
const DELETE_PAUSE: Duration = Duration::from_millis(50);

impl Upkeep {
    /// Runs all tasks. Never returns.
    pub(crate) async fn run(self) {
        let sweep_every = SWEEP_EVERY_MAX.min(self.config.failing_age);
        let (mut tell, mut sweep, mut end) = (every(TELL_EVERY), every(sweep_every), every(relays::EVERY));
        let telling = async {
            let (undone, untold) = (Task::new("publish operational messages"), Lasting::new());
            loop {
                tell.tick().await;
                undone.log(self.tell(&untold).await);
            }
        };
        let sweeping = async {
            let unseen = Task::new("disable failing endpoints");
            let kept = Task::new("delete expired rows");
            let doubted = Lasting::new();
            loop {
                sweep.tick().await;
                match self.look_at_clocks(&doubted).await {
                    Ok(None) => {}
                    Ok(Some(counted_ms)) => {
                        unseen.log(self.disable_failing().await);
                        kept.log(self.delete_expired(counted_ms).await);
                    }
                    Err(error) => kept.log(Err(error)),
                }
            }
        };
        let ending = async {
            let (unended, mut answered) = (
                Task::new("end relays whose lease has expired"),
                Answered::default(),
            );
            loop {
                end.tick().await;
                unended.log(relays::end_expired(&self.store, &mut answered).await);
            }
        };
        tokio::join!(telling, sweeping, ending);
    }

    /// Publishes the operational messages in the outbox. A message that is not routed to any queue counts as
    /// published, because no consumer has subscribed to it.
    async fn tell(&self, untold: &Lasting) -> Result<(), store::Error> {
        let operations = self.store.operations(TOLD_MAX).await?;
        if operations.is_empty() {
            return Ok(());
        }
        let messages: Vec<_> = operations
            .iter()
            .map(|operation| self.message(operation))
            .collect();
        let results = self.publisher.publish_all(&messages).await;
        let mut told = Vec::new();
        for (operation, result) in operations.into_iter().zip(results) {
            match result {
                Ok(()) | Err(PublishError::Unroutable { .. }) => {
                    untold.end();
                    told.push(operation.id);
                }
                Err(error) => {
                    if untold.again().is_some() {
                        tracing::warn!(
                            operation.id,
                            error = display_chain(&error),
                            "cannot publish an operational message; trying again"
                        );
                    }
                }
            }
        }
        self.store.delete_operations(&told).await
    }

    fn message(&self, operation: &OperationRow) -> Outgoing {
        let json = json!({
            "id": operation.id,
            "kind": operation.kind,
            "organization_id": operation.organization_id,
            "endpoint_id": operation.endpoint_id,
            "reason": operation.reason,
            "at_ms": operation.at_ms,
        });
        let json = json.to_string().into_bytes();
        Outgoing::operation(&self.topology, &operation.id, &operation.kind, json.into())
    }

    /// Returns the time from which retention counts, in Unix milliseconds; `None` while this host's clock is
    /// in doubt.
    async fn look_at_clocks(&self, doubted: &Lasting) -> Result<Option<u64>, store::Error> {
        let looked = self.store.look_at_clocks(&self.host, now_ms()).await?;
        meters::RETENTION_STOPPED
            .level([])
            .set(f64::from(u8::from(looked.is_err())));
        match looked {
            Ok(counted_ms) => {
                if let Some(ended) = doubted.end() {
                    let stopped_s = ended.lasted.as_secs();
                    tracing::info!(
                        stopped_s,
                        "the clocks agree again: expired rows are deleted and failing endpoints are disabled again"
                    );
                }
                Ok(Some(counted_ms))
            }
            Err(doubt) => {
                if doubted.again().is_some() {
                    tracing::warn!(
                        %doubt,
                        "the clocks disagree: nothing is deleted and no failing endpoint is disabled until they agree; set the \
                         clock that is wrong or, if all are right, run `magnetite retention confirm`"
                    );
                }
                Ok(None)
            }
        }
    }

    async fn disable_failing(&self) -> Result<(), store::Error> {
        let now_ms = now_ms();
        let recent_ms = now_ms.saturating_sub(FAILING_RECENTLY.as_millis() as u64);
        let age_ms = self.config.failing_age.as_millis() as u64;
        let mut failed = None;
        for (endpoint, since_ms) in self.store.failing_endpoints(recent_ms, age_ms, now_ms).await? {
            let reason = DisabledReason::Failing;
            let disabling = self.store.disable_endpoint_unless_changed(
                &endpoint.id,
                endpoint.version,
                reason,
                now_ms as i64,
            );
            match disabling.await {
                Ok(false) => {}
                Ok(true) => tracing::warn!(
                    endpoint.id = %endpoint.id, since_ms,
                    "disabled the endpoint: every attempt has failed for longer than endpoints.failing_age"
                ),
                Err(error) if error.is_unavailable() => return Err(error),
                // The other endpoints are still disabled.
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn delete_expired(&self, counted_ms: u64) -> Result<(), store::Error> {
        let before_ms = counted_ms.saturating_sub(self.config.retention_age.as_millis() as u64);
        let (mut from_ms, mut deleted) = (0, 0);
        while from_ms < before_ms {
            let expired = self.store.delete_expired(from_ms, before_ms, DELETED_MAX).await?;
            (from_ms, deleted) = (expired.until_ms, deleted + expired.rows);
            if from_ms < before_ms {
                sleep(DELETE_PAUSE).await;
            }
        }
        if deleted > 0 {
            meters::DELETED.count([]).increment(deleted);
            tracing::info!(deleted, "deleted rows older than retention.age");
        }
        Ok(())
    }
}

/// Returns an interval that does not make up for missed ticks.
fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// A recurring task of upkeep, and whether it fails.
struct Task {
    what: &'static str,
    fails: Lasting,
}

impl Task {
    const fn new(what: &'static str) -> Self {
        Self {
            what,
            fails: Lasting::new(),
        }
    }

    fn log(&self, done: Result<(), store::Error>) {
        let what = self.what;
        match done {
            Ok(()) => {
                if let Some(ended) = self.fails.end() {
                    tracing::info!(failures = ended.times, "can {what} again");
                }
            }
            Err(error) => {
                if let Some(report) = self.fails.again() {
                    let failures = report.times;
                    tracing::warn!(
                        error = display_chain(&error),
                        failures,
                        "cannot {what}; trying again later"
                    );
                }
            }
        }
    }
}
