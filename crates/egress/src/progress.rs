//! How far a request got, told by the places it passes.
//!
//! The HTTP client does not tell. But its resolver, its TLS sessions, its connector and its request bodies
//! are ours, and each of them is called by the task that makes the attempt, or carries a handle along:
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
//! A connection takes a body whole, into its own buffer. So `Response` includes the time in which the buffer
//! is written, and `Send` is left to writes that fail and to requests that wait for a connection that exists.

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
    /// The attempt that the current task makes. A connection that the client finishes in the background, because
    /// another became free first, has none, and so cannot change the phase of the attempt that began it.
    static CURRENT: Arc<Progress>;
}

const PHASES: [Phase; 5] = [
    Phase::Resolve,
    Phase::Connect,
    Phase::Tls,
    Phase::Send,
    Phase::Response,
];

/// One attempt's progress.
#[derive(Debug)]
pub(crate) struct Progress {
    phase: AtomicU8,
    address: OnceLock<IpAddr>,
    /// 0 before the response's headers have come.
    status: AtomicU16,
    /// `None` when it is not to be noted.
    taken: Option<OnceLock<Instant>>,
    /// Of the connection that was opened for it, if one was.
    meter: OnceLock<Meter>,
}

/// A request's body that marks the moment in which a connection takes it.
#[derive(Debug)]
pub(crate) struct MarkedBody {
    bytes: Option<Bytes>,
    progress: Arc<Progress>,
}

impl Progress {
    /// To the address that the URL names, or to wherever its name leads.
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

    /// Notes when a connection takes the request. Deliveries do without: they have no use for it.
    pub(crate) fn timed(self) -> Self {
        Self {
            taken: Some(OnceLock::new()),
            ..self
        }
    }

    /// When a connection took the request, if it is timed.
    pub(crate) fn taken(&self) -> Option<Instant> {
        self.taken.as_ref()?.get().copied()
    }

    pub(crate) fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Ordering::Relaxed))]
    }

    /// The first address that was or would have been connected to.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.address.get().copied()
    }

    /// What it was answered with, once the response's headers have come.
    pub(crate) fn status(&self) -> Option<u16> {
        Some(self.status.load(Ordering::Relaxed)).filter(|status| *status > 0)
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }
}

/// Runs an attempt, with its progress told to `progress`.
pub(crate) async fn observe<F: Future>(progress: Arc<Progress>, attempt: F) -> F::Output {
    CURRENT.scope(progress, attempt).await
}

/// The current attempt, if there is one, enters a phase.
pub(crate) fn enter(phase: Phase) {
    let _ = CURRENT.try_with(|progress| progress.enter(phase));
}

/// The current attempt, if there is one, knows where to connect to.
pub(crate) fn connecting(address: IpAddr) {
    let _ = CURRENT.try_with(|progress| {
        let _ = progress.address.set(address);
        progress.enter(Phase::Connect);
    });
}

/// The current attempt, if there is one, has opened a connection with this meter.
pub(crate) fn connected(meter: &Meter) {
    let _ = CURRENT.try_with(|progress| {
        let _ = progress.meter.set(meter.clone());
    });
}

/// The limit that ended the connection which the current attempt has opened, if one did.
pub(crate) fn flood() -> Option<Flood> {
    let flood = CURRENT.try_with(|progress| progress.meter.get()?.flood());
    flood.ok().flatten()
}

/// The current attempt, if there is one, has the headers of a response.
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
