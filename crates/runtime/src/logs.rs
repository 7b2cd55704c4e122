//! Logs to standard error, which may be full, closed or stuck. No line is worth waiting for, and none may end
//! a task.
//!
//! A task hands its line to a bounded queue and goes on; a thread writes it. A line that finds the queue
//! full, or that standard error does not take, is lost and counted. When lines get through again, a warning
//! says how many were lost.

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

/// How many lines wait to be written, at most: some seconds of a busy worker, and about 4 MiB.
const LINES_MAX: usize = 8192;
/// How long the end of the process waits for lines to be written.
const END_MAX: Duration = Duration::from_millis(1500);
/// How long lines gather before the thread is woken for the next ones: at a thousand lines a second, waking
/// it for each is a tenth of a worker's processor time.
const GATHER: Duration = Duration::from_millis(10);
/// How long a full terminal that was set to non-blocking is given before it is tried again.
const PAUSE: Duration = Duration::from_millis(10);
/// Threads of libraries without which the process is of no use: lapin drives every connection to the broker
/// from this one.
const VITAL_THREADS: [&str; 1] = ["lapin-io-loop"];
/// What Rust itself ends with after a panic of the main thread.
const EXIT_PANICKED: i32 = 101;

static LOGS: Mutex<Option<Logs>> = Mutex::new(None);
/// Set at the end of the process, which does not wait for lines to gather.
static ENDING: AtomicBool = AtomicBool::new(false);

struct Logs {
    /// Dropping it writes what is queued.
    guard: WorkerGuard,
    queue: ErrorCounter,
    refused: Arc<AtomicU64>,
}

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logs what `filter` lets through from now on, panics included; text with colours if so wanted.
///
/// # Errors
/// When the process has no free file descriptor.
pub fn start(filter: &str, format: Format, is_colored: bool) -> io::Result<()> {
    // Not through `io::stderr()`, whose lock a stuck write would keep from everything else that writes there.
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
    // An error says that there is a subscriber already, which is as good.
    if started.is_ok() {
        *LOGS.lock().unwrap_or_else(PoisonError::into_inner) = Some(logs);
        panic::set_hook(Box::new(panicked));
    }
    Ok(())
}

/// How many lines were lost since the start.
pub fn lost() -> u64 {
    let logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    logs.as_ref().map_or(0, |logs| {
        logs.queue.dropped_lines() as u64 + logs.refused.load(Ordering::Relaxed)
    })
}

/// Writes what is queued, for at most 1.5 seconds. What is logged later is lost.
pub fn end() {
    ENDING.store(true, Ordering::Relaxed);
    let logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Logs { guard, .. }) = logs {
        // The guard itself writes to standard error when that is stuck.
        within(END_MAX, move || drop(guard));
    }
}

/// Does something that may never end, such as writing to a terminal, and goes on without it after `limit`.
pub fn within(limit: Duration, work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        work();
        // An error says that the time is up.
        let _ = done.send(());
    });
    // An error says that the time is up, or that it panicked.
    let _ = is_done.recv_timeout(limit);
}

/// Ends a process that has lost a part of itself, after its last log line.
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
            "this thread is vital: the process ends, and is to be started again"
        );
        end_process();
    }
}

/// Writes whole lines to a sink, of which an error is another lost line and nothing more.
struct Lines<W> {
    sink: W,
    refused: Arc<AtomicU64>,
    /// How many were lost since that was last said.
    unsaid: u64,
    /// The sink took a part of the last line.
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
                // Another process has set the terminal or pipe that it shares with this one to non-blocking.
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
                // This goes to the queue as any other line, and waits for nothing.
                tracing::warn!(lines, "log lines were lost: standard error did not take them");
            }
        }
        Ok(line.len())
    }

    /// After the last line that was queued.
    fn flush(&mut self) -> io::Result<()> {
        if !ENDING.load(Ordering::Relaxed) {
            thread::park_timeout(GATHER);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
