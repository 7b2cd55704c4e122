//! The results of a published event's deliveries, read from the journal: in the database, or over the HTTP
//! API.

use std::{fmt, time::Duration};

use anyhow::bail;
use bytes::Bytes;
use client::{Client, Error, EventHistory};
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
    database, remote,
};

use super::super::arguments;

/// The interval at which the journal is read at first. It doubles with each read.
const LOOK_FIRST: Duration = Duration::from_millis(100);
/// The maximum interval at which the journal is read.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// How long to wait for the API's last answer after the limit.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Waits until the deliveries of events have ended, for a limited time per event.
pub(super) struct Follower {
    journal: Journal,
    limit: Duration,
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
    /// Whether the event is in the journal.
    recorded: bool,
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
        Ok(Self {
            journal: Journal::Database(store),
            limit: limit.or(configuration.late()),
        })
    }

    /// Follows events over the API. Its settings are not known here, so by default an event is waited for as
    /// long as its deliveries may take with the default settings.
    pub(super) fn over(client: Client, limit: Limit) -> Self {
        Self {
            journal: Journal::Api(client),
            limit: limit.or(configuration::late_by_default()),
        }
    }

    /// Waits until none of the event's deliveries is pending, or the limit has passed. An id is unique only
    /// within an organization, which is that in the event's JSON.
    pub(super) async fn fate(&self, id: &EventId, body: &Bytes) -> anyhow::Result<Fate> {
        let envelope = Envelope::parse(body)?;
        let organization = OrganizationId::new(envelope.organization_id);
        let (deadline, mut look_every) = (Instant::now() + self.limit, LOOK_FIRST);
        let mut fate = Fate::default();
        loop {
            match &self.journal {
                Journal::Database(store) => fate = in_database(store, id, &organization).await?,
                Journal::Api(client) => {
                    let client = client.for_organization(organization.clone());
                    let asked = timeout_at(deadline + ANSWER_MAX, over_api(&client, id)).await;
                    fate = asked.unwrap_or(Ok(None))?.unwrap_or(fate);
                }
            }
            let now = Instant::now();
            if fate.has_ended() || now >= deadline {
                return Ok(fate);
            }
            sleep_until(deadline.min(now + look_every)).await;
            look_every = LOOK_MAX.min(2 * look_every);
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

/// Asks the API for an event. Returns `None` if the API is away, or does not know the event, because it is not
/// in the journal yet.
async fn over_api(client: &Client, id: &EventId) -> anyhow::Result<Option<Fate>> {
    let is_unknown = |error: &Error| error.problem().is_some_and(|problem| problem.status == 404);
    match client.get_event(id.as_str()).await {
        Ok(history) => Ok(Some(Fate::of(&history))),
        Err(error) if error.is_transient() || is_unknown(&error) => Ok(None),
        Err(error) => Err(remote::told(error)),
    }
}

impl Fate {
    async fn add_stored(&mut self, event: &EventEntry, store: &Store) -> anyhow::Result<()> {
        let (id, organization) = (&event.event.id, &event.event.organization_id);
        let deliveries = store.deliveries_of_event(organization, id).await?;
        let first_runs: Vec<_> = deliveries.iter().filter(|row| row.delivery.run == 0).collect();
        self.recorded = true;
        for row in &first_runs {
            self.add(row.standing.state);
        }
        let matched = event.considered.matched().count();
        self.pending += matched.saturating_sub(first_runs.len()) as u64;
        Ok(())
    }

    fn of(history: &EventHistory) -> Self {
        let mut fate = Self {
            recorded: true,
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

    /// Returns whether every endpoint that the event matched has received it.
    pub(super) const fn is_good(&self) -> bool {
        self.has_ended() && self.dead == 0 && self.cancelled == 0
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        let history: EventHistory = serde_json::from_value(history).unwrap();
        let expected = Fate {
            delivered: 1,
            dead: 1,
            cancelled: 0,
            pending: 2,
            recorded: true,
        };
        assert_eq!(Fate::of(&history), expected);
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
        for (fate, text, is_good) in [
            (Fate::default(), "not in the journal yet", false),
            (fate, "no endpoint matched", true),
            (mixed, "delivered 2, dead 1", false),
            (pending, "delivered 2, dead 1, pending 1", false),
            (Fate { delivered: 1, ..fate }, "delivered 1", true),
        ] {
            assert_eq!((fate.to_string().as_str(), fate.is_good()), (text, is_good));
        }
        assert!(!pending.has_ended() && mixed.has_ended());
    }
}
