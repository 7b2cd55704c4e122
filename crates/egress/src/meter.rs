//! Limits on what a connection may receive before the response makes progress.
//!
//! The attempt's deadline bounds how long the client reads from an endpoint, but not how much work the
//! endpoint's bytes cause in that time. Interim responses, control frames of HTTP/2 and TLS messages can
//! arrive as fast as the network carries them, and the HTTP client reads all of them. Therefore every
//! connection is metered at two layers:
//!
//! ```text
//! HTTP client <- messages <- TLS <- bytes <- TCP
//! ```
//!
//! The meter restarts whenever the headers of a response have arrived or its body has ended. While a body is
//! read, its bytes are subtracted again, because its length has its own limit. If a limit is reached before
//! that, the attempt fails with a [`Flood`], which is a failure of the endpoint, and the connection is
//! closed. An attempt therefore receives at most a few times [`BYTES_MAX`] from its endpoint, however fast
//! the endpoint sends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

use hyper::http::Extensions;
use hyper_util::client::legacy;

/// The maximum number of bytes that a connection may receive before the next response, including TLS. It is
/// more than HTTP/2 allows to be in flight to us at once (1 MiB), and more than the largest headers of HTTP/1
/// (about 400 KiB).
pub(crate) const BYTES_MAX: u32 = 2 * 1024 * 1024;
/// The maximum number of interim responses (100 to 199) before a response over HTTP/1. Servers send one or
/// two.
pub(crate) const INTERIM_MAX: u32 = 100;
/// The maximum number of frames that an HTTP/2 connection may receive before the next response: several for
/// each of the hundreds of requests that share the connection.
pub(crate) const FRAMES_MAX: u32 = 4096;

/// An endpoint's excessive sending without progress of its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flood {
    #[error("sent more than {BYTES_MAX} bytes before its response made progress")]
    Bytes = 1,
    #[error("sent more than {INTERIM_MAX} interim responses before its final response")]
    Interim,
    #[error("sent more than {FRAMES_MAX} HTTP/2 frames before its response made progress")]
    Frames,
}

/// The meter of one connection. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Arc<Levels>);

/// The levels of a meter. Both can fall below zero by at most one response's body: bytes that were received
/// before the meter restarted may be subtracted afterwards.
#[derive(Debug, Default)]
struct Levels {
    bytes: AtomicI64,
    frames: AtomicI64,
    /// 0, or the [`Flood`] that ended the connection.
    ended: AtomicU8,
}

impl Meter {
    /// Returns the meter of the connection that a response was received on.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// Restarts the meter because a response has made progress.
    pub(crate) fn restart(&self) {
        self.0.bytes.store(0, Ordering::Relaxed);
        self.0.frames.store(0, Ordering::Relaxed);
    }

    /// Subtracts a part of a body.
    pub(crate) fn give_back(&self, bytes: usize) {
        self.0.bytes.fetch_sub(bytes as i64, Ordering::Relaxed);
        self.0.frames.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the limit that ended the connection, if one did.
    pub(crate) fn flood(&self) -> Option<Flood> {
        let all = [Flood::Bytes, Flood::Interim, Flood::Frames];
        let ended = self.0.ended.load(Ordering::Relaxed);
        all.into_iter().find(|flood| *flood as u8 == ended)
    }

    pub(crate) fn take_bytes(&self, bytes: usize) -> io::Result<()> {
        let before = self.0.bytes.fetch_add(bytes as i64, Ordering::Relaxed);
        self.check(before + bytes as i64 <= i64::from(BYTES_MAX), Flood::Bytes)
    }

    pub(crate) fn take_frames(&self, frames: u32) -> io::Result<()> {
        if frames == 0 {
            return Ok(());
        }
        let before = self.0.frames.fetch_add(i64::from(frames), Ordering::Relaxed);
        self.check(before + i64::from(frames) <= i64::from(FRAMES_MAX), Flood::Frames)
    }

    pub(crate) fn check(&self, is_within: bool, flood: Flood) -> io::Result<()> {
        if is_within {
            return Ok(());
        }
        self.0.ended.store(flood as u8, Ordering::Relaxed);
        Err(io::Error::other(flood))
    }
}

/// Returns the limit that ended the connection of a failed request, if one did. It is read from the
/// connection, because errors of HTTP/2 do not contain their causes.
pub(crate) fn flood_of(error: &legacy::Error) -> Option<Flood> {
    let mut extensions = Extensions::new();
    error.connect_info()?.get_extras(&mut extensions);
    Meter::of(&extensions).flood()
}
