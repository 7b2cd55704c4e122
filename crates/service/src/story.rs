//! The whole story of an event: every endpoint that could have got it, and what became of that.
//!
//! The journal says who was considered when the event was fanned out, and why. The endpoints are as they are
//! now. Where the two differ, whoever tells the story says which of them it speaks of.

use std::collections::{BTreeMap, BTreeSet};

use store::{AttemptRow, DeliveryRow, Store};
use webhook::{
    DisabledReason, Endpoint, EndpointId, Event,
    journal::{DeliveryState, EventEntry, Verdict},
};

/// How many endpoints are read at once.
const PAGE: u32 = 500;

/// An event with all its chapters.
#[derive(Clone, Debug)]
pub struct Story {
    /// As the journal has it.
    pub stored: EventEntry,
    /// One for each endpoint: what needs someone first, then what went well, then what was not meant to
    /// happen.
    pub chapters: Vec<Chapter>,
}

/// What became of the event at one endpoint.
#[derive(Clone, Debug)]
pub struct Chapter {
    /// Which endpoint.
    pub endpoint_id: EndpointId,
    /// As it is now; `None` when it was deleted.
    pub endpoint: Option<Endpoint>,
    /// What was decided when the event was fanned out; `None` when the journal does not say.
    pub verdict: Option<Verdict>,
    /// By their number.
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

/// Why an endpoint got an event, or did not: a word of a closed set, and since when and why it was disabled,
/// if that is it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It matched.
    Matched,
    /// It was pinged.
    Pinged,
    /// It takes another project's.
    Project,
    /// It is not subscribed to the type.
    EventType,
    /// It would have matched.
    Disabled {
        /// Since when, in Unix milliseconds.
        at_ms: i64,
        /// Why.
        reason: DisabledReason,
    },
    /// It was created later.
    CreatedAfter {
        /// When, in Unix milliseconds.
        at_ms: i64,
    },
    /// The journal does not say.
    Unknown,
}

/// Reads all that belongs to an event.
///
/// # Errors
/// Only the database's.
pub async fn gather(stored: EventEntry, store: &Store) -> Result<Story, store::Error> {
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
    Ok(Story::new(stored, endpoints, runs, verdicts))
}

impl Story {
    /// Brings together what belongs to one endpoint: endpoints that exist, that were considered, and that
    /// have deliveries. `verdicts` says why endpoints that the event's record does not name did not get
    /// the event.
    pub fn new(
        stored: EventEntry,
        endpoints: Vec<Endpoint>,
        runs: Vec<Run>,
        verdicts: Vec<(EndpointId, Verdict)>,
    ) -> Self {
        let verdicts: BTreeMap<EndpointId, Verdict> = verdicts.into_iter().collect();
        // A ping was for one endpoint, and the others have no part in it.
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
        let mut chapters: Vec<Chapter> = ids
            .into_iter()
            .map(|id| {
                let mut runs = runs_of.remove(&id).unwrap_or_default();
                runs.sort_by_key(|run| run.delivery.delivery.run);
                Chapter {
                    endpoint: endpoints.remove(&id),
                    verdict: stored.considered.get(&id).or_else(|| verdicts.get(&id).copied()),
                    runs,
                    endpoint_id: id,
                }
            })
            .collect();
        chapters.sort_by_key(Chapter::place);
        Self { stored, chapters }
    }
}

impl Chapter {
    /// The state of the latest run.
    pub fn state(&self) -> Option<DeliveryState> {
        self.runs.last().map(|run| run.delivery.standing.state)
    }

    /// Why the endpoint got the event, or did not.
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
    /// For scripts.
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
