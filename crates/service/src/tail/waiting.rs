//! The lines that wait for one reader.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use runtime::now_ms;
use tokio::sync::Notify;
use wire::TailLine;

/// The maximum size of the lines that wait for one reader, in bytes of JSON. This is more than one batch of a
/// worker contains. With a thousand readers that read nothing, it is half a gibibyte.
pub(super) const BYTES_MAX: usize = 512 * 1024;
/// The size of waiting lines that a reader should take at once, in bytes of JSON.
const MANY_BYTES: usize = BYTES_MAX / 8;

/// A line, which all readers share.
#[derive(Debug)]
pub struct Line {
    /// The line.
    pub value: TailLine,
    /// The line as JSON, with a newline at its end.
    pub json: String,
}

/// The lines that wait for one reader.
#[derive(Default)]
pub(super) struct Waiting {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Default)]
struct Queue {
    lines: Vec<Arc<Line>>,
    /// The size of `lines`, in bytes of JSON.
    bytes: usize,
    /// The number of lines that were dropped after `lines`.
    dropped: u64,
    /// What became of the connection after `lines`: at most two lines, of which the last one says what is so now.
    changes: Vec<Arc<Line>>,
}

impl Line {
    pub(super) fn new(value: TailLine) -> Arc<Self> {
        let mut json = serde_json::to_string(&value).expect("a line has text keys and no failing fields");
        json.push('\n');
        Arc::new(Self { value, json })
    }

    /// Returns whether the line is about the connection, and not about a record.
    const fn is_of_connection(&self) -> bool {
        matches!(
            self.value,
            TailLine::Watching { .. } | TailLine::Interrupted { .. }
        )
    }
}

impl Waiting {
    /// Adds a line. If too many bytes wait, drops it, unless it is about the connection: without these lines, the
    /// reader would not know that records are missing, or that they arrive again. Call [`wake`](Self::wake) after
    /// the last line.
    pub(super) fn push(&self, line: &Arc<Line>) {
        let mut queue = self.queue();
        let bytes = queue.bytes + line.json.len();
        if queue.has_room_for(bytes) {
            queue.bytes = bytes;
            queue.lines.push(Arc::clone(line));
        } else if !line.is_of_connection() {
            queue.dropped += 1;
        } else if queue.changes.len() == 2 {
            // The connection is again in the state that the first of the two says.
            queue.changes.pop();
        } else {
            queue.changes.push(Arc::clone(line));
        }
    }

    /// Wakes the reader, if lines wait.
    pub(super) fn wake(&self) {
        if !self.queue().lines.is_empty() {
            self.filled.notify_one();
        }
    }

    /// Waits until there are lines, and returns all of them. If lines were dropped, a line has their number. Only
    /// lines about the connection follow it.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub(super) async fn next(&self) -> Vec<Arc<Line>> {
        loop {
            let lines = self.take();
            if !lines.is_empty() {
                return lines;
            }
            self.filled.notified().await;
        }
    }

    /// Waits until the lines that wait have [`MANY_BYTES`].
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub(super) async fn many(&self) {
        while self.queue().bytes < MANY_BYTES {
            self.filled.notified().await;
        }
    }

    fn take(&self) -> Vec<Arc<Line>> {
        let Queue {
            mut lines,
            dropped,
            changes,
            ..
        } = mem::take(&mut *self.queue());
        if dropped > 0 {
            lines.push(Line::new(TailLine::Dropped {
                at_ms: now_ms(),
                count: dropped,
            }));
        }
        lines.extend(changes);
        lines
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Returns whether a line that makes the queue this large can be added. After a line was left out, so are the
    /// next ones, so that the dropped lines are all in one place.
    fn has_room_for(&self, bytes: usize) -> bool {
        let is_cut = self.dropped > 0 || !self.changes.is_empty();
        self.lines.is_empty() || (!is_cut && bytes <= BYTES_MAX)
    }
}
