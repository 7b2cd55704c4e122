//! The last step of a message: its records are written to the journal, then the message is acknowledged.
//!
//! The records of many messages form one batch, which is one message to the recorder. While batches are being
//! confirmed, the next ones gather, as in `committer`: an idle worker records at once, and a busy one in
//! batches. Only one group of batches is published at a time, and at most one every [`GROUP_EVERY`], so that
//! batches are few and large: the cost of a batch at the broker does not depend on its size alone.
//!
//! Recording never delays deliveries. A batch that is not confirmed within [`RECORDED_MAX`] is dropped, its
//! messages are acknowledged, and the dropped records are counted. Once the broker accepts batches again, a
//! gap is recorded: it says how many records are missing, and from when until when. Batches are kept for any
//! length of time only while there is no connection at all, because then their messages cannot be
//! acknowledged either.
//!
//! Batches are numbered, and a dropped batch uses up its number. A worker that dies before it could record a
//! gap therefore leaves a hole in the numbers (see [`webhook::journal::Numbers`]) or a last announcement:
//! before the worker acknowledges the first message without its records, it announces to the database that it
//! drops records, and waits at most [`TOLD_MAX`] for that.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::Duration,
};

use broker::{Link, Outgoing, PublishError, Publisher, Topology};
use bytes::Bytes;
use runtime::Lasting;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use webhook::journal::{BATCH_BYTES_MAX, Batch, BatchStamp, Books, Gap, Record};

use crate::{Config, Context, display_chain, meters, now_ms, recall::Recall, work::Settled};

/// The minimum time from the beginning of one group to the beginning of the next. At full speed a group has a
/// few hundred records.
const GROUP_EVERY: Duration = Duration::from_millis(10);
/// The maximum time that the acks of settled messages wait for the confirm of their records.
const RECORDED_MAX: Duration = Duration::from_secs(2);
/// The maximum number of broken publishes on a connection that stays open, before a group is dropped. So many
/// mean that the channels are being closed, because the broker refuses what is published.
const BROKEN_MAX: u32 = 10;
/// The maximum time that the first acks without records wait until the database has the announcement that
/// records are dropped. The worker does not wait for a database that it knows to be unavailable.
const TOLD_MAX: Duration = Duration::from_millis(500);
/// The maximum time at shutdown for recording the last gap in the database instead of the journal.
const GAP_RECORDED_MAX: Duration = Duration::from_millis(500);
/// How long records are dropped without trying to publish them, after a batch was refused.
const SUSPENDED: Duration = Duration::from_secs(1);
/// The size from which a batch takes no further record, in bytes.
///
/// One more record always fits: the largest record, an event of maximum size with the maximum number of
/// endpoints that one record may list, is about 600 KiB.
const BATCH_BYTES: usize = BATCH_BYTES_MAX / 4;
/// The number of batches from which a group takes no further message. So many batches are 4 MiB, which lets a
/// group have more than one or two messages even if bodies are large.
const BATCHES_MAX: usize = 16;

/// Creates the channel to the recording, with room for every message that can be in progress.
pub(crate) fn channel(config: &Config) -> (mpsc::Sender<Settled>, mpsc::Receiver<Settled>) {
    mpsc::channel(config.unacked_max())
}

/// Passes a settled message to the recording, or acknowledges it at once if it has no records.
pub(crate) async fn submit(settled: Settled, recording: &mpsc::Sender<Settled>, recall: &Recall) {
    if settled.records.is_empty() {
        recall.acknowledge(&settled.work);
    } else {
        // The recording ends only after all senders are dropped.
        let _ = recording.send(settled).await;
    }
}

/// Records settled messages and acknowledges them.
pub(crate) struct Recording {
    context: Arc<Context>,
    publisher: Publisher,
    link: Link,
    topology: Topology,
    recall: Arc<Recall>,
    worker: String,
    /// Tracks batches that the broker does not accept.
    refused: Lasting,
}

/// Messages whose records are published together.
struct Group {
    settled: Vec<Settled>,
    /// The encoded batches: a single one, unless bodies are large.
    batches: Vec<Bytes>,
    /// The number of the first batch.
    first: u64,
    records: u64,
    /// The gap before this group, which is recorded with it; `None` if no records were lost.
    gap: Option<Gap>,
}

/// The result of publishing a group. The error is the gap that is still to be recorded, which includes the
/// group.
type Published = Result<(), Gap>;

/// Messages whose records are to be published, and the gap of those that could not be. The messages are
/// bounded by the prefetch, because each is unacknowledged.
struct Waiting {
    settled: VecDeque<Settled>,
    /// Empty between two groups.
    batch: Batch,
    /// The last batch number that was used up. Between two groups, all numbers up to this one are settled.
    last: u64,
    gap: Option<Gap>,
    /// Until when records are dropped without trying to publish them; `None` unless a publish has failed.
    suspended: Option<Instant>,
}

impl Recording {
    pub(crate) fn new(
        context: Arc<Context>,
        broker: &broker::Config,
        recall: Arc<Recall>,
        worker: String,
    ) -> Self {
        let mut broker = broker.clone();
        broker.publish_timeout = RECORDED_MAX;
        let (link, topology) = (context.publishing.clone(), context.topology.clone());
        Self {
            context,
            publisher: Publisher::new(link.clone(), &broker),
            link,
            topology,
            recall,
            worker,
            refused: Lasting::new(),
        }
    }

    /// Records and acknowledges submitted messages until all senders are dropped and nothing is left.
    pub(crate) async fn run(self, mut submitted: mpsc::Receiver<Settled>) {
        let (mut waiting, mut next_group) = (Waiting::new(), Instant::now());
        loop {
            tokio::select! {
                biased;
                () = std::future::ready(()), if waiting.has_group() => {}
                settled = submitted.recv() => match settled {
                    Some(settled) => waiting.settled.push_back(settled),
                    None => break,
                },
                () = self.resumed(waiting.suspended), if waiting.suspended.is_some() => waiting.suspended = None,
            }
            if waiting.suspended.is_none() {
                // Messages that are settled meanwhile gather in the channel without waking this task.
                sleep_until(next_group).await;
            }
            while let Ok(settled) = submitted.try_recv() {
                waiting.settled.push_back(settled);
            }
            if waiting.suspended.is_some() {
                let dropped: Vec<_> = waiting.settled.drain(..).collect();
                if !dropped.is_empty() {
                    waiting.last += 1;
                    let number = (waiting.last, waiting.last);
                    waiting.gap = Some(self.dropped(waiting.gap.take(), &dropped, number).await);
                }
            } else if waiting.has_group() {
                next_group = Instant::now() + GROUP_EVERY;
                let published = self.publish(waiting.group()).await;
                waiting.published(published);
            }
        }
        if let Some(gap) = waiting.gap {
            self.record_gap(gap).await;
        }
    }

    /// Records the gap in the database, because the process ends and the broker has accepted no batch since.
    async fn record_gap(&self, gap: Gap) {
        let (count, mut books) = (gap.count, Books::default());
        books.add(Record::Gap(gap));
        match timeout(GAP_RECORDED_MAX, self.context.store.record(&books, &[])).await {
            Ok(Ok(())) => {
                self.context.presence.tally.gap_recorded();
                tracing::warn!(
                    records = count,
                    "shut down with a gap in the journal; the gap is recorded, and `magnetite audit` lists it"
                );
            }
            failed => {
                let error = failed.ok().and_then(Result::err);
                tracing::error!(
                    records = count,
                    error = error.map(|error| display_chain(&error)),
                    "shut down with a gap in the journal, and the gap could not be recorded; `magnetite audit` may report it only as missing batches"
                );
            }
        }
    }

    /// Publishes a group's batches and acknowledges its messages, whether or not publishing succeeded.
    async fn publish(&self, group: Group) -> Published {
        let numbers = (group.first, group.last());
        self.context.tails.copy(&group.batches);
        let batches = self.numbered(&group);
        let Group {
            settled,
            records,
            gap,
            ..
        } = group;
        if let Err(error) = self.confirmed(&batches).await {
            if let Some(report) = self.refused.again() {
                tracing::warn!(
                    error = display_chain(&error),
                    failures = report.times,
                    "the broker does not accept journal records, and they are dropped; deliveries continue, and the gap is recorded later"
                );
            }
            return Err(self.dropped(gap, &settled, numbers).await);
        }
        meters::JOURNAL_RECORDS.count([]).increment(records);
        self.context.presence.tally.confirmed(numbers.1, records);
        let ended = self.refused.end();
        if let (Some(Gap { count, .. }), Some(_)) = (gap, ended) {
            tracing::warn!(
                records = count,
                "the broker accepts journal records again; the gap is recorded, and `magnetite audit` lists it"
            );
        }
        self.ack(&settled);
        Ok(())
    }

    /// Returns the group's batches as messages, each with its number.
    fn numbered(&self, group: &Group) -> Vec<Outgoing> {
        let made_ms = now_ms();
        let messages = (group.first..).zip(&group.batches).map(|(number, batch)| {
            let stamp = BatchStamp {
                worker: self.worker.clone(),
                number,
                settled: group.first - 1,
                made_ms,
            };
            Outgoing::journal(&self.topology, &stamp, batch.clone())
        });
        messages.collect()
    }

    /// Acknowledges messages without recording them, and returns the gap extended by their records. Before
    /// the first of these acks, announces to the database that records are dropped.
    async fn dropped(&self, gap: Option<Gap>, dropped: &[Settled], batches: (u64, u64)) -> Gap {
        let count: usize = dropped.iter().map(|settled| settled.records.len()).sum();
        meters::JOURNAL_DROPPED.count([]).increment(count as u64);
        if self.context.presence.tally.dropped(batches, count as u64) {
            self.tell_dropping().await;
        }
        self.ack(dropped);
        let until_ms = now_ms();
        let lost = Gap {
            worker: self.worker.clone(),
            from_ms: until_ms,
            until_ms,
            count: count as u64,
            batches: Some(batches),
        };
        united(gap, lost)
    }

    async fn tell_dropping(&self) {
        let context = Arc::clone(&self.context);
        let may_wait = !context.presence.is_failing();
        // This runs in its own task: dropping the future at the timeout would interrupt a statement halfway.
        let telling =
            tokio::spawn(async move { context.presence.announce(&context.store, &context.registry).await });
        let told = may_wait && matches!(timeout(TOLD_MAX, telling).await, Ok(Ok(Ok(()))));
        if !told {
            tracing::debug!("not announced to the database yet that records are dropped");
        }
    }

    fn ack(&self, settled: &[Settled]) {
        for Settled { work, .. } in settled {
            self.recall.acknowledge(work);
        }
    }

    /// Waits until publishing can be tried again: until `suspended`, and until the broker accepts publishes.
    async fn resumed(&self, suspended: Option<Instant>) {
        sleep_until(suspended.unwrap_or_else(Instant::now)).await;
        // An error means that the process ends. The last publish will report it again.
        let _ = self.link.writable().await;
    }

    async fn confirmed(&self, batches: &[Outgoing]) -> Result<(), PublishError> {
        let (mut redeclared, mut broken, mut last) = (false, 0, Weak::new());
        loop {
            let connection = Arc::downgrade(&self.link.connection().await?);
            if !Weak::ptr_eq(&last, &connection) {
                (broken, last) = (0, connection);
            }
            let results = self.publisher.publish_all(batches).await;
            let Some(error) = results.into_iter().find_map(Result::err) else {
                return Ok(());
            };
            match error {
                // The connection broke. Batches that had arrived are recorded twice, which has the same
                // effect as once.
                PublishError::Broken { .. } | PublishError::NotConnected { .. } if broken < BROKEN_MAX => {
                    let stays = last
                        .upgrade()
                        .is_some_and(|connection| connection.status().connected());
                    broken += u32::from(stays);
                    sleep(broker::backoff(0)).await;
                }
                PublishError::Unroutable { .. } if !redeclared => {
                    redeclared = true;
                    // If this fails, the next publish meets the same error.
                    let _ = timeout(RECORDED_MAX, self.topology.declare(&self.link)).await;
                }
                error => return Err(error),
            }
        }
    }
}

impl Waiting {
    fn new() -> Self {
        Self {
            settled: VecDeque::new(),
            batch: Batch::new(),
            last: 0,
            gap: None,
            suspended: None,
        }
    }

    fn has_group(&self) -> bool {
        !self.settled.is_empty() || (self.gap.is_some() && self.suspended.is_none())
    }

    /// Takes the oldest messages, as many as fit into [`BATCHES_MAX`] batches and at least one, and the gap
    /// before them.
    fn group(&mut self) -> Group {
        let mut group = Group {
            settled: Vec::new(),
            batches: Vec::new(),
            first: self.last + 1,
            records: 0,
            gap: self.gap.take(),
        };
        let batch = &mut self.batch;
        if let Some(gap) = &group.gap {
            batch.push(&Record::Gap(gap.clone()));
        }
        while group.batches.len() < BATCHES_MAX
            && let Some(settled) = self.settled.pop_front()
        {
            for record in &settled.records {
                if batch.bytes() >= BATCH_BYTES {
                    group.end(batch);
                }
                batch.push(record);
            }
            group.settled.push(settled);
        }
        group.end(batch);
        self.last = group.last();
        group
    }

    fn published(&mut self, published: Published) {
        if let Err(gap) = published {
            self.suspended = Some(Instant::now() + SUSPENDED);
            self.gap = Some(gap);
        }
    }
}

impl Group {
    /// Returns the number of the group's last batch.
    fn last(&self) -> u64 {
        self.first + self.batches.len() as u64 - 1
    }

    /// Completes the current batch and adds it to the group.
    fn end(&mut self, batch: &mut Batch) {
        self.records += batch.records();
        self.batches.push(batch.take());
    }
}

/// Combines two gaps into one. `lost` is the later one.
fn united(gap: Option<Gap>, lost: Gap) -> Gap {
    let Some(gap) = gap else { return lost };
    let first = gap.batches.or(lost.batches).map(|(first, _)| first);
    let last = lost.batches.or(gap.batches).map(|(_, last)| last);
    Gap {
        worker: gap.worker,
        from_ms: gap.from_ms.min(lost.from_ms),
        until_ms: if lost.count > 0 {
            gap.until_ms.max(lost.until_ms)
        } else {
            gap.until_ms
        },
        count: gap.count + lost.count,
        batches: first.zip(last),
    }
}
