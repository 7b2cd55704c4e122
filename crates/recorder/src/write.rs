//! The single writer of a recorder: writes the messages that have arrived in one transaction, then
//! acknowledges them.

use std::time::{Duration, Instant};

use broker::{AckHandle, Incoming, Topology};
use runtime::Lasting;
use store::{RejectedRow, Store};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use webhook::journal::{Books, Record};

use crate::{
    display_chain,
    entry::{Entry, Inbox, count_aside},
    lag,
    meters::{self, UNRECORDABLE},
    now_ms,
    part::{Part, plain},
    readiness::Writing,
};

/// The total size of bodies from which a transaction takes no further message, in bytes: about ten thousand
/// attempts.
const TRANSACTION_BYTES: usize = 4 * 1024 * 1024;

/// A message that is being written.
struct Arrived {
    source: Inbox,
    message: broker::Message,
    ack: AckHandle,
}

/// The combined content of several messages.
#[derive(Default)]
struct Content {
    books: Books,
    rejected: Vec<RejectedRow>,
    /// When each attempt ended, in Unix milliseconds.
    ended_ms: Vec<u64>,
}

/// Writes messages as they arrive, until all senders are dropped.
///
/// After `stop` is cancelled, the writer no longer waits for an unavailable database. Messages that are not
/// written are not acknowledged, and will be redelivered.
pub(crate) async fn run(
    store: Store,
    topology: Topology,
    mut arrivals: mpsc::UnboundedReceiver<(Inbox, Incoming)>,
    writing: Writing,
    stop: CancellationToken,
) {
    let writer = Writer {
        writing,
        store,
        topology,
        stop,
        away: Lasting::new(),
        refused: Lasting::new(),
        stuck: Lasting::new(),
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
        writer.writing.given_up();
    }
}

struct Writer {
    /// Whether the database accepts the records, for `/readyz`.
    writing: Writing,
    store: Store,
    topology: Topology,
    stop: CancellationToken,
    /// Tracks a database that is unavailable or has a full disk.
    away: Lasting,
    /// Tracks a database that refuses some of the content.
    refused: Lasting,
    /// Tracks a database that refuses all content.
    stuck: Lasting,
}

impl Writer {
    /// Writes messages together. If the database refuses that, writes each message separately, as far as the
    /// database accepts it.
    async fn write(&self, group: Vec<Arrived>) {
        // A message that the broker redelivers, because its channel is closed, is written by the recorder
        // that receives it.
        let group: Vec<_> = group
            .into_iter()
            .filter(|arrived| arrived.ack.is_live())
            .collect();
        if group.is_empty() {
            return;
        }
        let mut content = Content::default();
        for arrived in &group {
            let ended = content.ended_ms.len();
            content.add(self.read(arrived));
            if !content.stamp(arrived) {
                content.ended_ms.truncate(ended);
            }
        }
        match self.committed(&content, &group).await {
            Ok(true) => {
                self.refused.end();
                for arrived in &group {
                    arrived.ack.ack();
                }
            }
            Ok(false) => {}
            Err(error) => {
                if self.refused.again().is_some() {
                    tracing::warn!(
                        error = display_chain(&error),
                        messages = group.len(),
                        "the database refused these messages together; writing every part that it accepts"
                    );
                }
                for arrived in group {
                    self.write_parts(&arrived).await;
                }
            }
        }
    }

    fn read(&self, arrived: &Arrived) -> Entry {
        Entry::read(arrived.source, &arrived.message, &self.topology)
    }

    /// Writes the parts of a message that the database accepts, stores the others as rejected messages, and
    /// acknowledges the message.
    async fn write_parts(&self, arrived: &Arrived) {
        let group = std::slice::from_ref(arrived);
        let mut parts = vec![Part::whole(arrived.source, self.read(arrived))];
        while let Some(part) = parts.pop() {
            let mut content = Content::default();
            content.add(part.entry());
            let is_done = match self.committed(&content, group).await {
                Ok(is_done) => is_done,
                Err(error) => match part.halves() {
                    Ok([first, second]) => {
                        parts.extend([second, first]);
                        true
                    }
                    Err(part) => self.set_aside(arrived, part, &error).await,
                },
            };
            if !is_done {
                return;
            }
        }
        // The batch counts as received, even if some of it was rejected.
        let mut came = Content::default();
        came.stamp(arrived);
        let is_ending = !came.books.is_empty() && matches!(self.committed(&came, group).await, Ok(false));
        if !is_ending {
            arrived.ack.ack();
        }
    }

    /// Stores what the database refuses as a rejected message, and retries until that succeeds. Returns
    /// `false` if it was given up.
    async fn set_aside(&self, arrived: &Arrived, part: Part, error: &store::Error) -> bool {
        let detail = display_chain(error);
        let mut rejected = part.refused(&arrived.message, &self.topology, &detail);
        tracing::error!(
            queue = arrived.source.queue(&self.topology),
            rejected.id,
            message_id = rejected.message_id,
            detail,
            "the database refused part of a message; `magnetite rejected list` shows the part"
        );
        count_aside(UNRECORDABLE);
        let group = std::slice::from_ref(arrived);
        for failures in 1.. {
            let content = Content {
                rejected: vec![rejected.clone()],
                ..Content::default()
            };
            match self.committed(&content, group).await {
                Ok(is_done) => return is_done,
                Err(error) if failures == 1 => rejected = plain(rejected, &display_chain(&error)),
                Err(error) => {
                    self.writing.fails(&error);
                    if self.stuck.again().is_some() {
                        tracing::error!(
                            error = display_chain(&error),
                            failures,
                            "the database refuses every write; the records wait in the queues, trying again"
                        );
                    }
                    if !self.rests(failures, group).await {
                        return false;
                    }
                }
            }
        }
        false
    }

    /// Waits before the next try. Returns `false` if the process is shutting down, or the broker has
    /// redelivered all of these messages.
    async fn rests(&self, failures: u32, group: &[Arrived]) -> bool {
        let pause = tokio::time::sleep(broker::backoff(failures));
        let ends = self.stop.run_until_cancelled(pause).await.is_none();
        !ends && group.iter().any(|arrived| arrived.ack.is_live())
    }

    /// Commits the content of these messages, and retries while the database is unavailable.
    ///
    /// Returns `false` if it was given up because the process is shutting down, or the broker has redelivered
    /// all of these messages.
    async fn committed(&self, content: &Content, group: &[Arrived]) -> Result<bool, store::Error> {
        let mut failures = 0;
        loop {
            let began = Instant::now();
            self.writing.begins();
            let recorded = self.store.record(&content.books, &content.rejected).await;
            self.writing.ended(&recorded);
            match recorded {
                Ok(()) => {
                    content.count(began.elapsed(), group.len());
                    self.stuck.end();
                    if let Some(ended) = self.away.end() {
                        tracing::info!(
                            failures = ended.times,
                            "writing the journal to the database works again"
                        );
                    }
                    return Ok(true);
                }
                Err(error) if error.is_unavailable() => {
                    failures += 1;
                    if self.away.again().is_some() {
                        tracing::warn!(
                            error = display_chain(&error),
                            failures,
                            "cannot write the journal to the database; the records wait in the queues, trying again"
                        );
                    }
                    meters::WRITE_FAILURES.count([]).increment(1);
                    if !self.rests(failures, group).await {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Content {
    /// Registers which batch of its worker the message is, if it is one.
    ///
    /// Returns whether the age of the message's attempts says something about the recorders' lag. It does not
    /// for a batch without a stamp, which was made by an earlier version or was redriven.
    fn stamp(&mut self, arrived: &Arrived) -> bool {
        if arrived.source != Inbox::Journal {
            return true;
        }
        let stamp = arrived.message.batch_stamp();
        if let Some(stamp) = &stamp {
            self.books.stamp(stamp);
        }
        stamp.is_some()
    }

    fn add(&mut self, entry: Entry) {
        match entry {
            Entry::Rejected(rejected) => self.rejected.push(*rejected),
            Entry::Records(records) => {
                for record in records {
                    if let Record::Attempt(attempt) = &record {
                        self.ended_ms
                            .push(attempt.began_ms.saturating_add(attempt.duration_ms));
                    }
                    self.books.add(record);
                }
            }
        }
    }

    fn count(&self, took: Duration, messages: usize) {
        let now_ms = now_ms();
        meters::COMMIT.durations([]).record(took);
        tracing::debug!(
            messages,
            events = self.books.events.len(),
            deliveries = self.books.deliveries.len(),
            attempts = self.books.attempts.len(),
            duration_us = took.as_micros() as u64,
            "recorded"
        );
        let lag = meters::LAG.durations([]);
        for ended_ms in &self.ended_ms {
            lag.record(Duration::from_millis(now_ms.saturating_sub(*ended_ms)));
        }
        lag::note(now_ms, &self.ended_ms);
        let recorded = |what, count: usize| {
            meters::RECORDED.count([what]).increment(count as u64);
        };
        recorded(meters::EVENT, self.books.events.len());
        recorded(meters::ATTEMPT, self.books.attempts.len());
        recorded(meters::REJECTED, self.rejected.len());
        recorded(meters::GAP, self.books.gaps.len());
    }
}

impl From<(Inbox, Incoming)> for Arrived {
    fn from((source, incoming): (Inbox, Incoming)) -> Self {
        Self {
            source,
            message: incoming.message,
            ack: incoming.ack,
        }
    }
}
