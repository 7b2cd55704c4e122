//! The streams of what workers record: all of them share one queue on the broker, which exists while there are
//! streams.
//!
//! [`service::tail`] passes the records to the streams. This module counts the streams, begins to watch with the
//! first one, and ends some time after the last. Workers send copies to a limited number of queues, and to each of
//! them for some time after it was last used. If each stream began with a new queue, a client that opens and closes
//! streams quickly would leave no place for those of other processes. The connection to the broker is kept, so that
//! its metrics show whether the next stream can begin.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use broker::{Link, Topology};
use runtime::vital;
use service::{
    tail::{Filter, Line, Reader, Readers},
    view::ForCustomers as _,
};
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;
use wire::TailLine;

use crate::{
    caller::Caller,
    config::STREAMS_MAX,
    shares::{Share, Shares},
};

/// How long to watch after the last stream has ended: twice as long as workers send copies to a queue.
const WATCH_ON: Duration = Duration::from_secs(30);
/// The interval of checks whether there are streams.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The open streams, and what is needed for them.
pub(crate) struct Streams {
    link: Link,
    /// Closes the link.
    close: CancellationToken,
    topology: Topology,
    /// Ends all streams.
    stop: CancellationToken,
    shares: Shares,
    /// `None` while there are no streams, and were none for some time.
    watching: Mutex<Option<Watching>>,
}

/// What all streams share.
struct Watching {
    readers: Arc<Readers>,
    /// The number of streams.
    count: usize,
    /// When a stream last began or ended.
    changed: Instant,
}

/// A stream. Dropping it ends it.
pub(crate) struct Stream {
    reader: Reader,
    streams: Arc<Streams>,
    _share: Share,
}

impl Streams {
    /// Starts to connect to the broker. Streams end when `stop` is cancelled.
    pub(crate) fn new(broker: &broker::Config, topology: Topology, stop: CancellationToken) -> Arc<Self> {
        let close = CancellationToken::new();
        Arc::new(Self {
            link: Link::open(broker, "magnetite api streams", close.clone()),
            close,
            topology,
            stop,
            shares: Shares::new(STREAMS_MAX),
            watching: Mutex::default(),
        })
    }

    /// Begins a stream of the records that the filter accepts. Returns `None` if the caller's share of the
    /// streams is used up.
    pub(crate) fn begin(self: &Arc<Self>, caller: &Caller, filter: Filter) -> Option<Stream> {
        let share = self.shares.take(caller, 1)?;
        let mut watching = self.watching();
        let watching = watching.get_or_insert_with(|| self.watch());
        watching.count += 1;
        watching.changed = Instant::now();
        Some(Stream {
            reader: watching.readers.add(filter),
            streams: Arc::clone(self),
            _share: share,
        })
    }

    /// Begins to receive what workers record.
    fn watch(self: &Arc<Self>) -> Watching {
        let readers = Readers::new(TailLine::for_customers);
        let (streams, watching) = (Arc::clone(self), Arc::clone(&readers));
        tokio::spawn(vital("streams of records", async move {
            let stop = streams.close.child_token();
            let watching = watching.watch(&streams.link, &streams.topology, &stop);
            tokio::join!(watching, streams.stop_when_unused(&stop));
        }));
        Watching {
            readers,
            count: 0,
            changed: Instant::now(),
        }
    }

    /// Cancels `stop` when there were no streams for some time.
    async fn stop_when_unused(&self, stop: &CancellationToken) {
        let mut looks = interval(LOOK_EVERY);
        let unused = async {
            while !self.forget_if_unused() {
                looks.tick().await;
            }
        };
        stop.run_until_cancelled(unused).await;
        stop.cancel();
    }

    /// Returns whether there were no streams for some time. The next stream then begins to watch again.
    fn forget_if_unused(&self) -> bool {
        let mut watching = self.watching();
        let is_unused = watching
            .as_ref()
            .is_some_and(|watching| watching.count == 0 && watching.changed.elapsed() >= WATCH_ON);
        if is_unused {
            *watching = None;
        }
        is_unused
    }

    /// Waits until streams have to end.
    pub(crate) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Closes the connection, whether or not all streams have ended.
    pub(crate) async fn shutdown(&self) {
        self.close.cancel();
        self.link.closed().await;
    }

    fn watching(&self) -> MutexGuard<'_, Option<Watching>> {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    /// Waits for lines. Returns `None` when the API shuts down.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub(crate) async fn next(&self) -> Option<Vec<Arc<Line>>> {
        self.streams.stop.run_until_cancelled(self.reader.next()).await
    }

    /// Waits until many lines wait, so that they should be taken soon.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub(crate) async fn many(&self) {
        self.reader.many().await;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(watching) = self.streams.watching().as_mut() {
            watching.count -= 1;
            watching.changed = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// An address at which no broker listens.
    const NO_BROKER: &str = "amqp://guest:guest@127.0.0.1:1/%2f";

    #[tokio::test(start_paused = true)]
    async fn streams_that_follow_each_other_share_a_queue_and_it_is_given_up_after_the_last() {
        let broker = broker::Config::new(NO_BROKER, "m").unwrap();
        let streams = Streams::new(&broker, Topology::new("m", &[]), CancellationToken::new());
        let caller = Caller::with("key_1", Some("org_1"));
        let begin = || streams.begin(&caller, Filter::default()).unwrap();
        let readers = || {
            streams
                .watching()
                .as_ref()
                .map(|watching| Arc::clone(&watching.readers))
        };
        drop(begin());
        let first = readers().unwrap();
        for _ in 0..5 {
            sleep(WATCH_ON / 2).await;
            drop(begin());
            assert!(Arc::ptr_eq(&first, &readers().unwrap()));
        }
        let last = begin();
        sleep(2 * WATCH_ON).await;
        assert!(Arc::ptr_eq(&first, &readers().unwrap()));
        drop(last);
        sleep(2 * WATCH_ON).await;
        assert!(readers().is_none());
        let _again = begin();
        assert!(!Arc::ptr_eq(&first, &readers().unwrap()));
    }
}
