//! Queries for deliveries: one delivery, those of an event, or pages of them.

use webhook::{
    DeliveryId, EndpointId, EventId, OrganizationId,
    journal::{DeliveryRef, DeliveryState, Standing},
};

use super::events::in_state;
use crate::{
    Error, Operation, Store,
    columns::{Columns, undecodable},
    statement::{Argument, Statement},
};

/// A filter for deliveries. A field that is `None` does not restrict the listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// Only deliveries of this organization.
    pub organization: Option<OrganizationId>,
    /// Only deliveries to this endpoint.
    pub endpoint: Option<EndpointId>,
    /// Only deliveries of this event.
    pub event: Option<EventId>,
    /// Only deliveries in this state.
    pub state: Option<DeliveryState>,
    /// Only deliveries created at this time or later, in Unix milliseconds.
    pub since_ms: Option<u64>,
    /// Only deliveries created before this time, in Unix milliseconds.
    pub until_ms: Option<u64>,
}

/// A delivery as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRow {
    /// The delivery's id.
    pub id: DeliveryId,
    /// The event, the endpoint and the run.
    pub delivery: DeliveryRef,
    /// When the delivery was created, in Unix milliseconds: the earliest time that any record gives.
    pub created_ms: u64,
    /// The furthest standing that any record gives.
    pub standing: Standing,
    /// When this run was requested, in Unix milliseconds; `None` for a run that was not requested.
    pub requested_ms: Option<u64>,
    /// When the requested run was published, in Unix milliseconds; `None` if it was not requested or not
    /// published yet.
    pub sent_ms: Option<u64>,
}

/// A position in a listing of deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryCursor {
    /// When the delivery was created, in Unix milliseconds.
    pub created_ms: u64,
    /// The delivery's id, to order deliveries created in the same millisecond.
    pub id: DeliveryId,
}

impl From<&DeliveryRow> for DeliveryCursor {
    fn from(row: &DeliveryRow) -> Self {
        Self {
            created_ms: row.created_ms,
            id: row.id.clone(),
        }
    }
}

/// Selects the columns that [`read`] reads, from deliveries `d`.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT d.id, d.organization_id, d.event_id, d.endpoint_id, d.run, d.trigger, d.state, d.attempts, d.updated_ms, \
             d.next_ms, d.reason, d.last_status, d.last_error, d.created_ms, d.requested_ms, d.sent_ms FROM deliveries d WHERE ",
            $rest
        )
    };
}

impl Store {
    /// Returns one delivery, or `None` if it is unknown.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails or the row cannot be read.
    pub async fn delivery(&self, id: &DeliveryId) -> Result<Option<DeliveryRow>, Error> {
        let select = Statement::with(select!("d.id = $1"), [Argument::id(id.as_str())]);
        let rows = self
            .fetch_from_journal(&Operation::on("read delivery", id), select, read)
            .await?;
        Ok(rows.into_iter().next())
    }

    /// Returns all deliveries of an event, ordered by endpoint and run.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails or a row cannot be read.
    pub async fn deliveries_of_event(
        &self,
        organization: &OrganizationId,
        event: &EventId,
    ) -> Result<Vec<DeliveryRow>, Error> {
        let select = Statement::with(
            select!("d.event_id = $1 AND d.organization_id = $2 ORDER BY d.endpoint_id, d.run"),
            [Argument::id(event.as_str()), Argument::id(organization.as_str())],
        );
        self.fetch_from_journal(&Operation::on("read event", event), select, read)
            .await
    }

    /// Returns at most `limit` deliveries before `before`, ordered by the time they were created, newest
    /// first.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails or a row cannot be read.
    pub async fn deliveries(
        &self,
        filter: &DeliveryFilter,
        before: Option<&DeliveryCursor>,
        limit: u32,
    ) -> Result<Vec<DeliveryRow>, Error> {
        let mut select = Statement::new(select!("1 = 1"));
        filter.narrow(&mut select);
        if let Some(before) = before {
            let before = [before.created_ms.into(), Argument::id(before.id.as_str())];
            select.push_list(" AND (d.created_ms, d.id) < ", before);
        }
        select.push_with(" ORDER BY d.created_ms DESC, d.id DESC LIMIT ", limit.into());
        self.fetch_from_journal(&Operation::new("list deliveries"), select, read)
            .await
    }
}

impl DeliveryFilter {
    fn narrow<'a>(&'a self, select: &mut Statement<'a>) {
        if let Some(organization) = &self.organization {
            let organization = Argument::id(organization.as_str());
            select.push_with(" AND d.organization_id = ", organization);
        }
        if let Some(endpoint) = &self.endpoint {
            select.push_with(" AND d.endpoint_id = ", Argument::id(endpoint.as_str()));
        }
        if let Some(event) = &self.event {
            select.push_with(" AND d.event_id = ", Argument::id(event.as_str()));
        }
        if let Some(state) = self.state {
            select.push(in_state(state));
        }
        if let Some(since_ms) = self.since_ms {
            select.push_with(" AND d.created_ms >= ", since_ms.into());
        }
        if let Some(until_ms) = self.until_ms {
            select.push_with(" AND d.created_ms < ", until_ms.into());
        }
    }
}

fn read(row: &dyn Columns) -> Result<DeliveryRow, sqlx::Error> {
    Ok(DeliveryRow {
        id: DeliveryId::new(row.text("id")?),
        delivery: DeliveryRef {
            organization_id: OrganizationId::new(row.text("organization_id")?),
            event_id: EventId::new(row.text("event_id")?),
            endpoint_id: EndpointId::new(row.text("endpoint_id")?),
            run: row.number("run")?,
            trigger: row.word("trigger")?,
        },
        created_ms: row.number("created_ms")?,
        standing: Standing {
            state: state(row)?,
            attempts: row.number("attempts")?,
            updated_ms: row.number("updated_ms")?,
            next_ms: row.number("next_ms")?,
            reason: row.text("reason")?,
            last_status: row.number("last_status")?,
            last_error: row.text("last_error")?,
        },
        requested_ms: row.maybe_number("requested_ms")?,
        sent_ms: row.maybe_number("sent_ms")?,
    })
}

/// Reads the column `state`.
pub(super) fn state(row: &dyn Columns) -> Result<DeliveryState, sqlx::Error> {
    let rank = row.integer("state")?;
    let known = DeliveryState::ALL
        .iter()
        .copied()
        .find(|state| state.rank() == rank);
    known.ok_or_else(|| undecodable("state", format!("unknown state {rank}")))
}
