//! The publishes and consumers that the broker currently refuses on one link, so that a process can report
//! them.
//!
//! Publishers record the result of every publish, and consumers record whether consuming began.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    Outgoing, PublishError, PublishResult,
    reply::{self, reply_code},
};

/// How long a full or missing queue is reported after the last publish that it refused. A message that must
/// be published is retried sooner than this.
const REPORTED: Duration = Duration::from_secs(15);
/// The maximum number of refusals kept; a topology has fewer queues and exchanges.
const TARGETS_MAX: usize = 64;

/// The text that a process reports while [`Link::is_blocked`](crate::Link::is_blocked).
pub const BLOCKED: &str = "the broker blocks publishing: memory or disk alarm";

/// A publish or a consumer that the broker currently refuses to this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The queue or exchange; empty for the default exchange.
    pub target: String,
    /// Whether the target is an exchange, a queue, or a queue to consume.
    pub kind: RefusalKind,
    /// What the broker refuses and what to do about it, as a sentence.
    pub why: String,
}

/// The kind of operation that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusalKind {
    /// The exchange does not exist, or the user may not write to it. The refusal ends when a publish or a
    /// check by [`Link::watch_permissions`](crate::Link::watch_permissions) succeeds.
    Exchange,
    /// A queue is full, missing or not bound. The refusal ends with the next publish that succeeds, or 15 s
    /// after the last publish that was refused.
    Queue,
    /// A queue cannot be consumed. The refusal ends when consuming begins.
    Consumer,
}

/// The key of an entry. A queue and an exchange may have the same name.
type Key = (String, RefusalKind);

#[derive(Debug)]
struct Entry {
    why: String,
    at: Instant,
}

/// The refusals of one link, shared by everything that uses the link.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// Whether there may be entries. Most publishes only need to check this flag.
    any: AtomicBool,
    entries: Mutex<BTreeMap<Key, Entry>>,
    /// When each exchange last accepted a publish.
    taken: Mutex<BTreeMap<String, Instant>>,
}

impl Refusals {
    /// Records which messages of a window the broker accepted and which it refused. A result is `None` if the
    /// broker has not answered yet.
    pub(crate) fn note_window<'a>(
        &self,
        window: &'a [impl Borrow<Outgoing>],
        results: impl Iterator<Item = Option<&'a PublishResult>>,
    ) {
        let answered = window.iter().zip(results).filter_map(|(message, result)| {
            let message = message.borrow();
            Some((message.exchange.as_str(), message.target(), result?))
        });
        self.note(answered);
    }

    /// Records the results of publishes: exchange, target and result of each message of a window.
    fn note<'a>(&self, results: impl Iterator<Item = (&'a str, &'a str, &'a PublishResult)>) {
        let (now, mut noted) = (Instant::now(), None::<&str>);
        for (exchange, target, result) in results {
            match result {
                Ok(()) => {
                    if noted != Some(exchange) {
                        self.took(exchange, now);
                        noted = Some(exchange);
                    }
                    if self.any.load(Ordering::Acquire) {
                        self.forget(target, RefusalKind::Queue);
                    }
                }
                Err(error) => self.refused(exchange, target, error),
            }
        }
    }

    fn took(&self, exchange: &str, now: Instant) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(exchange) {
            Some(at) => *at = now,
            None => drop(taken.insert(exchange.to_owned(), now)),
        }
        drop(taken);
        if self.any.load(Ordering::Acquire) {
            self.forget(exchange, RefusalKind::Exchange);
        }
    }

    /// Returns whether the exchange accepted a message within the last `time`.
    pub(crate) fn took_within(&self, exchange: &str, time: Duration) -> bool {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.get(exchange).is_some_and(|at| at.elapsed() < time)
    }

    fn refused(&self, exchange: &str, target: &str, error: &PublishError) {
        match error {
            PublishError::Broken { source, .. } => self.broke(exchange, source),
            PublishError::Unroutable { .. } => {
                let why =
                    format!("no queue receives messages for {target}: run `magnetite topology declare`");
                self.remember(target, RefusalKind::Queue, why);
            }
            PublishError::Nacked { .. } => {
                let why = format!("{target} accepts no messages: it is full or failed; see the broker's log");
                self.remember(target, RefusalKind::Queue, why);
            }
            _ => {}
        }
    }

    /// Records that a channel was closed. All publishes on it fail with the same error, whichever exchange
    /// caused it.
    fn broke(&self, exchange: &str, error: &lapin::Error) {
        let text = error.to_string();
        let exchange = refused_exchange(&text).unwrap_or(exchange);
        if let Some(why) = why_not(exchange, error) {
            self.remember(exchange, RefusalKind::Exchange, why);
        }
    }

    /// Records whether a queue can be consumed; `error` is the reason if it cannot.
    pub(crate) fn consumes(&self, queue: &str, error: Option<&str>) {
        match error {
            None => self.forget(queue, RefusalKind::Consumer),
            Some(error) => {
                let why = format!("cannot consume {queue}: {error}");
                self.remember(queue, RefusalKind::Consumer, why);
            }
        }
    }

    pub(crate) fn remember(&self, target: &str, kind: RefusalKind, why: String) {
        let (mut entries, key) = (self.entries(), (target.to_owned(), kind));
        if entries.len() < TARGETS_MAX || entries.contains_key(&key) {
            let at = Instant::now();
            entries.insert(key, Entry { why, at });
            self.any.store(true, Ordering::Release);
        }
    }

    pub(crate) fn forget(&self, target: &str, kind: RefusalKind) {
        let mut entries = self.entries();
        entries.remove(&(target.to_owned(), kind));
        self.any.store(!entries.is_empty(), Ordering::Release);
    }

    pub(crate) fn current(&self) -> Vec<Refusal> {
        let mut entries = self.entries();
        entries.retain(|(_, kind), entry| *kind != RefusalKind::Queue || entry.at.elapsed() < REPORTED);
        self.any.store(!entries.is_empty(), Ordering::Release);
        let refusal = |((target, kind), entry): (&Key, &Entry)| Refusal {
            target: target.clone(),
            kind: *kind,
            why: entry.why.clone(),
        };
        entries.iter().map(refusal).collect()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the exchange that the broker's error text names. The text calls the default exchange
/// `amq.default`.
fn refused_exchange(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("exchange '")?;
    let (name, _) = rest.split_once('\'')?;
    Some(if name == "amq.default" { "" } else { name })
}

/// Returns what is wrong with the exchange and what to do about it; `None` if the error has another cause.
pub(crate) fn why_not(exchange: &str, error: &lapin::Error) -> Option<String> {
    let text = error.to_string();
    let name = if exchange.is_empty() {
        "amq.default"
    } else {
        exchange
    };
    match reply_code(error)? {
        reply::ACCESS_REFUSED if refused_exchange(&text).is_none_or(|named| named == exchange) => {
            Some(format!(
                "the broker refuses publishing to exchange {name} (ACCESS_REFUSED): give the user of broker.url write permission there"
            ))
        }
        reply::NOT_FOUND => Some(format!(
            "exchange {name} or its queue does not exist: run `magnetite topology declare`"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nacked(target: &str) -> PublishResult {
        Err(PublishError::Nacked {
            target: target.to_owned(),
        })
    }

    fn targets(refusals: &Refusals) -> Vec<String> {
        let current = refusals.current();
        current.into_iter().map(|refusal| refusal.target).collect()
    }

    #[test]
    fn a_queue_that_is_full_is_reported_until_it_takes_something() {
        let refusals = Refusals::default();
        refusals.note([("", "p.dead", &nacked("p.dead")), ("", "p.delay.1000", &Ok(()))].into_iter());
        assert_eq!(targets(&refusals), ["p.dead"]);
        refusals.note([("", "p.journal", &Ok(()))].into_iter());
        assert_eq!(targets(&refusals), ["p.dead"], "another queue takes something");
        refusals.note([("", "p.dead", &Ok(()))].into_iter());
        assert!(targets(&refusals).is_empty());
        assert!(!refusals.any.load(Ordering::Acquire));
    }

    #[test]
    fn a_queue_that_cannot_be_consumed_is_not_forgotten_because_it_takes_messages() {
        let refusals = Refusals::default();
        refusals.consumes("p.due", Some("NOT_ALLOWED"));
        refusals.note([("", "p.due", &Ok(()))].into_iter());
        assert_eq!(targets(&refusals), ["p.due"]);
        refusals.consumes("p.due", None);
        assert!(targets(&refusals).is_empty());
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let refusals = Refusals::default();
        for number in 0..1_000 {
            let target = format!("p.{number}");
            refusals.note([("", target.as_str(), &nacked(&target))].into_iter());
        }
        assert_eq!(targets(&refusals).len(), TARGETS_MAX);
    }

    #[test]
    fn the_exchange_is_read_from_the_words_of_both_versions() {
        let old = "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'u'";
        let new = "ACCESS_REFUSED - write access to exchange 'p.events' in vhost '/' refused for user 'u'";
        assert_eq!(refused_exchange(old), Some(""));
        assert_eq!(refused_exchange(new), Some("p.events"));
        assert_eq!(refused_exchange("NOT_FOUND - no queue 'p.due'"), None);
    }
}
