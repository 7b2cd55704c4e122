//! Collects the history of an event: every endpoint that could have received it, and what happened there.
//!
//! The journal records which endpoints were considered when the event was fanned out, and the decisions. The
//! endpoints are read in their current state. Where the two differ, the caller has to say which of them it
//! shows.

use std::collections::{BTreeMap, BTreeSet};

use store::{AttemptRow, DeliveryRow, Store};
use webhook::{
    DisabledReason, Endpoint, EndpointId, Event,
    journal::{DeliveryState, EventEntry, Verdict},
};

/// The number of endpoints that are read at once.
const PAGE: u32 = 500;

/// An event with its history at each endpoint.
#[derive(Clone, Debug)]
pub struct EventHistory {
    /// The event as stored in the journal.
    pub stored: EventEntry,
    /// One entry for each endpoint. The order is: what needs attention, then successful deliveries, then
    /// endpoints that did not match.
    pub endpoints: Vec<EndpointHistory>,
}

/// The history of an event at one endpoint.
#[derive(Clone, Debug)]
pub struct EndpointHistory {
    /// The endpoint's id.
    pub endpoint_id: EndpointId,
    /// The endpoint in its current state; `None` if it was deleted.
    pub endpoint: Option<Endpoint>,
    /// The decision when the event was fanned out; `None` if the journal does not have it.
    pub verdict: Option<Verdict>,
    /// The runs, ordered by number.
    pub runs: Vec<Run>,
}

/// A delivery with its attempts, in the order in which they began.
#[derive(Clone, Debug)]
pub struct Run {
    /// The delivery.
    pub delivery: DeliveryRow,
    /// Its attempts.
    pub attempts: Vec<AttemptRow>,
}

/// Why an endpoint received an event or did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The event matched.
    Matched,
    /// The endpoint was pinged.
    Pinged,
    /// The endpoint receives only the events of another project.
    Project,
    /// The endpoint is not subscribed to the event type.
    EventType,
    /// The event would have matched, but the endpoint was disabled.
    Disabled {
        /// When the endpoint was disabled, in Unix milliseconds.
        at_ms: i64,
        /// Why the endpoint was disabled.
        reason: DisabledReason,
    },
    /// The endpoint was created after the event.
    CreatedAfter {
        /// When the endpoint was created, in Unix milliseconds.
        at_ms: i64,
    },
    /// The journal does not have the reason.
    Unknown,
}

/// Reads everything that belongs to an event.
///
/// # Errors
/// Returns an error if the database operation fails.
pub async fn gather(stored: EventEntry, store: &Store) -> Result<EventHistory, store::Error> {
    let Event {
        organization_id, id, ..
    } = &*stored.event;
    let (mut endpoints, mut after) = (Vec::new(), None::<EndpointId>);
    loop {
        let page = store
            .list_endpoints(Some(organization_id), after.as_ref(), PAGE)
            .await?;
        let is_last = page.len() < PAGE as usize;
        endpoints.extend(page);
        after = endpoints.last().map(|endpoint| endpoint.id.clone());
        if is_last {
            break;
        }
    }
    let mut runs = Vec::new();
    for delivery in store.deliveries_of_event(organization_id, id).await? {
        let attempts = store.attempts(&delivery.id).await?;
        runs.push(Run { delivery, attempts });
    }
    let verdicts = store.verdicts(&stored).await?;
    Ok(EventHistory::new(stored, endpoints, runs, verdicts))
}

impl EventHistory {
    /// Combines what belongs to each endpoint, for endpoints that exist, were considered, or have deliveries.
    ///
    /// `verdicts` has the reasons why endpoints that the event's record does not list did not receive the
    /// event.
    pub fn new(
        stored: EventEntry,
        endpoints: Vec<Endpoint>,
        runs: Vec<Run>,
        verdicts: Vec<(EndpointId, Verdict)>,
    ) -> Self {
        let verdicts: BTreeMap<EndpointId, Verdict> = verdicts.into_iter().collect();
        // A ping concerns only the endpoint that was pinged.
        let concerned =
            |endpoint: &Endpoint| !stored.event.is_ping() || stored.considered.get(&endpoint.id).is_some();
        let mut endpoints: BTreeMap<EndpointId, Endpoint> = endpoints
            .into_iter()
            .filter(concerned)
            .map(|endpoint| (endpoint.id.clone(), endpoint))
            .collect();
        let mut runs_of: BTreeMap<EndpointId, Vec<Run>> = BTreeMap::new();
        for run in runs {
            let endpoint_id = run.delivery.delivery.endpoint_id.clone();
            runs_of.entry(endpoint_id).or_default().push(run);
        }
        let considered = stored.considered.iter().map(|(endpoint_id, _)| endpoint_id);
        let ids: BTreeSet<EndpointId> = considered
            .chain(verdicts.keys())
            .chain(endpoints.keys())
            .chain(runs_of.keys())
            .cloned()
            .collect();
        let mut histories: Vec<EndpointHistory> = ids
            .into_iter()
            .map(|id| {
                let mut runs = runs_of.remove(&id).unwrap_or_default();
                runs.sort_by_key(|run| run.delivery.delivery.run);
                EndpointHistory {
                    endpoint: endpoints.remove(&id),
                    verdict: stored.considered.get(&id).or_else(|| verdicts.get(&id).copied()),
                    runs,
                    endpoint_id: id,
                }
            })
            .collect();
        histories.sort_by_key(EndpointHistory::place);
        Self {
            stored,
            endpoints: histories,
        }
    }

    /// Returns whether the record that says which endpoints the event matched is missing: it was lost, or has
    /// not arrived yet.
    pub fn verdicts_missing(&self) -> bool {
        self.stored.verdicts_missing()
    }
}

impl EndpointHistory {
    /// Returns the state of the latest run; `None` without runs.
    pub fn state(&self) -> Option<DeliveryState> {
        self.runs.last().map(|run| run.delivery.standing.state)
    }

    /// Returns why the endpoint received the event or did not.
    pub fn fate(&self, stored: &EventEntry) -> Fate {
        match self.verdict {
            Some(Verdict::Matched) if stored.event.is_ping() => Fate::Pinged,
            Some(Verdict::Matched) => Fate::Matched,
            Some(Verdict::Project) => Fate::Project,
            Some(Verdict::EventType) => Fate::EventType,
            Some(Verdict::Disabled { at_ms, reason }) => Fate::Disabled { at_ms, reason },
            None => match &self.endpoint {
                Some(endpoint) if is_newer(endpoint, stored) => Fate::CreatedAfter {
                    at_ms: endpoint.created_at_ms,
                },
                _ => Fate::Unknown,
            },
        }
    }

    fn place(&self) -> u8 {
        match (self.state(), self.verdict) {
            (Some(DeliveryState::Dead), _) => 0,
            (None, Some(Verdict::Matched)) => 1,
            (Some(DeliveryState::Pending), _) => 2,
            (Some(DeliveryState::Cancelled), _) => 3,
            (Some(DeliveryState::Delivered), _) => 4,
            (None, Some(Verdict::Disabled { .. })) => 5,
            (None, None) => 6,
            (None, Some(Verdict::EventType)) => 7,
            (None, Some(Verdict::Project)) => 8,
        }
    }
}

impl Fate {
    /// Returns the name for use in scripts.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::Pinged => "pinged",
            Self::Project => "project",
            Self::EventType => "event_type",
            Self::Disabled { .. } => "disabled",
            Self::CreatedAfter { .. } => "created_after",
            Self::Unknown => "unknown",
        }
    }
}

fn is_newer(endpoint: &Endpoint, stored: &EventEntry) -> bool {
    u64::try_from(endpoint.created_at_ms).is_ok_and(|created_ms| created_ms > stored.received_ms)
}
