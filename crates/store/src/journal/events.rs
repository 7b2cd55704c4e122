//! Events: one with all that is known of it, or pages of them.

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

/// Which events to list; `None` stands for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Of one organization.
    pub organization: Option<OrganizationId>,
    /// Of one project.
    pub project: Option<ProjectId>,
    /// About one lead.
    pub lead: Option<LeadId>,
    /// Of one type.
    pub event_type: Option<EventKind>,
    /// Received at this time or later, in Unix milliseconds.
    pub since_ms: Option<u64>,
    /// Received before this time, in Unix milliseconds.
    pub until_ms: Option<u64>,
    /// With a delivery in this state.
    pub state: Option<DeliveryState>,
}

/// An event in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// Unique within the organization.
    pub id: EventId,
    /// Whose event it is.
    pub organization_id: OrganizationId,
    /// In which project.
    pub project_id: ProjectId,
    /// About which lead.
    pub lead_id: LeadId,
    /// What happened.
    pub event_type: EventKind,
    /// When it happened, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// When a worker first took it, in Unix milliseconds.
    pub received_ms: u64,
    /// How many endpoints it matched.
    pub matched: u64,
    /// Its deliveries, resends included, by their states.
    pub deliveries: StateCounts,
}

/// A place in a listing of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventCursor {
    /// In Unix milliseconds.
    pub received_ms: u64,
    /// Of events received in the same millisecond.
    pub id: EventId,
    /// Of events with the same id.
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

/// The page first, then the counts: of its rows alone.
const SELECT_PAGE: &str = "SELECT p.*, \
    (SELECT COUNT(*) FROM deliveries d WHERE d.event_id = p.id AND d.organization_id = p.organization_id AND d.state = 0) AS pending, \
    (SELECT COUNT(*) FROM deliveries d WHERE d.event_id = p.id AND d.organization_id = p.organization_id AND d.state = 1) AS cancelled, \
    (SELECT COUNT(*) FROM deliveries d WHERE d.event_id = p.id AND d.organization_id = p.organization_id AND d.state = 2) AS dead, \
    (SELECT COUNT(*) FROM deliveries d WHERE d.event_id = p.id AND d.organization_id = p.organization_id AND d.state = 3) AS delivered \
    FROM (SELECT id, organization_id, project_id, lead_id, event_type, timestamp_ms, received_ms, matched \
    FROM events e WHERE 1 = 1";

impl Store {
    /// The next at most `limit` events before `before`, newest first, by the time when they were received.
    ///
    /// # Errors
    ///
    /// Only the database's.
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
        self.fetch_from_journal(&Operation::ListEvents, select, read_row)
            .await
    }

    /// All events with this id, of one organization or of all: an id is unique within its organization only.
    ///
    /// # Errors
    ///
    /// Only the database's, and that a row cannot be read.
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
        self.fetch_from_journal(&Operation::ReadEvent(id.clone()), select, |row| read_event(row))
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

/// That a delivery `d` is in this state, in words that let the index of those that are not delivered be used:
/// as a constant, and with the index's own condition, which SQLite does not conclude.
pub(super) const fn in_state(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Pending => " AND d.state = 0 AND d.state <> 3",
        DeliveryState::Cancelled => " AND d.state = 1 AND d.state <> 3",
        DeliveryState::Dead => " AND d.state = 2 AND d.state <> 3",
        DeliveryState::Delivered => " AND d.state = 3",
    }
}

/// Reads the columns of [`event_columns!`]. What the event's body says is read from it again.
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
