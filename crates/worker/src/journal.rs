//! The last step of a message: what it came to is recorded, then the message is acked.
//!
//! Records of many messages make one batch, one message for the recorder. While a batch is being confirmed the next one gathers,
//! as in `settle`: an idle worker records at once, a busy one in batches. One at a time and [`GROUP_EVERY`] at most, so that they
//! are few and large: what a batch costs the broker does not depend on its size alone.
//!
//! Recording holds up nothing. A batch that is not confirmed within [`RECORDED_MAX`] is dropped, its messages are acked, and
//! what was dropped is counted: once the broker takes batches again, a gap says how many records are missing, and from when
//! until when. Only while there is no connection at all batches are kept, however long that is: their messages cannot be acked
//! either.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use broker::{Link, Outgoing, PublishError, Publisher, Topology};
use bytes::Bytes;
use runtime::Lasting;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use webhook::journal::{BATCH_BYTES_MAX, Batch, Gap, Record};

use crate::{
    Config, display_chain, now_ms,
    recall::{Recall, Work},
    settlement::Settlement,
};

/// From the beginning of a group until that of the next, at least: some hundred records at full speed.
const GROUP_EVERY: Duration = Duration::from_millis(10);
/// How long the acks of settled messages wait for their records' confirm.
const RECORDED_MAX: Duration = Duration::from_secs(2);
/// After a batch was refused, how long records are dropped without another try.
const SUSPENDED: Duration = Duration::from_secs(1);
/// A batch takes no further record from this size on. One more always fits: the largest record, an event of the largest size with
/// as many endpoints as one record may name, is about 600 KiB.
const BATCH_BYTES: usize = BATCH_BYTES_MAX / 4;
/// A group takes no further message from so many batches on: 4 MiB, so that groups of large bodies are not groups of one or two.
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
    records: u64,
    /// What was lost before it, which is recorded with it.
    gap: Option<Gap>,
}

/// What became of a group: what was lost when it was not taken, and is still to be recorded.
type Published = Result<(), Option<Gap>>;

/// What is to be recorded, and what could not be. The former is bounded by the prefetch: each is an unacked message.
struct Waiting {
    settled: VecDeque<Settled>,
    /// Empty between two groups.
    batch: Batch,
    gap: Option<Gap>,
    /// Until when nothing is tried after a failure.
    suspended: Option<Instant>,
}

impl Journal {
    pub(crate) fn new(
        broker: &broker::Config,
        link: Link,
        topology: Topology,
        recall: Arc<Recall>,
        worker: String,
    ) -> Self {
        let mut broker = broker.clone();
        broker.publish_timeout = RECORDED_MAX;
        Self {
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
                waiting.gap = self.dropped(waiting.gap.take(), &dropped);
            } else if waiting.has_group() {
                next_group = Instant::now() + GROUP_EVERY;
                let published = self.publish(waiting.group()).await;
                waiting.published(published);
            }
        }
        if let Some(Gap { count, .. }) = waiting.gap {
            tracing::error!(
                count,
                "shut down with records lost, and the gap could not be recorded"
            );
        }
    }

    /// Publishes a group's batches and acks its messages, whether or not they could be published.
    async fn publish(&self, group: Group) -> Published {
        let Group {
            settled,
            batches,
            records,
            gap,
        } = group;
        let batches: Vec<_> = batches
            .into_iter()
            .map(|batch| Outgoing::journal(&self.topology, batch))
            .collect();
        if let Err(error) = self.confirmed(&batches).await {
            if let Some(report) = self.refused.again() {
                tracing::warn!(
                    error = display_chain(&error),
                    failures = report.times,
                    "the journal's records are not taken and are dropped; deliveries go on, and the gap is recorded later"
                );
            }
            return Err(self.dropped(gap, &settled));
        }
        metrics::counter!("magnetite_journal_records_total").increment(records);
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

    /// Acks messages without their records, and widens the gap by them.
    fn dropped(&self, gap: Option<Gap>, dropped: &[Settled]) -> Option<Gap> {
        let count: usize = dropped.iter().map(|settled| settled.records.len()).sum();
        if count == 0 {
            return gap;
        }
        metrics::counter!("magnetite_journal_dropped_total").increment(count as u64);
        self.ack(dropped);
        let until_ms = now_ms();
        let lost = Gap {
            worker: self.worker.clone(),
            from_ms: until_ms,
            until_ms,
            count: count as u64,
        };
        Some(united(gap, lost))
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
        let mut redeclared = false;
        loop {
            self.link.connection().await?;
            let results = self.publisher.publish_all(batches).await;
            let Some(error) = results.into_iter().find_map(Result::err) else {
                return Ok(());
            };
            match error {
                // The connection broke. What had arrived is recorded twice, which is no more than once.
                PublishError::Broken { .. } | PublishError::NotConnected { .. } => {
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
        group
    }

    fn published(&mut self, published: Published) {
        let Err(gap) = published else { return };
        self.suspended = Some(Instant::now() + SUSPENDED);
        if let Some(lost) = gap {
            self.gap = Some(united(self.gap.take(), lost));
        }
    }
}

impl Group {
    /// The batch has all it takes.
    fn end(&mut self, batch: &mut Batch) {
        self.records += batch.records();
        self.batches.push(batch.take());
    }
}

/// One gap over both.
fn united(gap: Option<Gap>, lost: Gap) -> Gap {
    match gap {
        None => lost,
        Some(gap) => Gap {
            worker: gap.worker,
            from_ms: gap.from_ms.min(lost.from_ms),
            until_ms: gap.until_ms.max(lost.until_ms),
            count: gap.count + lost.count,
        },
    }
}
