//! The one writer: what has arrived is written together, then acked.

use std::time::{Duration, Instant};

use broker::{AckHandle, Incoming, Topology};
use store::{Rejected, Store};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use webhook::journal::{Books, Record};

use crate::{
    display_chain,
    entry::{Entry, Source},
    now_ms,
};

/// A transaction takes no further message from this size of bodies on: some ten thousand attempts.
const TRANSACTION_BYTES: usize = 4 * 1024 * 1024;

/// A message in work.
struct Arrived {
    source: Source,
    message: broker::Message,
    ack: AckHandle,
}

/// What some messages say together.
#[derive(Default)]
struct Content {
    books: Books,
    rejected: Vec<Rejected>,
    /// When each attempt ended, in Unix milliseconds.
    ended_ms: Vec<u64>,
}

/// Writes what arrives until every sender is gone. After `stop` a database that is away is not waited for any more: what is not
/// written is not acked, and comes again.
pub(crate) async fn run(
    store: Store,
    topology: Topology,
    mut arrivals: mpsc::UnboundedReceiver<(Source, Incoming)>,
    stop: CancellationToken,
) {
    let writer = Writer {
        store,
        topology,
        stop,
    };
    while let Some(first) = arrivals.recv().await {
        let mut group = vec![Arrived::from(first)];
        let mut bytes = group[0].message.body.len();
        while bytes < TRANSACTION_BYTES
            && let Ok(next) = arrivals.try_recv()
        {
            let next = Arrived::from(next);
            bytes += next.message.body.len();
            group.push(next);
        }
        writer.write(group).await;
    }
}

struct Writer {
    store: Store,
    topology: Topology,
    stop: CancellationToken,
}

impl Writer {
    /// Writes messages together, or, when the database refuses that for good, one by one.
    async fn write(&self, group: Vec<Arrived>) {
        // What the broker has handed out again by now is written by whoever got it.
        let group: Vec<_> = group
            .into_iter()
            .filter(|arrived| arrived.ack.is_live())
            .collect();
        if group.is_empty() {
            return;
        }
        let entries = group
            .iter()
            .map(|arrived| Entry::read(arrived.source, &arrived.message, &self.topology));
        let content: Content = entries.collect();
        match self.committed(&content, &group).await {
            Ok(true) => group.iter().for_each(|arrived| arrived.ack.ack()),
            Ok(false) => {}
            Err(error) if group.len() > 1 => {
                tracing::warn!(
                    error = display_chain(&error),
                    messages = group.len(),
                    "the database refuses some of these messages; they are written one by one"
                );
                for arrived in group {
                    Box::pin(self.write(vec![arrived])).await;
                }
            }
            Err(error) => {
                for arrived in group {
                    self.set_aside(&arrived, &error).await;
                }
            }
        }
    }

    /// A message that the database takes in no form but as it came.
    async fn set_aside(&self, arrived: &Arrived, error: &store::Error) {
        let detail = display_chain(error);
        let entry = Entry::aside(
            arrived.source,
            &arrived.message,
            &self.topology,
            "unrecordable",
            &detail,
        );
        let group = std::slice::from_ref(arrived);
        match self.committed(&Content::from_iter([entry]), group).await {
            Ok(true) => arrived.ack.ack(),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(
                    error = display_chain(&error),
                    "a message can be recorded in no way; it goes back to its queue"
                );
                arrived.ack.requeue();
            }
        }
    }

    /// Whether the content of these messages was committed, for as long as it takes; not if the process is to end before the
    /// database is back, or the broker has handed all of them out again.
    async fn committed(&self, content: &Content, group: &[Arrived]) -> Result<bool, store::Error> {
        let mut failures = 0;
        loop {
            let began = Instant::now();
            match self.store.record(&content.books, &content.rejected).await {
                Ok(()) => {
                    content.count(began.elapsed(), group.len());
                    return Ok(true);
                }
                Err(error) if error.is_unavailable() => {
                    failures += 1;
                    tracing::warn!(
                        error = display_chain(&error),
                        failures,
                        "cannot write the journal; its queues hold it, trying again"
                    );
                    metrics::counter!("magnetite_recorder_write_failures_total").increment(1);
                    let pause = tokio::time::sleep(broker::backoff(failures));
                    let ends = self.stop.run_until_cancelled(pause).await.is_none();
                    if ends || !group.iter().any(|arrived| arrived.ack.is_live()) {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Content {
    fn count(&self, took: Duration, messages: usize) {
        let now_ms = now_ms();
        metrics::histogram!("magnetite_recorder_commit_seconds").record(took);
        tracing::debug!(
            messages,
            events = self.books.events.len(),
            deliveries = self.books.deliveries.len(),
            attempts = self.books.attempts.len(),
            duration_us = took.as_micros() as u64,
            "recorded"
        );
        let lag = metrics::histogram!("magnetite_journal_lag_seconds");
        for ended_ms in &self.ended_ms {
            lag.record(Duration::from_millis(now_ms.saturating_sub(*ended_ms)));
        }
        let recorded = |what, count: usize| {
            metrics::counter!("magnetite_recorded_total", "what" => what).increment(count as u64);
        };
        recorded("event", self.books.events.len());
        recorded("attempt", self.books.attempts.len());
        recorded("rejected", self.rejected.len());
        recorded("gap", self.books.gaps.len());
    }
}

impl FromIterator<Entry> for Content {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut content = Self::default();
        for entry in entries {
            match entry {
                Entry::Rejected(rejected) => content.rejected.push(*rejected),
                Entry::Records(records) => {
                    for record in records {
                        if let Record::Attempt(attempt) = &record {
                            content.ended_ms.push(attempt.began_ms + attempt.duration_ms);
                        }
                        content.books.add(record);
                    }
                }
            }
        }
        content
    }
}

impl From<(Source, Incoming)> for Arrived {
    fn from((source, incoming): (Source, Incoming)) -> Self {
        Self {
            source,
            message: incoming.message,
            ack: incoming.ack,
        }
    }
}
