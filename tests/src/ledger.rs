//! What was published, what became of it, and whether the books balance.
//!
//! The ledger believes the publisher's word for what was published, the receivers' logs for what was
//! delivered and the broker's queues for what is dead or rejected. It asks neither the workers nor a
//! database.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::{Duration, Instant},
};

use crate::{Amqp, Endpoint, Found, Installation, Node, Receiver, Role, seed, wait_for};

/// The books of one campaign. Every endpoint gets every event; events are told apart by their `lead_id`.
pub struct Ledger {
    endpoints: Vec<(&'static str, Endpoint, Receiver)>,
    published: HashMap<String, Instant>,
    /// How often (lead, endpoint id) is in the dead letters.
    dead: HashMap<(String, String), usize>,
    rejected: usize,
    breaks: Vec<Break>,
}

/// Something that was broken on purpose.
#[derive(Clone, Debug)]
pub struct Break {
    /// What.
    pub what: &'static str,
    /// From when.
    pub from: Instant,
    /// Until it was there again.
    pub until: Instant,
    /// How many messages it held unacked; `None` when it was not a worker.
    pub unacked: Option<u64>,
}

/// How the books stand.
#[derive(Debug)]
pub struct Books {
    /// Events that the publisher was told are safe.
    pub published: usize,
    /// (event, endpoint) pairs that were answered with success.
    pub delivered: usize,
    /// Pairs that are in the dead letters and were not delivered.
    pub dead: usize,
    /// Messages in the rejected queue.
    pub rejected: usize,
    /// Pairs that are neither.
    pub lost: Vec<String>,
    /// What arrived, or is dead, and was never published.
    pub unknown: Vec<String>,
    /// Successes beyond the first of each pair.
    pub duplicates: usize,
    /// Those of them that no break explains.
    pub unexplained: Vec<String>,
    /// The breaks.
    pub breaks: Vec<Break>,
}

/// How long before a break an event may have been seen for the break to explain its copies: the slowest
/// answer, and the time from an answer to its ack.
const IN_FLIGHT_MAX: Duration = Duration::from_millis(2500);

impl Ledger {
    /// Empty books.
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

    /// An endpoint, under a name for people.
    pub fn endpoint(&mut self, name: &'static str, endpoint: Endpoint, receiver: Receiver) {
        self.endpoints.push((name, endpoint, receiver));
    }

    /// Every endpoint with its receiver.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Endpoint, &Receiver)> {
        self.endpoints
            .iter()
            .map(|(_, endpoint, receiver)| (endpoint, receiver))
    }

    /// Whether something was broken at this time, or shortly after.
    pub fn was_broken(&self, at: Instant) -> bool {
        self.breaks.iter().any(|broken| broken.explains(&at))
    }

    /// The receiver with that name.
    pub fn receiver(&self, name: &str) -> &Receiver {
        let found = self.endpoints.iter().find(|(known, ..)| *known == name);
        &found.expect("the receiver was registered").2
    }

    /// What the publisher was given, with the time.
    pub fn published(&mut self, leads: impl IntoIterator<Item = (String, Instant)>) {
        self.published.extend(leads);
    }

    /// Every lead that was published, in some order that is the same every time.
    pub fn leads(&self) -> Vec<String> {
        let mut leads: Vec<_> = self.published.keys().cloned().collect();
        leads.sort_unstable();
        leads
    }

    /// Every lead with the time at which the publisher was given it.
    pub fn published_times(&self) -> Vec<(String, Instant)> {
        let published = self.published.iter();
        published.map(|(lead, at)| (lead.clone(), *at)).collect()
    }

    /// When the publisher was given the event about this lead.
    pub fn published_at(&self, lead: &str) -> Instant {
        self.published[lead]
    }

    /// Something was broken from `from` until now.
    pub fn broken(&mut self, what: &'static str, from: Instant, unacked: Option<u64>) {
        self.breaks.push(Break {
            what,
            from,
            until: Instant::now(),
            unacked,
        });
    }

    /// Waits until every pair is delivered or dead. Takes dead letters and rejected messages out of their
    /// queues.
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

    /// Waits until every pair is accounted for and nothing is ready in any queue, and tells how the books
    /// stand then.
    pub async fn settle(&mut self, installation: &Installation, limit: Duration) -> Books {
        self.wait_until_accounted(installation.amqp(), limit).await;
        installation.wait_until_drained(limit).await;
        self.collect(installation.amqp()).await;
        self.books()
    }

    /// The same on a broker that was killed, whatever copies that made: ends the workers, and leaves nothing
    /// in any queue.
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

    /// Takes dead letters and rejected messages out of their queues and into the books.
    async fn collect(&mut self, amqp: &Amqp) {
        for letter in amqp.drain("dead").await {
            let key = (lead(&letter), letter.header("magnetite-endpoint"));
            *self.dead.entry(key).or_default() += 1;
        }
        self.rejected += amqp.drain("rejected").await.len();
    }

    /// How the books stand now.
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

    /// Whether the event was under way when something was broken: it was published or asked about then, or
    /// shortly before.
    fn is_explained(&self, born: Instant, seen: &[Instant]) -> bool {
        self.breaks
            .iter()
            .any(|broken| broken.explains(&born) || seen.iter().any(|at| broken.explains(at)))
    }
}

impl Break {
    /// Whether it may have hit what was under way at this time.
    fn explains(&self, at: &Instant) -> bool {
        let from = self.from.checked_sub(IN_FLIGHT_MAX).unwrap_or(self.from);
        (from..=self.until).contains(at)
    }
}

impl Books {
    /// Panics unless every published event is accounted for, and nothing else is there.
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

    /// The median of what workers held unacked when they were killed.
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
