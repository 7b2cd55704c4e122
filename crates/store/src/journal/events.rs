//! Queries for events: one event with all its details, or pages of them.

use std::sync::Arc;

use webhook::{
    Event, EventId, EventKind, LeadId, OrganizationId, ProjectId,
    journal::{Considered, DeliveryState, EventEntry, Seen},
};

use super::StateCounts;
use crate::{
    Error, Operation, Store,
    columns::{Columns, undecodable},
    statement::{Argument, Statement},
};

/// A filter for events. A field that is `None` does not restrict the listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only events of this organization.
    pub organization: Option<OrganizationId>,
    /// Only events of this project.
    pub project: Option<ProjectId>,
    /// Only events about this lead.
    pub lead: Option<LeadId>,
    /// Only events of this type.
    pub event_type: Option<EventKind>,
    /// Only events received at this time or later, in Unix milliseconds.
    pub since_ms: Option<u64>,
    /// Only events received before this time, in Unix milliseconds.
    pub until_ms: Option<u64>,
    /// Only events that have a delivery in this state.
    pub state: Option<DeliveryState>,
}

/// An event in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// The event's id, unique within the organization.
    pub id: EventId,
    /// The organization that the event belongs to.
    pub organization_id: OrganizationId,
    /// The project that the event belongs to.
    pub project_id: ProjectId,
    /// The lead that the event is about.
    pub lead_id: LeadId,
    /// The event's type.
    pub event_type: EventKind,
    /// When the event happened, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// When a worker first received the event, in Unix milliseconds.
    pub received_ms: u64,
    /// The number of endpoints that the event matched.
    pub matched: u64,
    /// The event's deliveries by state, including requested runs.
    pub deliveries: StateCounts,
}

/// A position in a listing of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventCursor {
    /// When the event was received, in Unix milliseconds.
    pub received_ms: u64,
    /// The event's id, to order events received in the same millisecond.
    pub id: EventId,
    /// The event's organization, to order events with the same id.
    pub organization_id: OrganizationId,
}

impl From<&EventRow> for EventCursor {
    fn from(row: &EventRow) -> Self {
        Self {
            received_ms: row.received_ms,
            id: row.id.clone(),
            organization_id: row.organization_id.clone(),
        }
    }
}

impl EventCursor {
    pub(super) fn arguments(&self) -> [Argument<'_>; 3] {
        [
            self.received_ms.into(),
            Argument::id(self.id.as_str()),
            Argument::id(self.organization_id.as_str()),
        ]
    }
}

/// The columns that [`read_event`] reads.
macro_rules! event_columns {
    () => {
        "id, received_ms, traceparent, body, considered, seen"
    };
}
pub(super) use event_columns;

const SELECT_BY_ID: &str = concat!("SELECT ", event_columns!(), " FROM events e WHERE e.id = $1");

/// Selects the page first, and then counts the deliveries of its rows only.
const SELECT_PAGE: &str = "SELECT p.*, \
    (SELECT COUNT(*) FROM deliveries d WHERE d.event_id = p.id AND d.organization_id = p.organization_id AND d.state = 0) AS pending, \
    (SELECT COUNT(*) FROM deliveries d WHERE d.event_id = p.id AND d.organization_id = p.organization_id AND d.state = 1) AS cancelled, \
    (SELECT COUNT(*) FROM deliveries d WHERE d.event_id = p.id AND d.organization_id = p.organization_id AND d.state = 2) AS dead, \
    (SELECT COUNT(*) FROM deliveries d WHERE d.event_id = p.id AND d.organization_id = p.organization_id AND d.state = 3) AS delivered \
    FROM (SELECT id, organization_id, project_id, lead_id, event_type, timestamp_ms, received_ms, matched \
    FROM events e WHERE 1 = 1";

impl Store {
    /// Returns at most `limit` events before `before`, ordered by the time they were received, newest first.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails or a row cannot be read.
    pub async fn events(
        &self,
        filter: &EventFilter,
        before: Option<&EventCursor>,
        limit: u32,
    ) -> Result<Vec<EventRow>, Error> {
        let mut select = Statement::new(SELECT_PAGE);
        filter.narrow(&mut select);
        if let Some(before) = before {
            select.push_list(
                " AND (e.received_ms, e.id, e.organization_id) < ",
                before.arguments(),
            );
        }
        select.push_with(
            " ORDER BY e.received_ms DESC, e.id DESC, e.organization_id DESC LIMIT ",
            limit.into(),
        );
        select.push(") p ORDER BY p.received_ms DESC, p.id DESC, p.organization_id DESC");
        self.fetch_from_journal(&Operation::new("list events"), select, read_row)
            .await
    }

    /// Returns all events with this id, of one organization or of all. An id is unique only within its
    /// organization.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails or a row cannot be read.
    pub async fn event(
        &self,
        id: &EventId,
        organization: Option<&OrganizationId>,
    ) -> Result<Vec<EventEntry>, Error> {
        let mut select = Statement::with(SELECT_BY_ID, [Argument::id(id.as_str())]);
        if let Some(organization) = organization {
            let organization = Argument::id(organization.as_str());
            select.push_with(" AND e.organization_id = ", organization);
        }
        select.push(" ORDER BY e.organization_id");
        self.fetch_from_journal(&Operation::on("read event", id), select, |row| read_event(row))
            .await
    }
}

impl EventFilter {
    fn narrow<'a>(&'a self, select: &mut Statement<'a>) {
        if let Some(organization) = &self.organization {
            let organization = Argument::id(organization.as_str());
            select.push_with(" AND e.organization_id = ", organization);
        }
        if let Some(project) = &self.project {
            select.push_with(" AND e.project_id = ", Argument::id(project.as_str()));
        }
        if let Some(lead) = &self.lead {
            select.push_with(" AND e.lead_id = ", Argument::id(lead.as_str()));
        }
        if let Some(event_type) = self.event_type {
            select.push_with(" AND e.event_type = ", event_type.as_str().into());
        }
        if let Some(since_ms) = self.since_ms {
            select.push_with(" AND e.received_ms >= ", since_ms.into());
        }
        if let Some(until_ms) = self.until_ms {
            select.push_with(" AND e.received_ms < ", until_ms.into());
        }
        if let Some(state) = self.state {
            select.push(
                " AND EXISTS (SELECT 1 FROM deliveries d \
                 WHERE d.event_id = e.id AND d.organization_id = e.organization_id",
            );
            select.push(in_state(state));
            select.push(")");
        }
    }
}

/// Returns the condition that a delivery `d` is in this state. The condition lets the database use the index
/// of undelivered deliveries: it contains the state as a constant, and it repeats the condition of the index,
/// which SQLite does not infer.
pub(super) const fn in_state(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Pending => " AND d.state = 0 AND d.state <> 3",
        DeliveryState::Cancelled => " AND d.state = 1 AND d.state <> 3",
        DeliveryState::Dead => " AND d.state = 2 AND d.state <> 3",
        DeliveryState::Delivered => " AND d.state = 3",
    }
}

/// Reads the columns of [`event_columns!`]. The fields that the event's body contains are parsed from the
/// body.
pub(super) fn read_event(row: &dyn Columns) -> Result<EventEntry, sqlx::Error> {
    let id = row.text("id")?;
    let event = Event::from_delivery(
        Some(&id),
        row.maybe_text("traceparent")?,
        row.bytes("body")?.into(),
    );
    Ok(EventEntry {
        event: event.map(Arc::new).map_err(|error| undecodable("body", error))?,
        received_ms: row.number("received_ms")?,
        considered: row.word::<Considered>("considered")?,
        seen: read_seen(row)?,
    })
}

/// Reads the position of the registry, which is empty in rows of older versions.
fn read_seen(row: &dyn Columns) -> Result<Option<Seen>, sqlx::Error> {
    let seen = row.text("seen")?;
    let seen = (!seen.is_empty()).then(|| seen.parse());
    seen.transpose().map_err(|error| undecodable("seen", error))
}

fn read_row(row: &dyn Columns) -> Result<EventRow, sqlx::Error> {
    Ok(EventRow {
        id: EventId::new(row.text("id")?),
        organization_id: OrganizationId::new(row.text("organization_id")?),
        project_id: ProjectId::new(row.text("project_id")?),
        lead_id: LeadId::new(row.text("lead_id")?),
        event_type: row.word("event_type")?,
        timestamp_ms: row.number("timestamp_ms")?,
        received_ms: row.number("received_ms")?,
        matched: row.number("matched")?,
        deliveries: StateCounts {
            pending: row.number("pending")?,
            cancelled: row.number("cancelled")?,
            dead: row.number("dead")?,
            delivered: row.number("delivered")?,
        },
    })
}
