//! Accounts for every published event: where it was delivered, whether it is dead, and whether anything was
//! lost.
//!
//! The ledger relies on the publisher for what was published, on the receivers' logs for what was delivered,
//! and on the broker's queues for what is dead or rejected. It does not consult the workers or a database.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::{Duration, Instant},
};

use crate::{Amqp, Endpoint, Found, Installation, Node, Receiver, Role, seed, wait_for};

/// The record of one campaign. Every endpoint receives every event. Events are identified by their `lead_id`.
pub struct Ledger {
    endpoints: Vec<(&'static str, Endpoint, Receiver)>,
    published: HashMap<String, Instant>,
    /// How many dead letters exist for each (lead, endpoint id).
    dead: HashMap<(String, String), usize>,
    rejected: usize,
    breaks: Vec<Break>,
}

/// A deliberately caused failure.
#[derive(Clone, Debug)]
pub struct Break {
    /// What failed.
    pub what: &'static str,
    /// When it failed.
    pub from: Instant,
    /// When it worked again.
    pub until: Instant,
    /// How many messages the worker held unacked; `None` if it was not a worker that failed.
    pub unacked: Option<u64>,
}

/// The totals of a [`Ledger`] at one point in time.
#[derive(Debug)]
pub struct Books {
    /// The number of events that the publisher reported as stored.
    pub published: usize,
    /// The number of (event, endpoint) pairs that a receiver answered with success.
    pub delivered: usize,
    /// The number of pairs that have a dead letter and were not delivered.
    pub dead: usize,
    /// The number of messages from the queue of rejected messages.
    pub rejected: usize,
    /// The pairs that are neither delivered nor dead.
    pub lost: Vec<String>,
    /// The leads that were received or dead-lettered but never published.
    pub unknown: Vec<String>,
    /// The number of successes beyond the first of each pair.
    pub duplicates: usize,
    /// The pairs with duplicates that no break explains.
    pub unexplained: Vec<String>,
    /// The breaks so far.
    pub breaks: Vec<Break>,
}

/// The longest time that an event can be in flight: the slowest answer, plus the time from an answer to its
/// ack. A break explains the duplicates of an event that was published or received within this time before
/// the break.
const IN_FLIGHT_MAX: Duration = Duration::from_millis(2500);

impl Ledger {
    /// Creates an empty ledger.
    #[allow(clippy::new_without_default, reason = "a ledger is opened, not defaulted")]
    pub fn new() -> Self {
        Self {
            endpoints: Vec::new(),
            published: HashMap::new(),
            dead: HashMap::new(),
            rejected: 0,
            breaks: Vec::new(),
        }
    }

    /// Adds an endpoint, under a name that reports show.
    pub fn endpoint(&mut self, name: &'static str, endpoint: Endpoint, receiver: Receiver) {
        self.endpoints.push((name, endpoint, receiver));
    }

    /// Returns all endpoints with their receivers.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Endpoint, &Receiver)> {
        self.endpoints
            .iter()
            .map(|(_, endpoint, receiver)| (endpoint, receiver))
    }

    /// Returns whether a break was in effect at this time, or began while an event of this time could be in
    /// flight.
    pub fn was_broken(&self, at: Instant) -> bool {
        self.breaks.iter().any(|broken| broken.explains(&at))
    }

    /// Returns the receiver with this name.
    pub fn receiver(&self, name: &str) -> &Receiver {
        let found = self.endpoints.iter().find(|(known, ..)| *known == name);
        &found.expect("the receiver was registered").2
    }

    /// Adds events that were handed to the publisher, with the time of each.
    pub fn published(&mut self, leads: impl IntoIterator<Item = (String, Instant)>) {
        self.published.extend(leads);
    }

    /// Returns all published leads, in an order that is always the same.
    pub fn leads(&self) -> Vec<String> {
        let mut leads: Vec<_> = self.published.keys().cloned().collect();
        leads.sort_unstable();
        leads
    }

    /// Returns all published leads, with the time at which the publisher received each event.
    pub fn published_times(&self) -> Vec<(String, Instant)> {
        let published = self.published.iter();
        published.map(|(lead, at)| (lead.clone(), *at)).collect()
    }

    /// Returns when the publisher received the event about this lead.
    pub fn published_at(&self, lead: &str) -> Instant {
        self.published[lead]
    }

    /// Adds a break that lasted from `from` until now.
    pub fn broken(&mut self, what: &'static str, from: Instant, unacked: Option<u64>) {
        self.breaks.push(Break {
            what,
            from,
            until: Instant::now(),
            unacked,
        });
    }

    /// Waits until every pair is delivered or dead. Drains the queues of dead letters and rejected messages.
    pub async fn wait_until_accounted(&mut self, amqp: &Amqp, limit: Duration) {
        let ledger = tokio::sync::Mutex::new(self);
        wait_for(
            "every event is delivered or dead at every endpoint",
            limit,
            || async {
                let mut ledger = ledger.lock().await;
                ledger.collect(amqp).await;
                let books = ledger.books();
                let first: Vec<_> = books.lost.iter().take(5).collect();
                match books.lost.len() {
                    0 => Ok(()),
                    missing => Err(format!("{missing} pairs are not, such as {first:?}")),
                }
            },
        )
        .await;
    }

    /// Waits until every pair is accounted for and no message is ready in any queue, and returns the totals.
    pub async fn settle(&mut self, installation: &Installation, limit: Duration) -> Books {
        self.wait_until_accounted(installation.amqp(), limit).await;
        installation.wait_until_drained(limit).await;
        self.collect(installation.amqp()).await;
        self.books()
    }

    /// Like [`Ledger::settle`], for a broker that was killed, which may have created copies of messages. Also
    /// terminates the workers, and waits until every queue is empty.
    pub async fn settle_and_end(
        &mut self,
        installation: &Installation,
        node: &Node,
        workers: Vec<Role>,
        limit: Duration,
    ) -> Books {
        let amqp = installation.connect().await;
        self.wait_until_accounted(&amqp, limit).await;
        installation
            .wait_until_nothing_is_left(node, workers, limit)
            .await;
        self.collect(&amqp).await;
        self.books()
    }

    /// Drains the queues of dead letters and rejected messages into the ledger.
    async fn collect(&mut self, amqp: &Amqp) {
        for letter in amqp.drain("dead").await {
            let key = (lead(&letter), letter.header("magnetite-endpoint"));
            *self.dead.entry(key).or_default() += 1;
        }
        self.rejected += amqp.drain("rejected").await.len();
    }

    /// Computes the current totals.
    pub fn books(&self) -> Books {
        let mut books = Books {
            published: self.published.len(),
            delivered: 0,
            dead: 0,
            rejected: self.rejected,
            lost: Vec::new(),
            unknown: Vec::new(),
            duplicates: 0,
            unexplained: Vec::new(),
            breaks: self.breaks.clone(),
        };
        let receipts: Vec<_> = self
            .endpoints
            .iter()
            .map(|(.., receiver)| receiver.receipts())
            .collect();
        let mut unknown: HashSet<&str> = HashSet::new();
        for leads in &receipts {
            unknown.extend(
                leads
                    .keys()
                    .map(String::as_str)
                    .filter(|lead| !self.published.contains_key(*lead)),
            );
        }
        unknown.extend(
            self.dead
                .keys()
                .map(|(lead, _)| lead.as_str())
                .filter(|lead| !self.published.contains_key(*lead)),
        );
        books.unknown = unknown.into_iter().map(str::to_owned).collect();
        for (lead, born) in &self.published {
            let seen: Vec<Instant> = receipts
                .iter()
                .filter_map(|leads| leads.get(lead))
                .flatten()
                .map(|receipt| receipt.at)
                .collect();
            for ((name, endpoint, _), leads) in self.endpoints.iter().zip(&receipts) {
                let accepted = leads.get(lead).map_or(0, |receipts| {
                    receipts.iter().filter(|receipt| receipt.accepted).count()
                });
                let dead = self.dead.contains_key(&(lead.clone(), endpoint.id.clone()));
                match (accepted, dead) {
                    (0, false) => books.lost.push(format!("{lead} at {name}")),
                    (0, true) => books.dead += 1,
                    (copies, _) => {
                        books.delivered += 1;
                        books.duplicates += copies - 1;
                        if copies > 1 && !self.is_explained(*born, &seen) {
                            books.unexplained.push(format!("{copies} of {lead} at {name}"));
                        }
                    }
                }
            }
        }
        books
    }

    /// Returns whether the event was in flight during a break: it was published, or a receiver received it,
    /// during the break or shortly before.
    fn is_explained(&self, born: Instant, seen: &[Instant]) -> bool {
        self.breaks
            .iter()
            .any(|broken| broken.explains(&born) || seen.iter().any(|at| broken.explains(at)))
    }
}

impl Break {
    /// Returns whether the break may have affected an event that was in flight at this time.
    fn explains(&self, at: &Instant) -> bool {
        let from = self.from.checked_sub(IN_FLIGHT_MAX).unwrap_or(self.from);
        (from..=self.until).contains(at)
    }
}

impl Books {
    /// Panics unless every published event is accounted for exactly, without unknown events, unexplained
    /// duplicates or rejected messages.
    pub fn assert_balanced(&self) {
        let few = |list: &[String]| format!("{}: {:?}", list.len(), &list[..list.len().min(20)]);
        assert!(self.lost.is_empty(), "lost {}\n{self}", few(&self.lost));
        assert!(
            self.unknown.is_empty(),
            "never published {}\n{self}",
            few(&self.unknown)
        );
        assert!(
            self.unexplained.is_empty(),
            "copies without a cause {}\n{self}",
            few(&self.unexplained)
        );
        assert_eq!(self.rejected, 0, "good events were rejected\n{self}");
    }

    /// Returns the median number of messages that workers held unacked when they were killed.
    pub fn unacked_median(&self) -> u64 {
        let mut unacked: Vec<_> = self.breaks.iter().filter_map(|broken| broken.unacked).collect();
        unacked.sort_unstable();
        unacked.get(unacked.len() / 2).copied().unwrap_or_default()
    }
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {} published, {} delivered, {} dead, {} rejected, {} lost, {} unknown, {} duplicates ({} unexplained)",
            seed(),
            self.published,
            self.delivered,
            self.dead,
            self.rejected,
            self.lost.len(),
            self.unknown.len(),
            self.duplicates,
            self.unexplained.len()
        )?;
        if !self.breaks.is_empty() {
            let unacked: Vec<_> = self.breaks.iter().filter_map(|broken| broken.unacked).collect();
            write!(
                f,
                "; {} breaks, unacked at each kill {unacked:?}, median {}",
                self.breaks.len(),
                self.unacked_median()
            )?;
        }
        Ok(())
    }
}

fn lead(letter: &Found) -> String {
    let json: serde_json::Value = serde_json::from_slice(&letter.body).unwrap();
    json["lead_id"].as_str().unwrap().to_owned()
}
