//! Events that an endpoint did not receive and can still receive.

use webhook::{
    DeliveryId, Endpoint, EndpointId, EventId, EventType, OrganizationId, ProjectId, Subscription,
};

use super::{events::EventCursor, history::Taken};
use crate::{
    Error, Operation, Store,
    columns::Columns,
    statement::{Argument, Statement},
};

/// The events that an endpoint is to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoverState {
    /// Events whose latest delivery is dead.
    Dead,
    /// Events that match but were never delivered, because the endpoint was disabled or because the worker
    /// did not know its current state.
    Missed,
    /// Both.
    All,
}

/// An event that an endpoint did not receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recoverable {
    /// The organization that the event belongs to.
    pub organization_id: OrganizationId,
    /// The event's id.
    pub event_id: EventId,
    /// The event's type.
    pub event_type: EventType,
    /// When a worker first received the event, in Unix milliseconds.
    pub received_ms: u64,
    /// The latest delivery, which is dead; `None` if there never was one.
    pub dead: Option<DeliveryId>,
}

impl From<&Recoverable> for EventCursor {
    fn from(recoverable: &Recoverable) -> Self {
        Self {
            received_ms: recoverable.received_ms,
            id: recoverable.event_id.clone(),
            organization_id: recoverable.organization_id.clone(),
        }
    }
}

/// Selects every event of the organization except pings, with its latest delivery to the endpoint.
const SELECT: &str = "SELECT e.organization_id, e.id, e.event_type, e.received_ms, d.id AS dead FROM events e \
    LEFT JOIN deliveries d ON d.event_id = e.id AND d.organization_id = e.organization_id AND d.endpoint_id = $1 \
    AND NOT EXISTS (SELECT 1 FROM deliveries later WHERE later.event_id = d.event_id \
    AND later.organization_id = d.organization_id AND later.endpoint_id = d.endpoint_id AND later.run > d.run) \
    WHERE e.organization_id = $2 AND e.received_ms >= $3 AND e.received_ms < $4 AND e.event_type <> 'webhook.ping'";

impl Store {
    /// Returns at most `limit` events after `after`, oldest first, that were received at `since_ms` or later
    /// and before `until_ms` and that the endpoint can still receive.
    ///
    /// An event was missed if it matches the endpoint's current project and subscription and one of these is
    /// true:
    ///
    /// - The endpoint was disabled when the event was received.
    /// - The worker that received the event did not know the endpoint or its latest change, although the
    ///   endpoint took such events at that time.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn recoverable(
        &self,
        endpoint: &Endpoint,
        since_ms: u64,
        until_ms: u64,
        state: RecoverState,
        after: Option<&EventCursor>,
        limit: u32,
    ) -> Result<Vec<Recoverable>, Error> {
        let mut select = Statement::with(
            SELECT,
            [
                Argument::id(endpoint.id.as_str()),
                Argument::id(endpoint.organization_id.as_str()),
                since_ms.into(),
                until_ms.into(),
            ],
        );
        let taken = match state {
            RecoverState::Dead => Vec::new(),
            RecoverState::Missed | RecoverState::All => self.taken_by(endpoint).await?,
        };
        let taken: Vec<_> = taken
            .iter()
            .filter(|taken| taken.is_within(since_ms, until_ms))
            .collect();
        match state {
            RecoverState::Dead => select.push(" AND d.state = 2"),
            RecoverState::Missed => push_missed(&mut select, " AND ", endpoint, &taken),
            RecoverState::All => {
                select.push(" AND (d.state = 2 OR ");
                push_missed(&mut select, "", endpoint, &taken);
                select.push(")");
            }
        }
        if let Some(after) = after {
            let after = [after.received_ms.into(), Argument::id(after.id.as_str())];
            select.push_list(" AND (e.received_ms, e.id) > ", after);
        }
        select.push_with(" ORDER BY e.received_ms, e.id LIMIT ", limit.into());
        let operation = Operation::on("find the events missed by endpoint", &endpoint.id);
        self.fetch_from_journal(&operation, select, read).await
    }
}

fn push_missed<'a>(
    select: &mut Statement<'a>,
    and: &'static str,
    endpoint: &'a Endpoint,
    taken: &[&'a Taken],
) {
    select.push(and);
    select.push("(d.id IS NULL");
    push_match(select, endpoint.project_id.as_ref(), &endpoint.subscription);
    select.push(" AND (");
    push_verdict(select, "", endpoint, ":disabled.%");
    for taken in taken {
        push_unknown(select, endpoint, taken);
    }
    select.push("))");
}

/// Adds the condition that an event `e` is of the project and has a subscribed type.
fn push_match<'a>(select: &mut Statement<'a>, project: Option<&'a ProjectId>, subscription: &Subscription) {
    if let Some(project) = project {
        select.push_with(" AND e.project_id = ", Argument::id(project.as_str()));
    }
    let wanted = EventType::ALL.into_iter();
    let wanted = wanted.filter(|event_type| subscription.matches(*event_type));
    select.push_list(
        " AND e.event_type IN ",
        wanted.map(|event_type| event_type.as_str().into()),
    );
}

/// Adds the condition that the event was received while the endpoint took such events, and that the worker
/// did not know this: its record does not name the endpoint, or names it as one that does not take the event.
/// A record of this version also does not name an endpoint that the worker knew as disabled; a record of an
/// older version does. An event that is known only from a dead letter has no such record and does not count.
fn push_unknown<'a>(select: &mut Statement<'a>, endpoint: &'a Endpoint, taken: &'a Taken) {
    select.push_with(" OR (e.received_ms >= ", taken.from_ms.into());
    if let Some(until_ms) = taken.until_ms {
        select.push_with(" AND e.received_ms < ", until_ms.into());
    }
    push_match(select, taken.project_id.as_ref(), &taken.subscription);
    select.push(" AND (");
    push_verdict(select, "", endpoint, ":event!_type%");
    push_verdict(select, " OR ", endpoint, ":project%");
    push_verdict(select, " OR (NOT ", endpoint, ":%");
    select.push(
        " AND NOT (e.considered = '' AND e.seen = '' AND EXISTS (SELECT 1 FROM deliveries first WHERE first.event_id = e.id \
         AND first.organization_id = e.organization_id AND first.run = 0)))))",
    );
}

/// Adds the condition that the text of [`Considered`](webhook::journal::Considered) contains the endpoint
/// with such a verdict, as a word after a space.
fn push_verdict(
    select: &mut Statement<'_>,
    before: &'static str,
    endpoint: &Endpoint,
    verdict: &'static str,
) {
    select.push(before);
    select.push_with(
        "((' ' || e.considered) LIKE ",
        pattern(&endpoint.id, verdict).into(),
    );
    select.push(" ESCAPE '!')");
}

/// Returns the LIKE pattern for an endpoint with a verdict; `verdict` is already a pattern.
fn pattern(endpoint: &EndpointId, verdict: &str) -> String {
    let mut id = String::new();
    for character in endpoint.as_str().chars() {
        if matches!(character, '%' | '_' | '!') {
            id.push('!');
        }
        id.push(character);
    }
    format!("% {id}{verdict}")
}

fn read(row: &dyn Columns) -> Result<Recoverable, sqlx::Error> {
    Ok(Recoverable {
        organization_id: OrganizationId::new(row.text("organization_id")?),
        event_id: EventId::new(row.text("id")?),
        event_type: row.word("event_type")?,
        received_ms: row.number("received_ms")?,
        dead: row.maybe_text("dead")?.map(DeliveryId::new),
    })
}
