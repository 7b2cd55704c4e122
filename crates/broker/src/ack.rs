//! Acknowledging and requeueing of consumed messages.
//!
//! Each channel that consumes has [`ChannelAcks`], which record the open delivery tags, and one task that
//! writes the acks. When no tag is open any more, a single ack covers everything. While other messages are
//! still being processed, acks are gathered, and one `multiple` ack covers the settled prefix.
//!
//! Messages that are settled behind an open tag wait for the prefix to catch up, which usually happens within
//! milliseconds. They do not wait long, and never more than half of the prefetch waits. After that, single
//! acks cover them, so that one attempt that hangs delays no other ack. An ack costs RabbitMQ and this
//! process about as much as a small message, whether it settles one message or a hundred.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicNackOptions},
};
use metrics::Gauge;
use runtime::vital;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::meters;

/// A handle that settles one message. Dropping it does not settle the message: the broker redelivers the
/// message when the channel closes.
#[derive(Clone, Debug)]
pub struct AckHandle {
    acks: Arc<ChannelAcks>,
    tag: u64,
}

/// The channel that a message was received on. It does not keep the channel open.
#[derive(Clone, Debug)]
pub struct Origin(Weak<ChannelAcks>);

impl Origin {
    /// Returns whether the channel is still open. While it is, the broker redelivers none of its messages.
    pub fn is_live(&self) -> bool {
        self.0.upgrade().is_some_and(|acks| acks.is_live())
    }
}

/// The open delivery tags of one channel that consumes, and the way to the task that writes their acks.
pub(crate) struct ChannelAcks {
    channel: Channel,
    open: Arc<Open>,
    /// The queue of the task that writes acks. It is unbounded, but contains every tag at most once, so the
    /// prefetch bounds it.
    settled: mpsc::UnboundedSender<Settle>,
}

/// The tags that were handed out and not settled yet, and the gauge of their number. The gauge also includes
/// the tags of earlier channels of the same queue.
struct Open {
    tags: Mutex<BTreeSet<u64>>,
    unacked: Gauge,
}

#[derive(Clone, Copy, Debug)]
enum Settle {
    Ack(u64),
    Requeue(u64),
}

impl AckHandle {
    /// Acknowledges the message, so that the broker removes it from the queue. Returns immediately; the ack
    /// is written shortly afterwards, together with others.
    pub fn ack(&self) {
        // An error means that the channel is closed; the broker then redelivers the message.
        let _ = self.acks.settled.send(Settle::Ack(self.tag));
    }

    /// Returns the message to the queue, for any worker. RabbitMQ counts this towards the delivery limit.
    pub fn requeue(&self) {
        let _ = self.acks.settled.send(Settle::Requeue(self.tag));
    }

    /// Returns the channel that the message was received on, without the obligation to settle the message.
    pub fn origin(&self) -> Origin {
        Origin(Arc::downgrade(&self.acks))
    }

    /// Returns whether an ack can still reach the broker. If not, the broker redelivers the message or has
    /// done so already.
    pub fn is_live(&self) -> bool {
        self.acks.is_live()
    }
}

impl ChannelAcks {
    /// Starts the task that writes acks for messages received on this channel. `queue` is the name of the
    /// queue in metrics. The task ends when this value and its last handle are dropped.
    pub(crate) fn open(channel: Channel, queue: &str, prefetch: u16) -> (Arc<Self>, JoinHandle<()>) {
        let (settled, settles) = mpsc::unbounded_channel();
        let unacked = meters::UNACKED.level([queue]);
        unacked.increment(0.0);
        let open = Arc::new(Open {
            tags: Mutex::default(),
            unacked,
        });
        let writing = write_settles(
            channel.clone(),
            Arc::clone(&open),
            settles,
            Gathered::of(prefetch),
        );
        let writing = tokio::spawn(vital("acks", writing));
        let acks = Self {
            channel,
            open,
            settled,
        };
        (Arc::new(acks), writing)
    }

    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(crate) fn is_live(&self) -> bool {
        self.channel.status().connected()
    }

    /// Records this tag as open and returns the handle that settles its message.
    pub(crate) fn hand_out(self: &Arc<Self>, tag: u64) -> AckHandle {
        self.open.with(|open| open.insert(tag));
        AckHandle {
            acks: Arc::clone(self),
            tag,
        }
    }
}

impl fmt::Debug for ChannelAcks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelAcks")
            .field("channel", &self.channel.id())
            .finish_non_exhaustive()
    }
}

impl Open {
    fn with<T>(&self, change: impl FnOnce(&mut BTreeSet<u64>) -> T) -> T {
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        let before = tags.len() as f64;
        let changed = change(&mut tags);
        self.unacked.increment(tags.len() as f64 - before);
        changed
    }
}

/// Subtracts the tags that are still open from the gauge, because the broker redelivers their messages.
impl Drop for Open {
    fn drop(&mut self) {
        let tags = self.tags.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.unacked.decrement(tags.len() as f64);
    }
}

/// The number of settled messages in the prefix that are acknowledged without waiting for more.
const ACKED_TOGETHER: usize = 32;
/// How long a settled message waits for the prefix to catch up. This is many times the response time of a
/// fast endpoint, and short enough that few messages are delivered again after a crash.
const ACK_WAIT: Duration = Duration::from_millis(50);

/// Writes acks until the [`ChannelAcks`] and every handle are dropped, or the channel is closed.
async fn write_settles(
    channel: Channel,
    open: Arc<Open>,
    mut settles: mpsc::UnboundedReceiver<Settle>,
    mut gathered: Gathered,
) {
    let mut batch = Vec::new();
    loop {
        let receiving = settles.recv_many(&mut batch, usize::MAX);
        let received = match gathered.until {
            Some(until) => timeout_at(until, receiving).await,
            None => Ok(receiving.await),
        };
        // All handles are dropped, or no message was settled in time.
        let is_due = received.is_err() || received == Ok(0);
        let plan = open.with(|open| gathered.plan(open, &batch, is_due));
        batch.clear();
        gathered.until = match gathered.until {
            _ if gathered.acks.is_empty() => None,
            // The prefix has just advanced, so it may soon include the remaining tags.
            Some(until) if plan.prefix.is_none() => Some(until),
            _ => Some(Instant::now() + ACK_WAIT),
        };
        if write(&channel, plan).await.is_err() || received == Ok(0) {
            return;
        }
    }
}

async fn write(channel: &Channel, plan: Plan) -> Result<(), lapin::Error> {
    let multiple = BasicAckOptions { multiple: true };
    if let Some(tag) = plan.prefix {
        channel.basic_ack(tag, multiple).await?;
    }
    let single = plan
        .single
        .into_iter()
        .map(|tag| channel.basic_ack(tag, BasicAckOptions::default()));
    let nack = BasicNackOptions {
        multiple: false,
        requeue: true,
    };
    let requeue = plan.requeue.into_iter().map(|tag| channel.basic_nack(tag, nack));
    let (acked, requeued) = tokio::join!(join_all(single), join_all(requeue));
    acked.into_iter().chain(requeued).collect()
}

/// Settled tags whose acks are not written yet.
#[derive(Debug)]
struct Gathered {
    acks: Vec<u64>,
    /// The number of gathered acks from which on they do not wait any longer.
    max: usize,
    /// When the gathered acks are written at the latest; `None` if there are none.
    until: Option<Instant>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// The highest tag of the settled prefix: all unacknowledged tags up to it are settled.
    prefix: Option<u64>,
    single: Vec<u64>,
    requeue: Vec<u64>,
}

impl Gathered {
    /// Creates an empty collection. At most half of the prefetch waits, so that the other half keeps the
    /// worker busy.
    fn of(prefetch: u16) -> Self {
        Self {
            acks: Vec::new(),
            max: usize::from(prefetch / 2).max(1),
            until: None,
        }
    }

    /// Removes settled tags from the open ones and returns which frames to write, in this order: one ack for
    /// the prefix before the first open tag, and one ack for each of the other tags. A requeued tag counts as
    /// open for the prefix, because the ack of the prefix must not include it.
    ///
    /// Unless `is_due` is set or too many acks have gathered, the other tags wait. A short prefix also waits
    /// while any tag is open.
    fn plan(&mut self, open: &mut BTreeSet<u64>, batch: &[Settle], is_due: bool) -> Plan {
        let mut plan = Plan::default();
        for settle in batch {
            match settle {
                Settle::Ack(tag) if open.remove(tag) => self.acks.push(*tag),
                Settle::Requeue(tag) if open.contains(tag) => plan.requeue.push(*tag),
                // The tag was settled before: a second ack of a tag would make the broker close the channel.
                _ => {}
            }
        }
        let is_due = is_due || self.acks.len() >= self.max;
        let first_open = open.first().copied().unwrap_or(u64::MAX);
        let before = self.acks.iter().filter(|tag| **tag < first_open);
        if is_due || open.is_empty() || before.clone().count() >= ACKED_TOGETHER {
            plan.prefix = before.max().copied();
            self.acks.retain(|tag| *tag > first_open);
        }
        if is_due {
            plan.single = std::mem::take(&mut self.acks);
        }
        plan.requeue.sort_unstable();
        plan.requeue.dedup();
        for tag in &plan.requeue {
            open.remove(tag);
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn acks(tags: &[u64]) -> Vec<Settle> {
        tags.iter().map(|tag| Settle::Ack(*tag)).collect()
    }

    fn due(open: &mut BTreeSet<u64>, batch: &[Settle]) -> Plan {
        Gathered::of(512).plan(open, batch, true)
    }

    #[test]
    fn a_settled_prefix_is_one_ack_and_what_is_behind_an_open_tag_is_acked_singly() {
        let mut open: BTreeSet<u64> = (1..=6).collect();
        let first = due(&mut open, &acks(&[2, 1, 4]));
        assert_eq!(
            first,
            Plan {
                prefix: Some(2),
                single: vec![4],
                requeue: vec![]
            }
        );
        let second = due(&mut open, &acks(&[5]));
        assert_eq!(
            second,
            Plan {
                prefix: None,
                single: vec![5],
                requeue: vec![]
            }
        );
        let third = due(&mut open, &acks(&[3, 6]));
        assert_eq!(
            third,
            Plan {
                prefix: Some(6),
                single: vec![],
                requeue: vec![]
            }
        );
        assert!(open.is_empty());
    }

    #[test]
    fn acks_wait_for_their_company_only_while_a_tag_is_open() {
        let (mut open, mut gathered): (BTreeSet<u64>, _) = ((1..=40).collect(), Gathered::of(512));
        assert_eq!(gathered.plan(&mut open, &acks(&[1, 3]), false), Plan::default());
        let rest: Vec<_> = (4..=40).collect();
        assert_eq!(gathered.plan(&mut open, &acks(&rest), false), Plan::default());
        let last = gathered.plan(&mut open, &acks(&[2]), false);
        assert_eq!((last.prefix, last.single.len()), (Some(40), 0));
        assert!(gathered.acks.is_empty());
    }

    #[test]
    fn a_long_prefix_does_not_wait() {
        let (mut open, mut gathered): (BTreeSet<u64>, _) = ((1..=40).collect(), Gathered::of(512));
        let many: Vec<_> = (1..=32).chain([35]).collect();
        let plan = gathered.plan(&mut open, &acks(&many), false);
        assert_eq!((plan.prefix, plan.single.len()), (Some(32), 0));
        assert_eq!(gathered.acks, [35]);
    }

    #[test]
    fn what_waits_behind_an_open_tag_is_at_most_half_of_the_prefetch() {
        let (mut open, mut gathered): (BTreeSet<u64>, _) = ((1..=64).collect(), Gathered::of(64));
        let many: Vec<_> = (2..=32).collect();
        assert_eq!(gathered.plan(&mut open, &acks(&many), false), Plan::default());
        let plan = gathered.plan(&mut open, &acks(&[40]), false);
        assert_eq!((plan.prefix, plan.single.len()), (None, 32));
        assert!(gathered.acks.is_empty());
    }

    #[test]
    fn a_tag_settled_twice_is_written_once() {
        let mut open: BTreeSet<u64> = (1..=2).collect();
        assert_eq!(due(&mut open, &acks(&[1, 1])).prefix, Some(1));
        assert_eq!(due(&mut open, &acks(&[1])), Plan::default());
        let requeued = due(&mut open, &[Settle::Requeue(2), Settle::Requeue(2)]);
        assert_eq!(requeued.requeue, [2]);
    }

    #[test]
    fn a_requeued_tag_is_never_covered_by_the_prefix() {
        let mut open: BTreeSet<u64> = (1..=3).collect();
        let plan = due(&mut open, &[Settle::Requeue(1), Settle::Ack(2), Settle::Ack(3)]);
        assert_eq!(
            plan,
            Plan {
                prefix: None,
                single: vec![2, 3],
                requeue: vec![1]
            }
        );
    }

    proptest! {
        /// Simulates a broker that follows the protocol: every tag is acked or requeued exactly once, and
        /// only tags that are settled.
        #[test]
        fn every_settled_tag_is_settled_exactly_once_at_the_broker(
            order in Just((1_u64..=40).collect::<Vec<_>>()).prop_shuffle(),
            cuts in prop::collection::vec(1_usize..10, 1..20),
            requeued in prop::collection::hash_set(1_u64..=40, 0..8),
            due in prop::collection::vec(any::<bool>(), 40),
            prefetch in 1_u16..100,
        ) {
            let mut open: BTreeSet<u64> = (1..=40).collect();
            let mut unacked = open.clone();
            let mut settled = BTreeSet::new();
            let (mut rest, mut gathered) = (order.as_slice(), Gathered::of(prefetch));
            for (cut, is_due) in cuts.into_iter().cycle().zip(due.into_iter().chain([true])) {
                let (batch, after) = rest.split_at(cut.min(rest.len()));
                rest = after;
                settled.extend(batch.iter().copied());
                let settles: Vec<_> = batch.iter()
                    .map(|tag| if requeued.contains(tag) { Settle::Requeue(*tag) } else { Settle::Ack(*tag) })
                    .collect();
                let plan = gathered.plan(&mut open, &settles, is_due);
                if let Some(prefix) = plan.prefix {
                    prop_assert!(unacked.contains(&prefix));
                    let covered: Vec<_> = unacked.range(..=prefix).copied().collect();
                    for tag in covered {
                        prop_assert!(settled.contains(&tag) && !requeued.contains(&tag));
                        unacked.remove(&tag);
                    }
                }
                for tag in plan.single {
                    prop_assert!(unacked.remove(&tag) && !requeued.contains(&tag));
                }
                for tag in plan.requeue {
                    prop_assert!(unacked.remove(&tag) && requeued.contains(&tag));
                }
            }
            prop_assert!(unacked.is_empty() && open.is_empty());
        }
    }
}
