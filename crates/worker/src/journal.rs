//! The last step of a message: what it came to is recorded, then the message is acked.
//!
//! Records of many messages make one batch, one message for the recorder. While a batch is being confirmed
//! the next one gathers, as in `settle`: an idle worker records at once, a busy one in batches. One at a time
//! and [`GROUP_EVERY`] at most, so that they are few and large: what a batch costs the broker does not depend
//! on its size alone.
//!
//! Recording holds up nothing. A batch that is not confirmed within [`RECORDED_MAX`] is dropped, its messages
//! are acked, and what was dropped is counted: once the broker takes batches again, a gap says how many
//! records are missing, and from when until when. Only while there is no connection at all batches are kept,
//! however long that is: their messages cannot be acked either.
//!
//! Batches are numbered, and one that is dropped uses up its number, so that a worker that dies before it
//! could record a gap leaves a hole (see [`webhook::journal::Numbers`]) or its last word: before the worker
//! acks the first message without its records, it announces to the database that it drops some, and waits for
//! that for [`TOLD_MAX`] at most.

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

use crate::{
    Config, Context, display_chain, meters, now_ms,
    recall::{Recall, Work},
    settlement::Settlement,
};

/// From the beginning of a group until that of the next, at least: some hundred records at full speed.
const GROUP_EVERY: Duration = Duration::from_millis(10);
/// How long the acks of settled messages wait for their records' confirm.
const RECORDED_MAX: Duration = Duration::from_secs(2);
/// How often publishing may break while its connection stays: then it is the channels that end, since the
/// broker refuses what is published.
const BROKEN_MAX: u32 = 10;
/// How long the first acks without records wait until the database knows that there are some. One that is
/// known to be away is not waited for.
const TOLD_MAX: Duration = Duration::from_millis(500);
/// How long it may take at the end to record in the database what the broker does not take.
const GAP_RECORDED_MAX: Duration = Duration::from_millis(500);
/// After a batch was refused, how long records are dropped without another try.
const SUSPENDED: Duration = Duration::from_secs(1);
/// A batch takes no further record from this size on. One more always fits: the largest record, an event of
/// the largest size with as many endpoints as one record may name, is about 600 KiB.
const BATCH_BYTES: usize = BATCH_BYTES_MAX / 4;
/// A group takes no further message from so many batches on: 4 MiB, so that groups of large bodies are not
/// groups of one or two.
const BATCHES_MAX: usize = 16;

/// The way to the ack.
#[derive(Clone)]
pub(crate) struct Closing {
    recall: Arc<Recall>,
    submit: mpsc::Sender<Settled>,
}

/// A message that owes nothing any more.
pub(crate) struct Settled {
    work: Arc<Work>,
    records: Vec<Record>,
}

/// With room for every message that can be in work.
pub(crate) fn channel(config: &Config, recall: Arc<Recall>) -> (Closing, mpsc::Receiver<Settled>) {
    let (submit, settled) = mpsc::channel(config.unacked_max());
    (Closing { recall, submit }, settled)
}

impl Closing {
    /// Records what the message came to, which owes nothing any more, and acks it.
    pub(crate) async fn close(&self, work: Arc<Work>, settlement: Settlement) {
        let records = settlement.into_records();
        if records.is_empty() {
            self.recall.settled(&work);
        } else {
            // The journal ends only after everyone who could submit.
            let _ = self.submit.send(Settled { work, records }).await;
        }
    }
}

pub(crate) struct Journal {
    context: Arc<Context>,
    publisher: Publisher,
    link: Link,
    topology: Topology,
    recall: Arc<Recall>,
    worker: String,
    /// Batches are not taken.
    refused: Lasting,
}

/// Messages whose records are published together.
struct Group {
    settled: Vec<Settled>,
    /// Encoded; one, unless bodies are large.
    batches: Vec<Bytes>,
    /// The number of the first of them.
    first: u64,
    records: u64,
    /// What was lost before it, which is recorded with it.
    gap: Option<Gap>,
}

/// What became of a group: if it was not taken, what is lost with it and still to be recorded.
type Published = Result<(), Gap>;

/// What is to be recorded, and what could not be. The former is bounded by the prefetch: each is an unacked
/// message.
struct Waiting {
    settled: VecDeque<Settled>,
    /// Empty between two groups.
    batch: Batch,
    /// The last number that was used up; all up to it are settled between two groups.
    last: u64,
    gap: Option<Gap>,
    /// Until when nothing is tried after a failure.
    suspended: Option<Instant>,
}

impl Journal {
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

    /// Records and acks what is submitted until every sender is gone and nothing is left.
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
                // What is settled meanwhile gathers in the channel, and wakes nobody.
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

    /// Records the gap in the database: the broker has taken no batch since, and the process ends.
    async fn record_gap(&self, gap: Gap) {
        let (count, mut books) = (gap.count, Books::default());
        books.add(Record::Gap(gap));
        match timeout(GAP_RECORDED_MAX, self.context.store.record(&books, &[])).await {
            Ok(Ok(())) => {
                self.context.presence.tally.gap_recorded();
                tracing::warn!(
                    records = count,
                    "shut down with a gap in the journal, which is recorded; `magnetite audit` names it"
                );
            }
            failed => {
                let error = failed.ok().and_then(Result::err);
                tracing::error!(
                    count,
                    error = error.map(|error| display_chain(&error)),
                    "shut down with records lost, and the gap could not be recorded"
                );
            }
        }
    }

    /// Publishes a group's batches and acks its messages, whether or not they could be published.
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
                    "the journal's records are not taken and are dropped; deliveries go on, and the gap is recorded later"
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
                "the journal has a gap, which is recorded now; `magnetite audit` names it"
            );
        }
        self.ack(&settled);
        Ok(())
    }

    /// The group's batches as messages, each with its number.
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

    /// Acks messages without their records, once the database knows that there are some, and widens the gap
    /// by them.
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
        // In a task of its own: a statement that is given up would be cut off in the middle.
        let telling =
            tokio::spawn(async move { context.presence.announce(&context.store, &context.registry).await });
        let told = may_wait && matches!(timeout(TOLD_MAX, telling).await, Ok(Ok(Ok(()))));
        if !told {
            tracing::debug!("the database does not know yet that records are dropped");
        }
    }

    fn ack(&self, settled: &[Settled]) {
        for Settled { work, .. } in settled {
            self.recall.settled(work);
        }
    }

    /// Waits until there is a point in trying again.
    async fn resumed(&self, suspended: Option<Instant>) {
        sleep_until(suspended.unwrap_or_else(Instant::now)).await;
        // An error says that the process ends: the last try will say so again.
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
                // The connection broke. What had arrived is recorded twice, which is no more than once.
                PublishError::Broken { .. } | PublishError::NotConnected { .. } if broken < BROKEN_MAX => {
                    let stays = last
                        .upgrade()
                        .is_some_and(|connection| connection.status().connected());
                    broken += u32::from(stays);
                    sleep(broker::backoff(0)).await;
                }
                PublishError::Unroutable { .. } if !redeclared => {
                    redeclared = true;
                    // Its error is the one that the next try meets.
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

    /// The oldest messages, as many as [`BATCHES_MAX`] batches take, at least one; and the gap before them.
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
    /// The number of its last batch.
    fn last(&self) -> u64 {
        self.first + self.batches.len() as u64 - 1
    }

    /// The batch has all it takes.
    fn end(&mut self, batch: &mut Batch) {
        self.records += batch.records();
        self.batches.push(batch.take());
    }
}

/// One gap over both, of which the second is the later one.
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
