//! Writes log lines to standard error, which may be full, closed or blocked. Logging never makes a task wait,
//! and never ends one.
//!
//! A task puts its line into a bounded queue and continues; a thread writes the line. If the queue is full,
//! or if standard error does not accept the line, the line is lost and counted. When lines can be written
//! again, a warning says how many were lost.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd as _,
    panic::{self, PanicHookInfo},
    process,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, util::SubscriberInitExt as _};

/// The maximum number of lines that wait to be written: some seconds of a busy worker, and about 4 MiB.
const LINES_MAX: usize = 8192;
/// The maximum time to wait for lines to be written when the process ends.
const END_MAX: Duration = Duration::from_millis(1500);
/// How long lines gather before the thread writes the next ones. At a thousand lines per second, waking the
/// thread for each line takes a tenth of a worker's CPU time.
const GATHER: Duration = Duration::from_millis(10);
/// How long to wait before writing again to a full terminal that was set to non-blocking.
const PAUSE: Duration = Duration::from_millis(10);
/// Threads of libraries that the process cannot do without. lapin drives all connections to the broker from
/// this thread.
const VITAL_THREADS: [&str; 1] = ["lapin-io-loop"];
/// The exit code that Rust uses after a panic of the main thread.
const EXIT_PANICKED: i32 = 101;

static LOGS: Mutex<Option<Logs>> = Mutex::new(None);
/// Set when the process ends. From then on lines do not gather before they are written.
static ENDING: AtomicBool = AtomicBool::new(false);

struct Logs {
    /// Writes the queued lines when it is dropped.
    guard: WorkerGuard,
    queue: ErrorCounter,
    refused: Arc<AtomicU64>,
}

/// The format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text for humans.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging what `filter` lets through, including panics. Text is colored if `is_colored`.
///
/// # Errors
/// Returns an error if the process has no free file descriptor.
pub fn start(filter: &str, format: Format, is_colored: bool) -> io::Result<()> {
    // `io::stderr()` is not used: a blocked write would hold its lock and block all other writers.
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let refused = Arc::new(AtomicU64::new(0));
    let (queue, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .lossy(true)
        .thread_name("log")
        .finish(Lines::new(stderr, Arc::clone(&refused)));
    let logs = Logs {
        guard,
        queue: queue.error_counter(),
        refused,
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .log_internal_errors(false)
        .with_writer(queue);
    let started = match format {
        Format::Text => lines.with_ansi(is_colored).finish().try_init(),
        Format::Json => lines.json().flatten_event(true).finish().try_init(),
    };
    // An error means that a subscriber is already installed, which is just as good.
    if started.is_ok() {
        *LOGS.lock().unwrap_or_else(PoisonError::into_inner) = Some(logs);
        panic::set_hook(Box::new(panicked));
    }
    Ok(())
}

/// Returns how many lines were lost since the start.
pub fn lost() -> u64 {
    let logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    logs.as_ref().map_or(0, |logs| {
        logs.queue.dropped_lines() as u64 + logs.refused.load(Ordering::Relaxed)
    })
}

/// Writes the queued lines, for at most 1.5 seconds. Lines that are logged later are lost.
pub fn end() {
    ENDING.store(true, Ordering::Relaxed);
    let logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Logs { guard, .. }) = logs {
        // Dropping the guard can itself write to standard error, which may be blocked.
        within(END_MAX, move || drop(guard));
    }
}

/// Runs work that may never end, such as writing to a terminal, and returns after `limit` even if it has not
/// ended.
pub fn within(limit: Duration, work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        work();
        // An error means that the time is up.
        let _ = done.send(());
    });
    // An error means that the time is up, or that the work panicked.
    let _ = is_done.recv_timeout(limit);
}

/// Writes the last log lines, then ends the process after it has lost an essential part.
pub(crate) fn end_process() -> ! {
    end();
    process::exit(EXIT_PANICKED)
}

fn panicked(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let thread = thread.name().unwrap_or_default();
    let message = info.payload_as_str().unwrap_or("no message");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(
        thread,
        location,
        message,
        "a bug: the program panicked; please report this line"
    );
    if VITAL_THREADS.contains(&thread) {
        tracing::error!(
            thread,
            "a thread that the process needs panicked; the process exits and must be restarted"
        );
        end_process();
    }
}

/// Writes whole lines to a sink. A line that the sink refuses is counted as lost, without an error.
struct Lines<W> {
    sink: W,
    refused: Arc<AtomicU64>,
    /// The number of lines lost since the last warning about lost lines.
    unsaid: u64,
    /// Whether the sink accepted only a part of the last line.
    torn: bool,
}

impl<W: Write> Lines<W> {
    fn new(sink: W, refused: Arc<AtomicU64>) -> Self {
        Self {
            sink,
            refused,
            unsaid: 0,
            torn: false,
        }
    }

    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.put_all(b"\n")?;
            self.torn = false;
        }
        self.put_all(line)
    }

    fn put_all(&mut self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.sink.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = &rest[written..];
                    self.torn = !rest.is_empty() || self.torn;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process has set the shared terminal or pipe to non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::park_timeout(PAUSE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.put(line).is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.unsaid += 1;
        } else {
            self.torn = false;
            let lines = std::mem::take(&mut self.unsaid);
            if lines > 0 {
                // This warning is queued like any other line, without waiting.
                tracing::warn!(lines, "log lines were lost: standard error did not accept them");
            }
        }
        Ok(line.len())
    }

    /// Called after the last queued line.
    fn flush(&mut self) -> io::Result<()> {
        if !ENDING.load(Ordering::Relaxed) {
            thread::park_timeout(GATHER);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
