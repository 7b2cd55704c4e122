//! Requested runs: requested, claimed, and marked as sent.

use std::sync::Arc;

use sqlx::Connection as _;
use strum::{EnumString, IntoStaticStr, VariantNames};
use webhook::{
    Delivery, DeliveryId, EndpointId, EventId, OrganizationId, Trigger, UnknownName,
    journal::{DeliveryState, EventEntry},
};

use super::{
    events::read_event,
    recover::Recoverable,
    totals::{Added, add_totals},
    write::mark,
};
use crate::{
    Error, OPERATION_TIMEOUT, Operation, Store,
    columns::Columns,
    database::on_connection,
    statement::{Argument, Statement, bind_all, fetch_all},
};

/// The result of a request to send a delivery again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requested {
    /// A new run is to be sent.
    New(DeliveryId),
    /// This run was requested before and is still pending, so no second one is requested.
    Open(DeliveryId),
    /// Nothing is to be sent.
    Refused(Refusal),
}

/// The reason why a delivery is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr, VariantNames, thiserror::Error)]
#[strum(serialize_all = "snake_case", parse_err_ty = UnknownName, parse_err_fn = unknown)]
pub enum Refusal {
    /// The delivery does not exist.
    #[strum(serialize = "not_found")]
    #[error("there is no such delivery")]
    Unknown,
    /// The delivery has attempts left.
    #[error("it is still pending")]
    StillPending,
    /// The event is no longer stored, so there is nothing to send.
    #[error("its event is no longer stored")]
    EventMissing,
    /// The delivery is a ping. A ping checks the endpoint at the time it is sent, so it is not sent again.
    #[error("it is a ping, which is not sent again")]
    Ping,
}

impl Requested {
    /// Returns the run that is to be sent, or why there is none.
    ///
    /// # Errors
    ///
    /// Returns the reason if nothing is to be sent.
    pub fn run(self) -> Result<DeliveryId, Refusal> {
        match self {
            Self::New(run) | Self::Open(run) => Ok(run),
            Self::Refused(refusal) => Err(refusal),
        }
    }
}

impl Refusal {
    /// Returns the name in the JSON of the API.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown(name: &str) -> UnknownName {
    UnknownName::of::<Refusal>("reason why a delivery is not sent again", name)
}

/// A requested run that is to be published now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The run's id, with which it is marked as sent.
    pub id: DeliveryId,
    /// The delivery to publish; `None` if it cannot be sent, because the event is gone or cannot be read.
    pub delivery: Option<Delivery>,
}

/// An event and an endpoint.
#[derive(Clone, Debug)]
struct Pair {
    organization: OrganizationId,
    event: EventId,
    endpoint: EndpointId,
}

const SELECT_PAIR: &str =
    "SELECT organization_id, event_id, endpoint_id, trigger FROM deliveries WHERE id = $1";

const SELECT_EVENT: &str = "SELECT id FROM events WHERE id = $1 AND organization_id = $2";

const SELECT_LATEST: &str = "SELECT id, run, state, requested_ms FROM deliveries WHERE event_id = $1 AND organization_id = $2 \
    AND endpoint_id = $3 ORDER BY run DESC LIMIT 1";

/// Inserts a requested run; does nothing if another transaction has just requested a run of the same pair.
const INSERT_RUN: &str = "INSERT INTO deliveries (id, event_id, organization_id, endpoint_id, run, trigger, state, attempts, \
    updated_ms, next_ms, reason, last_status, last_error, created_ms, requested_ms, mark, recorded) \
    VALUES ($1, $2, $3, $4, $5, 'resend', 0, 0, $6, $6, '', 0, '', $6, $6, $7, 0) ON CONFLICT DO NOTHING";

/// Selects the requested runs that were not sent. If a worker has recorded something about a run, the run was
/// sent, even if it is not marked as sent.
const SELECT_UNSENT: &str = "SELECT d.id AS delivery_id, d.endpoint_id, d.run, e.id, e.received_ms, e.traceparent, e.body, \
    e.considered, e.seen FROM deliveries d LEFT JOIN events e ON e.id = d.event_id AND e.organization_id = d.organization_id \
    WHERE d.requested_ms IS NOT NULL AND d.sent_ms IS NULL AND d.state = 0 AND d.attempts = 0 \
    AND d.updated_ms <= d.requested_ms AND (d.claimed_until_ms IS NULL OR d.claimed_until_ms < $1)";

const CLAIM: &str = "UPDATE deliveries SET claimed_until_ms = $2 WHERE id = $1";

/// Marks a run as sent. If no worker has recorded anything about it, it is due from now on.
const MARK_SENT: &str = "UPDATE deliveries SET sent_ms = $2, \
    updated_ms = CASE WHEN state = 0 AND attempts = 0 AND updated_ms < $2 THEN $2 ELSE updated_ms END, \
    next_ms = CASE WHEN state = 0 AND attempts = 0 AND updated_ms < $2 THEN $2 ELSE next_ms END \
    WHERE id = $1 AND requested_ms IS NOT NULL AND sent_ms IS NULL";

/// The maximum number of times a request looks for the latest run. If another request is in its way, that
/// request has committed by the next time and is visible.
const REQUEST_TRIES: u32 = 3;

/// Requests a run of one pair. For use inside [`on_connection!`].
macro_rules! request {
    ($tx:ident, $pair:expr, $first_run:expr, $now_ms:expr) => {{
        let pair: &Pair = $pair;
        let stored = bind_all!(sqlx::query(SELECT_EVENT), &pair.event_arguments())
            .fetch_optional(&mut *$tx)
            .await?;
        let mut requested = match stored {
            Some(_) => Requested::Refused(Refusal::StillPending),
            None => Requested::Refused(Refusal::EventMissing),
        };
        for _ in 0..if stored.is_some() { REQUEST_TRIES } else { 0 } {
            let latest = bind_all!(sqlx::query(SELECT_LATEST), &pair.arguments())
                .try_map(|row| read_latest(&row))
                .fetch_optional(&mut *$tx)
                .await?;
            let run = match next_run(latest, $first_run) {
                Ok(run) => run,
                Err(answer) => {
                    requested = answer;
                    break;
                }
            };
            let id = pair.delivery_id(run);
            let inserted = bind_all!(sqlx::query(INSERT_RUN), &pair.run_arguments(&id, run, $now_ms))
                .execute(&mut *$tx)
                .await?;
            if inserted.rows_affected() > 0 {
                requested = Requested::New(id);
                break;
            }
        }
        requested
    }};
}

/// Requests runs for items in one transaction, and evaluates to the results in their order. `$request` evaluates to
/// the [`Requested`] of one item.
macro_rules! request_each {
    ($store:ident, $items:ident, $now_ms:ident, |$tx:ident, $item:ident| $request:expr) => {{
        let operation = &Operation::REQUEST_RUNS;
        on_connection!(
            &$store.database,
            writer,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut $tx = connection.begin_with(dialect.begin_write).await?;
                let mut requested = Vec::with_capacity($items.len());
                for $item in $items {
                    requested.push($request);
                }
                let added = added(&requested, $now_ms);
                add_totals!($tx, added, $store.shard);
                $tx.commit().await?;
                Ok(requested)
            }
        )
    }};
}

impl Store {
    /// Requests for each of these deliveries that it is made again, in one transaction. The request adds a
    /// new run after the latest one of the same event and endpoint, unless that one is still pending. Returns
    /// the results in the given order. Repeating a request does not add another run. Intended for a few
    /// hundred deliveries at a time.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails; then nothing was requested.
    pub async fn request_resends(&self, ids: &[DeliveryId], now_ms: u64) -> Result<Vec<Requested>, Error> {
        request_each!(self, ids, now_ms, |tx, id| {
            let pair = bind_all!(sqlx::query(SELECT_PAIR), &[Argument::id(id.as_str())])
                .try_map(|row| read_pair(&row))
                .fetch_optional(&mut *tx)
                .await?;
            match pair {
                None => Requested::Refused(Refusal::Unknown),
                Some((_, Trigger::Ping)) => Requested::Refused(Refusal::Ping),
                Some((pair, _)) => request!(tx, &pair, None, now_ms),
            }
        })
    }

    /// Requests that events that an endpoint missed are delivered to it after all; otherwise like
    /// [`Store::request_resends`]. An event of which the endpoint never had a delivery gets run 1.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails; then nothing was requested.
    pub async fn request_recoveries(
        &self,
        endpoint: &EndpointId,
        missed: &[Recoverable],
        now_ms: u64,
    ) -> Result<Vec<Requested>, Error> {
        request_each!(self, missed, now_ms, |tx, recoverable| {
            let pair = Pair {
                organization: recoverable.organization_id.clone(),
                event: recoverable.event_id.clone(),
                endpoint: endpoint.clone(),
            };
            request!(tx, &pair, Some(1), now_ms)
        })
    }

    /// Claims for the caller at most `limit` requested runs that were not sent, those of the oldest events
    /// first. For `claim_ms` milliseconds no other caller gets them. `endpoint` and `ids` restrict the
    /// selection; `None` does not restrict it.
    ///
    /// Each run comes with the body of its event, which has up to 256 KiB: choose `limit` accordingly.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails; then nothing was claimed.
    pub async fn claim_requested(
        &self,
        endpoint: Option<&EndpointId>,
        ids: Option<&[DeliveryId]>,
        now_ms: u64,
        claim_ms: u64,
        limit: u32,
    ) -> Result<Vec<Claimed>, Error> {
        if ids.is_some_and(<[_]>::is_empty) {
            return Ok(Vec::new());
        }
        let operation = &Operation::new("claim requested deliveries");
        let mut select = Statement::with(SELECT_UNSENT, [now_ms.into()]);
        if let Some(endpoint) = endpoint {
            select.push_with(" AND d.endpoint_id = ", Argument::id(endpoint.as_str()));
        }
        if let Some(ids) = ids {
            let ids = ids.iter().map(|id| Argument::id(id.as_str()));
            select.push_list(" AND d.id IN ", ids);
        }
        select.push_with(" ORDER BY COALESCE(e.received_ms, 0), d.id LIMIT ", limit.into());
        let until_ms = now_ms.saturating_add(claim_ms);
        on_connection!(
            &self.database,
            writer,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_write).await?;
                select.push(dialect.skip_locked);
                let claimed = fetch_all!(tx, dialect, select, read_claimed);
                for Claimed { id, .. } in &claimed {
                    bind_all!(sqlx::query(CLAIM), &[id.as_str().into(), until_ms.into()])
                        .execute(&mut *tx)
                        .await?;
                }
                tx.commit().await?;
                Ok(claimed)
            }
        )
    }

    /// Notes that these runs were published and confirmed.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails; then no run is marked, and the runs will be claimed
    /// again after the claim has expired.
    pub async fn mark_sent(&self, ids: &[DeliveryId], now_ms: u64) -> Result<(), Error> {
        let operation = &Operation::new("mark requested deliveries as sent");
        let mut ids = ids.to_vec();
        // The order in which a recorder locks the rows.
        ids.sort();
        on_connection!(
            &self.database,
            writer,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_write).await?;
                for id in &ids {
                    bind_all!(
                        sqlx::query(MARK_SENT),
                        &[Argument::id(id.as_str()), now_ms.into()]
                    )
                    .execute(&mut *tx)
                    .await?;
                }
                tx.commit().await?;
                Ok(())
            }
        )
    }
}

/// Counts the rows of new runs.
fn added(requested: &[Requested], now_ms: u64) -> Added {
    let mut added = Added::default();
    for _ in requested
        .iter()
        .filter(|requested| matches!(requested, Requested::New(_)))
    {
        added.delivery(now_ms, None);
    }
    added
}

impl Pair {
    fn arguments(&self) -> [Argument<'_>; 3] {
        let [event, organization] = self.event_arguments();
        [event, organization, Argument::id(self.endpoint.as_str())]
    }

    fn event_arguments(&self) -> [Argument<'_>; 2] {
        [
            Argument::id(self.event.as_str()),
            Argument::id(self.organization.as_str()),
        ]
    }

    fn run_arguments<'a>(&'a self, id: &'a DeliveryId, run: u32, now_ms: u64) -> [Argument<'a>; 7] {
        let [event, organization, endpoint] = self.arguments();
        [
            id.as_str().into(),
            event,
            organization,
            endpoint,
            run.into(),
            now_ms.into(),
            mark(id).into(),
        ]
    }

    fn delivery_id(&self, run: u32) -> DeliveryId {
        DeliveryId::derive(&self.organization, &self.event, &self.endpoint, run)
    }
}

/// The latest run of a pair: its id, its number, its state, and whether it was requested.
type Latest = (DeliveryId, u32, DeliveryState, bool);

/// Returns the number of the run to request, or the answer if none is requested. Without an earlier delivery
/// it is `first_run`, or [`Refusal::Unknown`] if that is `None`.
fn next_run(latest: Option<Latest>, first_run: Option<u32>) -> Result<u32, Requested> {
    match latest {
        None => first_run.ok_or(Requested::Refused(Refusal::Unknown)),
        Some((id, _, DeliveryState::Pending, true)) => Err(Requested::Open(id)),
        Some((_, _, DeliveryState::Pending, false)) => Err(Requested::Refused(Refusal::StillPending)),
        Some((_, run, ..)) => Ok(run + 1),
    }
}

fn read_latest(row: &dyn Columns) -> Result<Latest, sqlx::Error> {
    let requested = row.maybe_number("requested_ms")?.is_some();
    let id = DeliveryId::new(row.text("id")?);
    Ok((id, row.number("run")?, super::deliveries::state(row)?, requested))
}

fn read_pair(row: &dyn Columns) -> Result<(Pair, Trigger), sqlx::Error> {
    let pair = Pair {
        organization: OrganizationId::new(row.text("organization_id")?),
        event: EventId::new(row.text("event_id")?),
        endpoint: EndpointId::new(row.text("endpoint_id")?),
    };
    Ok((pair, row.word("trigger")?))
}

fn read_claimed(row: &dyn Columns) -> Result<Claimed, sqlx::Error> {
    let id = DeliveryId::new(row.text("delivery_id")?);
    let endpoint_id = EndpointId::new(row.text("endpoint_id")?);
    let run = row.number("run")?;
    let stored = row.maybe_text("id")?.is_some();
    let delivery = stored.then(|| read_event(row).ok()).flatten();
    let delivery = delivery.map(|EventEntry { event, .. }| Delivery {
        run,
        trigger: Trigger::Resend,
        ..Delivery::first(Arc::clone(&event), endpoint_id)
    });
    Ok(Claimed {
        // The delivery that is published must have the id under which it is recorded.
        delivery: delivery.filter(|delivery| delivery.id() == id),
        id,
    })
}
