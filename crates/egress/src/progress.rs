//! The progress of a request, reported by the components that it passes through.
//!
//! The HTTP client does not report progress. But its resolver, its TLS sessions, its connector and its
//! request bodies are ours, and each of them is called by the task that makes the attempt, or carries a
//! handle:
//!
//! | called | phase from then on |
//! |---|---|
//! | nothing yet: waiting for a pooled connection | `Send`; `Connect` if the host is an IP literal |
//! | resolver, begins | `Resolve` |
//! | resolver, has addresses | `Connect` |
//! | TLS session store, asked for a hint for the first message | `Tls` |
//! | connector, has the connection, with its TLS handshake | `Send` |
//! | request body, taken by a connection | `Response` |
//!
//! A connection takes a whole body at once, into its own buffer. Therefore `Response` includes the time in
//! which the buffer is written, and `Send` covers only writes that fail and requests that wait for an
//! existing connection.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use webhook::Phase;

use crate::meter::{Flood, Meter};

tokio::task_local! {
    /// The attempt that the current task makes. If another connection becomes available first, the client
    /// finishes opening a connection in the background. That task has no attempt, so it cannot change the
    /// phase of the attempt that started it.
    static CURRENT: Arc<Progress>;
}

const PHASES: [Phase; 5] = [
    Phase::Resolve,
    Phase::Connect,
    Phase::Tls,
    Phase::Send,
    Phase::Response,
];

/// The progress of one attempt.
#[derive(Debug)]
pub(crate) struct Progress {
    phase: AtomicU8,
    address: OnceLock<IpAddr>,
    /// The status of the response; 0 before its headers have arrived.
    status: AtomicU16,
    /// When a connection took the request; `None` if this is not recorded.
    taken: Option<OnceLock<Instant>>,
    /// The meter of the connection that was opened for the attempt, if one was.
    meter: OnceLock<Meter>,
}

/// The body of a request, which records when a connection takes it.
#[derive(Debug)]
pub(crate) struct MarkedBody {
    bytes: Option<Bytes>,
    progress: Arc<Progress>,
}

impl Progress {
    /// Starts the progress of an attempt to `literal`, the address in the URL, or to a host name if it is
    /// `None`.
    pub(crate) fn to(literal: Option<IpAddr>) -> Self {
        let (phase, address) = match literal {
            Some(address) => (Phase::Connect, OnceLock::from(address)),
            None => (Phase::Send, OnceLock::new()),
        };
        Self {
            phase: AtomicU8::new(phase as u8),
            address,
            status: AtomicU16::new(0),
            taken: None,
            meter: OnceLock::new(),
        }
    }

    /// Enables recording when a connection takes the request. Deliveries do not need that.
    pub(crate) fn timed(self) -> Self {
        Self {
            taken: Some(OnceLock::new()),
            ..self
        }
    }

    /// Returns when a connection took the request; `None` if it has not, or if this is not recorded.
    pub(crate) fn taken(&self) -> Option<Instant> {
        self.taken.as_ref()?.get().copied()
    }

    pub(crate) fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Ordering::Relaxed))]
    }

    /// Returns the first address that was or would have been connected to.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.address.get().copied()
    }

    /// Returns the status of the response; `None` before the response's headers have arrived.
    pub(crate) fn status(&self) -> Option<u16> {
        Some(self.status.load(Ordering::Relaxed)).filter(|status| *status > 0)
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }
}

/// Runs an attempt and records its progress in `progress`.
pub(crate) async fn observe<F: Future>(progress: Arc<Progress>, attempt: F) -> F::Output {
    CURRENT.scope(progress, attempt).await
}

/// Records that the current attempt, if there is one, enters a phase.
pub(crate) fn enter(phase: Phase) {
    let _ = CURRENT.try_with(|progress| progress.enter(phase));
}

/// Records the address that the current attempt, if there is one, connects to.
pub(crate) fn connecting(address: IpAddr) {
    let _ = CURRENT.try_with(|progress| {
        let _ = progress.address.set(address);
        progress.enter(Phase::Connect);
    });
}

/// Records that the current attempt, if there is one, has opened a connection with this meter.
pub(crate) fn connected(meter: &Meter) {
    let _ = CURRENT.try_with(|progress| {
        let _ = progress.meter.set(meter.clone());
    });
}

/// Returns the limit that ended the connection which the current attempt has opened, if one did.
pub(crate) fn flood() -> Option<Flood> {
    let flood = CURRENT.try_with(|progress| progress.meter.get()?.flood());
    flood.ok().flatten()
}

/// Records that the current attempt, if there is one, has received the headers of a response.
pub(crate) fn answered(status: u16) {
    let _ = CURRENT.try_with(|progress| progress.status.store(status, Ordering::Relaxed));
}

impl MarkedBody {
    pub(crate) fn new(bytes: Bytes, progress: Arc<Progress>) -> Self {
        Self {
            bytes: Some(bytes).filter(|bytes| !bytes.is_empty()),
            progress,
        }
    }
}

impl Body for MarkedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.progress.enter(Phase::Response);
        if let Some(taken) = &self.progress.taken {
            let _ = taken.set(Instant::now());
        }
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
