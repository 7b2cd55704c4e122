//! The streams of what workers record: all of them share one queue on the broker, which exists while there are
//! streams.
//!
//! [`service::tail`] passes the records to the streams. This module counts the streams, begins to watch with the
//! first one, and ends with the last. The connection to the broker is kept, so that its metrics show whether the
//! next stream can begin.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker::{Link, Topology};
use runtime::vital;
use service::{
    tail::{Filter, Line, Reader, Readers},
    view::ForCustomers as _,
};
use tokio_util::sync::CancellationToken;
use wire::TailLine;

use crate::{
    caller::Caller,
    config::STREAMS_MAX,
    shares::{Share, Shares},
};

/// The open streams, and what is needed for them.
pub(crate) struct Streams {
    link: Link,
    /// Closes the link.
    close: CancellationToken,
    topology: Topology,
    /// Ends all streams.
    stop: CancellationToken,
    shares: Shares,
    /// `None` while there are no streams.
    watching: Mutex<Option<Watching>>,
}

/// What all streams share.
struct Watching {
    readers: Arc<Readers>,
    /// The number of streams.
    count: usize,
    stop: CancellationToken,
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
        Some(Stream {
            reader: watching.readers.add(filter),
            streams: Arc::clone(self),
            _share: share,
        })
    }

    /// Begins to receive what workers record.
    fn watch(&self) -> Watching {
        let readers = Readers::new(TailLine::for_customers);
        let stop = self.close.child_token();
        let (watching, stopped) = (Arc::clone(&readers), stop.clone());
        let (link, topology) = (self.link.clone(), self.topology.clone());
        tokio::spawn(vital("streams of records", async move {
            watching.watch(&link, &topology, &stopped).await;
        }));
        Watching {
            readers,
            count: 0,
            stop,
        }
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
        let mut watching = self.streams.watching();
        if let Some(shared) = watching.as_mut() {
            shared.count -= 1;
            if shared.count == 0 {
                shared.stop.cancel();
                *watching = None;
            }
        }
    }
}
