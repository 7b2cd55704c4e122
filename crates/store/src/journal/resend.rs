//! Runs that somebody asks for: requested, claimed, sent.

use std::sync::Arc;

use sqlx::Connection as _;
use webhook::{
    Delivery, DeliveryId, EndpointId, EventId, OrganizationId, Trigger,
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

/// What became of a request to send again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requested {
    /// A new run is to be sent.
    New(DeliveryId),
    /// This run was requested before and is still pending: no second one is.
    Open(DeliveryId),
    /// Nothing is to be sent.
    Refused(Refusal),
}

/// Why a delivery is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such delivery.
    #[error("it is unknown")]
    Unknown,
    /// Its attempts are not over.
    #[error("it is still pending")]
    StillPending,
    /// The event is gone, and with it what is to be sent.
    #[error("its event is not stored any more")]
    EventMissing,
    /// A ping asks what is now.
    #[error("it is a ping, which is not sent again")]
    Ping,
}

/// A requested run that is to be published now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Its id, to be marked as sent.
    pub id: DeliveryId,
    /// What to publish; `None` when the event is gone or cannot be read, so that it cannot be sent.
    pub delivery: Option<Delivery>,
}

/// An event at an endpoint.
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

/// Nothing when somebody else requested a run of it a moment ago.
const INSERT_RUN: &str = "INSERT INTO deliveries (id, event_id, organization_id, endpoint_id, run, trigger, state, attempts, \
    updated_ms, next_ms, reason, last_status, last_error, created_ms, requested_ms, mark, recorded) \
    VALUES ($1, $2, $3, $4, $5, 'resend', 0, 0, $6, $6, '', 0, '', $6, $6, $7, 0) ON CONFLICT DO NOTHING";

/// A run that a worker has recorded something of was sent, whether it is marked or not.
const SELECT_UNSENT: &str = "SELECT d.id AS delivery_id, d.endpoint_id, d.run, e.id, e.received_ms, e.traceparent, e.body, \
    e.considered, e.seen FROM deliveries d LEFT JOIN events e ON e.id = d.event_id AND e.organization_id = d.organization_id \
    WHERE d.requested_ms IS NOT NULL AND d.sent_ms IS NULL AND d.state = 0 AND d.attempts = 0 \
    AND d.updated_ms <= d.requested_ms AND (d.claimed_until_ms IS NULL OR d.claimed_until_ms < $1)";

const CLAIM: &str = "UPDATE deliveries SET claimed_until_ms = $2 WHERE id = $1";

/// A run that no worker has recorded anything of is due from now on.
const MARK_SENT: &str = "UPDATE deliveries SET sent_ms = $2, \
    updated_ms = CASE WHEN state = 0 AND attempts = 0 AND updated_ms < $2 THEN $2 ELSE updated_ms END, \
    next_ms = CASE WHEN state = 0 AND attempts = 0 AND updated_ms < $2 THEN $2 ELSE next_ms END \
    WHERE id = $1 AND requested_ms IS NOT NULL AND sent_ms IS NULL";

/// How often a request looks again when another one was in its way. That one has then committed, and is seen.
const REQUEST_TRIES: u32 = 3;

/// Requests a run of one pair; steps of an [`on_connection!`].
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

impl Store {
    /// Asks for each of the deliveries to be made again, in one transaction: a new run after the latest one
    /// of the same event and endpoint, unless that one is still pending. Returns what became of each, in
    /// the order given; asking twice gives one run. Meant for some hundreds at a time.
    ///
    /// # Errors
    ///
    /// Only the database's; nothing was requested then.
    pub async fn request_resends(&self, ids: &[DeliveryId], now_ms: u64) -> Result<Vec<Requested>, Error> {
        let operation = &Operation::RequestRuns;
        on_connection!(
            &self.database,
            writer,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_write).await?;
                let mut requested = Vec::with_capacity(ids.len());
                for id in ids {
                    let pair = bind_all!(sqlx::query(SELECT_PAIR), &[Argument::id(id.as_str())])
                        .try_map(|row| read_pair(&row))
                        .fetch_optional(&mut *tx)
                        .await?;
                    requested.push(match pair {
                        None => Requested::Refused(Refusal::Unknown),
                        Some((_, Trigger::Ping)) => Requested::Refused(Refusal::Ping),
                        Some((pair, _)) => request!(tx, &pair, None, now_ms),
                    });
                }
                let added = added(&requested, now_ms);
                add_totals!(tx, added, self.shard);
                tx.commit().await?;
                Ok(requested)
            }
        )
    }

    /// Asks for what an endpoint missed to be delivered after all; otherwise like [`Store::request_resends`].
    /// An event that the endpoint never had a delivery of gets run 1.
    ///
    /// # Errors
    ///
    /// Only the database's; nothing was requested then.
    pub async fn request_recoveries(
        &self,
        endpoint: &EndpointId,
        missed: &[Recoverable],
        now_ms: u64,
    ) -> Result<Vec<Requested>, Error> {
        let operation = &Operation::RequestRuns;
        on_connection!(
            &self.database,
            writer,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_write).await?;
                let mut requested = Vec::with_capacity(missed.len());
                for recoverable in missed {
                    let pair = Pair {
                        organization: recoverable.organization_id.clone(),
                        event: recoverable.event_id.clone(),
                        endpoint: endpoint.clone(),
                    };
                    requested.push(request!(tx, &pair, Some(1), now_ms));
                }
                let added = added(&requested, now_ms);
                add_totals!(tx, added, self.shard);
                tx.commit().await?;
                Ok(requested)
            }
        )
    }

    /// Takes the next at most `limit` requested runs that were not sent, those of the oldest events first,
    /// for whoever calls: for `claim_ms` milliseconds nobody else gets them. Of one endpoint, of these
    /// ids, or all.
    ///
    /// Every one comes with its event's body, which has up to 256 KiB: mind `limit`.
    ///
    /// # Errors
    ///
    /// Only the database's; nothing was claimed then.
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
        let operation = &Operation::ClaimRequested;
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
    /// Only the database's; none is marked then, and they will be claimed again when the claim is over.
    pub async fn mark_sent(&self, ids: &[DeliveryId], now_ms: u64) -> Result<(), Error> {
        let operation = &Operation::MarkSent;
        let mut ids = ids.to_vec();
        // As a recorder locks them.
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

/// The run that a request gets, or the answer that there will be none. Without a delivery it is the first
/// one, if there is one.
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
        // Whatever is published under this id must be what is recorded under it.
        delivery: delivery.filter(|delivery| delivery.id() == id),
        id,
    })
}
