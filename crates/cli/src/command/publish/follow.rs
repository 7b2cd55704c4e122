//! The results of a published event's deliveries, read from the journal: in the database, or over the HTTP
//! API.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{anyhow, bail};
use bytes::Bytes;
use client::{Client, Error, EventHistory};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use producer::Serialized;
use serde::Serialize;
use store::Store;
use tokio::time::{Instant, sleep_until, timeout_at};
use webhook::{
    Envelope, EventId, OrganizationId,
    journal::{DeliveryState, EventEntry},
};

use crate::{
    Usage,
    configuration::{self, Configuration},
    database,
};

use super::{
    super::{arguments, validate},
    failure::Failure,
    patience::{Outage, READ_FOR},
};

/// The maximum number of events whose deliveries are read or waited for at the same time.
pub(super) const FOLLOWED_MAX: usize = 16;
/// The interval at which the journal is read at first. It doubles with each read.
const LOOK_FIRST: Duration = Duration::from_millis(100);
/// The maximum interval at which the journal is read.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// How long to wait for the API's last answer after the limit.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long to wait for a first event in the journal of an API, unless a limit is given. The API does not say
/// whether the workers write a journal.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// The fates that the journal contained before the events were published, without those of other events.
pub(super) type Before = HashMap<EventId, Fate>;

/// Waits until the deliveries of events have ended, for a limited time per event.
pub(super) struct Follower {
    journal: Journal,
    limit: Duration,
    /// How long to wait for a first event in the journal.
    silence_max: Duration,
    /// When the first event was waited for.
    began: OnceLock<Instant>,
    /// Whether an event that was waited for is in the journal.
    has_recorded: AtomicBool,
    outage: Outage,
}

/// Where the journal is read.
enum Journal {
    Database(Store),
    Api(Client),
}

/// The maximum time to wait for an event.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    /// As long as its deliveries may take.
    Schedule,
    /// This duration.
    Of(Duration),
}

/// The number of an event's deliveries in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Fate {
    delivered: u64,
    dead: u64,
    cancelled: u64,
    /// Deliveries that are pending, and matched endpoints whose delivery is not recorded yet.
    pending: u64,
    /// Whether the event, with the endpoints that it matched, is in the journal.
    recorded: bool,
    /// Whether the event was in the journal before it was published. The other fields may then be the result of
    /// the earlier publish, because the journal keeps one result for each event.
    published_before: bool,
    /// Whether the journal could not be read.
    unknown: bool,
}

impl Limit {
    /// Parses the value of `--wait`. An empty text means that no limit is given.
    pub(super) fn parse(text: &str) -> Result<Self, Usage> {
        if text.is_empty() {
            return Ok(Self::Schedule);
        }
        arguments::wait(text).map(Self::Of)
    }

    /// Returns the limit, which is `default` if none is given.
    fn or(self, default: Duration) -> Duration {
        match self {
            Self::Schedule => default,
            Self::Of(limit) => limit,
        }
    }
}

impl Follower {
    /// Opens the database, whose journal is read.
    pub(super) async fn open(configuration: &Configuration, limit: Limit) -> anyhow::Result<Self> {
        if !configuration.worker.journal {
            bail!("--wait needs the journal, but journal.enabled is false: publish without --wait");
        }
        let store = database::open(&configuration.database).await?;
        let limit = limit.or(configuration.late());
        Ok(Self::new(Journal::Database(store), limit, limit))
    }

    /// Follows events over the API. Its settings are not known here, so by default an event is waited for as
    /// long as its deliveries may take with the default settings.
    pub(super) fn over(client: Client, limit: Limit) -> Self {
        let (limit, silence_max) = match limit {
            Limit::Schedule => (configuration::late_by_default(), SILENCE_MAX),
            Limit::Of(limit) => (limit, limit),
        };
        Self::new(Journal::Api(client), limit, silence_max)
    }

    fn new(journal: Journal, limit: Duration, silence_max: Duration) -> Self {
        Self {
            journal,
            limit,
            silence_max,
            began: OnceLock::new(),
            has_recorded: AtomicBool::new(false),
            outage: Outage::default(),
        }
    }

    /// Returns what the journal contains of events that are about to be published.
    pub(super) async fn before(&self, events: &[Serialized]) -> Result<Before, Failure> {
        let looking = events.iter().map(|event| self.known(event));
        let known = stream::iter(looking).buffered(FOLLOWED_MAX);
        let known: Vec<Option<(EventId, Fate)>> = known.try_collect().await?;
        Ok(known.into_iter().flatten().collect())
    }

    /// Returns an event's id and fate; `None` if it is not in the journal, or not valid.
    async fn known(&self, event: &Serialized) -> Result<Option<(EventId, Fate)>, Failure> {
        let Ok(id) = validate::id(event.message_id.as_deref(), event.body.clone()) else {
            return Ok(None);
        };
        let fate = self.look(&id, &event.body).await?;
        self.outage.end();
        Ok(fate.recorded.then_some((id, fate)))
    }

    /// Waits until none of the event's deliveries is pending, or the limit has passed. `before` is what the journal
    /// contained before the event was published. If everything had ended then, it is returned at once, because
    /// the results of this publish are not told apart from it.
    ///
    /// # Errors
    /// Returns an error if the journal could not be read, at the latest after [`READ_FOR`].
    pub(super) async fn fate(
        &self,
        id: &EventId,
        body: &Bytes,
        before: Option<&Fate>,
    ) -> Result<Fate, Failure> {
        let published_before = before.is_some();
        if let Some(before) = before.filter(|before| before.has_ended()) {
            return Ok(Fate {
                published_before,
                ..*before
            });
        }
        let (began, mut look_every) = (Instant::now(), LOOK_FIRST);
        let deadline = began + self.limit;
        let silent_until = *self.began.get_or_init(|| began) + self.silence_max;
        let mut known = Err(Failure::lasting(anyhow!("the journal was not read in time")));
        let mut unread_since: Option<Instant> = None;
        loop {
            match timeout_at(deadline + ANSWER_MAX, self.look(id, body)).await {
                Ok(Ok(fate)) => {
                    (known, unread_since) = (Ok(fate), None);
                    self.outage.end();
                }
                Ok(Err(Failure::Away { error, after })) => {
                    let now = Instant::now();
                    let since = *unread_since.get_or_insert_with(|| self.outage.began(&error, now));
                    let failure = Failure::Away { error, after };
                    if now >= since + READ_FOR {
                        return Err(failure);
                    }
                    known = known.or(Err(failure));
                }
                Ok(Err(failure)) => return Err(failure),
                Err(_) => {}
            }
            let (fate, now) = (known.as_ref().ok(), Instant::now());
            if fate.is_some_and(|fate| fate.recorded) {
                self.has_recorded.store(true, Ordering::Relaxed);
            }
            let is_silent = now >= silent_until && !self.has_recorded.load(Ordering::Relaxed);
            if fate.is_some_and(Fate::has_ended) || now >= deadline || is_silent {
                return known.map(|fate| Fate {
                    published_before,
                    ..fate
                });
            }
            sleep_until(deadline.min(now + look_every)).await;
            look_every = LOOK_MAX.min(2 * look_every);
        }
    }

    /// Reads an event's fate. An id is unique only within an organization, which is that in the event's JSON.
    async fn look(&self, id: &EventId, body: &Bytes) -> Result<Fate, Failure> {
        let envelope = Envelope::parse(body).map_err(Failure::lasting)?;
        let organization = OrganizationId::new(envelope.organization_id);
        match &self.journal {
            Journal::Database(store) => {
                let read = in_database(store, id, &organization).await;
                read.map_err(|error| Failure::away(error, Duration::ZERO))
            }
            Journal::Api(client) => over_api(client, id, organization).await,
        }
    }

    pub(super) async fn close(self) {
        match self.journal {
            Journal::Database(store) => store.close().await,
            Journal::Api(_) => {}
        }
    }
}

async fn in_database(store: &Store, id: &EventId, organization: &OrganizationId) -> anyhow::Result<Fate> {
    let mut fate = Fate::default();
    for event in store.event(id, Some(organization)).await? {
        fate.add_stored(&event, store).await?;
    }
    Ok(fate)
}

/// Asks the API for an event. The API does not know an event that is not in the journal yet, and refuses to
/// publish one of another organization.
async fn over_api(client: &Client, id: &EventId, organization: OrganizationId) -> Result<Fate, Failure> {
    let is_unknown = |error: &Error| {
        let problem = error.problem();
        problem.is_some_and(|problem| problem.status == 404 || problem.name() == "other-organization")
    };
    // A key of the organization needs no name of it.
    let client = if Client::can_name(&organization) {
        client.for_organization(organization)
    } else {
        client.clone()
    };
    match client.get_event(id.as_str()).await {
        Ok(history) => Ok(Fate::of(&history)),
        Err(error) if is_unknown(&error) => Ok(Fate::default()),
        Err(error) => Err(error.into()),
    }
}

/// Returns the note about a published event whose fate could not be read.
pub(super) fn unread(failure: Failure) -> String {
    format!(
        "the event was published, but its deliveries are not known: {:#}",
        failure.into_error()
    )
}

impl Fate {
    /// The fate of an event about which the journal could not be read.
    pub(super) const UNKNOWN: Self = Self {
        delivered: 0,
        dead: 0,
        cancelled: 0,
        pending: 0,
        recorded: false,
        published_before: false,
        unknown: true,
    };

    async fn add_stored(&mut self, event: &EventEntry, store: &Store) -> anyhow::Result<()> {
        let (id, organization) = (&event.event.id, &event.event.organization_id);
        let deliveries = store.deliveries_of_event(organization, id).await?;
        let first_runs: Vec<_> = deliveries.iter().filter(|row| row.delivery.run == 0).collect();
        self.recorded = !event.verdicts_missing();
        for row in &first_runs {
            self.add(row.standing.state);
        }
        let matched = event.considered.matched().count();
        self.pending += matched.saturating_sub(first_runs.len()) as u64;
        Ok(())
    }

    fn of(history: &EventHistory) -> Self {
        let mut fate = Self {
            recorded: !history.verdicts_missing,
            ..Self::default()
        };
        for endpoint in &history.endpoints {
            let mut runs = endpoint.deliveries.iter().map(|run| &run.delivery);
            match runs.find(|delivery| delivery.run == 0) {
                // A state that this version does not know is not an end.
                Some(first) => fate.add(first.state.parse().unwrap_or(DeliveryState::Pending)),
                None if endpoint.verdict == "matched" => fate.pending += 1,
                None => {}
            }
        }
        fate
    }

    fn add(&mut self, state: DeliveryState) {
        match state {
            DeliveryState::Pending => self.pending += 1,
            DeliveryState::Cancelled => self.cancelled += 1,
            DeliveryState::Dead => self.dead += 1,
            DeliveryState::Delivered => self.delivered += 1,
        }
    }

    pub(super) const fn has_ended(&self) -> bool {
        self.recorded && self.pending == 0
    }

    pub(super) const fn is_unknown(&self) -> bool {
        self.unknown
    }

    pub(super) const fn was_published_before(&self) -> bool {
        self.published_before
    }

    /// Returns whether every endpoint that the event matched has received it.
    pub(super) const fn is_good(&self) -> bool {
        self.has_ended() && self.dead == 0 && self.cancelled == 0
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unknown {
            return f.write_str("unknown");
        }
        if self.published_before {
            f.write_str("published before: ")?;
        }
        if !self.recorded {
            return f.write_str("not in the journal yet");
        }
        let counts = [
            ("delivered", self.delivered),
            ("dead", self.dead),
            ("cancelled", self.cancelled),
            ("pending", self.pending),
        ];
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        let texts: Vec<_> = counts.map(|(state, count)| format!("{state} {count}")).collect();
        if texts.is_empty() {
            return f.write_str("no endpoint matched");
        }
        f.write_str(&texts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Returns an endpoint of an event's history, with the number and the state of each run.
    fn considered(verdict: &str, runs: &[(u32, &str)]) -> Value {
        let runs = runs.iter().map(|(run, state)| {
            json!({
                "id": "dlv_1",
                "organization_id": "org_1",
                "event_id": "evt_1",
                "endpoint_id": "ep_1",
                "run": run,
                "trigger": "event",
                "state": state,
                "attempt_count": 1,
                "created_ms": 1,
                "updated_ms": 1,
                "attempts": [],
            })
        });
        let runs: Vec<_> = runs.collect();
        json!({ "endpoint_id": "ep_1", "deleted": false, "verdict": verdict, "deliveries": runs })
    }

    #[test]
    fn the_first_runs_of_a_history_count_and_the_matches_without_a_run() {
        let history = json!({
            "id": "evt_1",
            "type": "lead.created",
            "organization_id": "org_1",
            "project_id": "proj_1",
            "lead_id": "lead_1",
            "timestamp_ms": 1,
            "received_ms": 1,
            "body_bytes": 2,
            "endpoints": [
                considered("matched", &[(0, "delivered")]),
                considered("matched", &[(0, "dead"), (1, "delivered")]),
                considered("matched", &[]),
                considered("disabled", &[]),
                considered("unknown", &[(0, "pending")]),
            ],
        });
        let mut history: EventHistory = serde_json::from_value(history).unwrap();
        let expected = Fate {
            delivered: 1,
            dead: 1,
            cancelled: 0,
            pending: 2,
            recorded: true,
            ..Fate::default()
        };
        assert_eq!(Fate::of(&history), expected);

        // The dead letter of one endpoint has arrived before the record of the matches.
        history.endpoints.truncate(2);
        assert!(Fate::of(&history).has_ended());
        history.verdicts_missing = true;
        assert!(!Fate::of(&history).has_ended());
    }

    #[test]
    fn a_fate_says_what_there_is_of_it() {
        let fate = Fate {
            recorded: true,
            ..Fate::default()
        };
        let mixed = Fate {
            delivered: 2,
            dead: 1,
            ..fate
        };
        let pending = Fate { pending: 1, ..mixed };
        let before = Fate {
            published_before: true,
            ..mixed
        };
        for (fate, text, is_good) in [
            (Fate::default(), "not in the journal yet", false),
            (fate, "no endpoint matched", true),
            (mixed, "delivered 2, dead 1", false),
            (pending, "delivered 2, dead 1, pending 1", false),
            (Fate { delivered: 1, ..fate }, "delivered 1", true),
            (before, "published before: delivered 2, dead 1", false),
            (Fate::UNKNOWN, "unknown", false),
        ] {
            assert_eq!((fate.to_string().as_str(), fate.is_good()), (text, is_good));
        }
        assert!(!pending.has_ended() && mixed.has_ended());
    }
}
