//! How much a connection may send before it gets on with an answer.
//!
//! A deadline bounds how long an endpoint is listened to, but not the work that its bytes cause meanwhile:
//! interim responses, control frames of HTTP/2 and TLS messages can come as fast as the network carries them,
//! and the HTTP client reads all of them. So every connection is metered, twice:
//!
//! ```text
//! HTTP client <- messages <- TLS <- bytes <- TCP
//! ```
//!
//! The meter starts again with every answer of which the headers have come or the body has ended, and gets
//! back what of a body was taken, whose length has a bound of its own. What reaches a limit before that ends
//! as a [`Flood`], which is the endpoint's failure, and the connection with it. An attempt therefore takes at
//! most a few times [`BYTES_MAX`] from its endpoint, however fast it sends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

use hyper::http::Extensions;
use hyper_util::client::legacy;

/// How many bytes a connection may receive before the next answer, TLS included. More than all that HTTP/2
/// allows to be on its way to us at once (1 MiB) and than the largest headers of HTTP/1 (about 400 KiB).
pub(crate) const BYTES_MAX: u32 = 2 * 1024 * 1024;
/// How many interim responses (100 to 199) may precede an answer over HTTP/1. Servers send one or two.
pub(crate) const INTERIM_MAX: u32 = 100;
/// How many frames an HTTP/2 connection may receive before the next answer: several for each of the hundreds
/// of requests that share it.
pub(crate) const FRAMES_MAX: u32 = 4096;

/// An endpoint that sends and sends, and does not get on with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flood {
    #[error("sent more than {BYTES_MAX} bytes without getting on with its answer")]
    Bytes = 1,
    #[error("sent more than {INTERIM_MAX} interim responses before its answer")]
    Interim,
    #[error("sent more than {FRAMES_MAX} frames of HTTP/2 without getting on with its answer")]
    Frames,
}

/// One connection's meter. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Arc<Levels>);

/// Both levels can fall below zero, by no more than one answer's body: what was received before the meter
/// started again may be given back after it.
#[derive(Debug, Default)]
struct Levels {
    bytes: AtomicI64,
    frames: AtomicI64,
    /// 0, or the [`Flood`] that ended the connection.
    ended: AtomicU8,
}

impl Meter {
    /// The meter of the connection that a response came over.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// Starts again: an answer got on.
    pub(crate) fn restart(&self) {
        self.0.bytes.store(0, Ordering::Relaxed);
        self.0.frames.store(0, Ordering::Relaxed);
    }

    /// Gives back a piece of a body.
    pub(crate) fn give_back(&self, bytes: usize) {
        self.0.bytes.fetch_sub(bytes as i64, Ordering::Relaxed);
        self.0.frames.fetch_sub(1, Ordering::Relaxed);
    }

    /// What ended the connection, if a limit did.
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

/// The limit that ended the connection of a request which failed. HTTP/2 keeps its causes to itself, so it is
/// asked of the connection.
pub(crate) fn flood_of(error: &legacy::Error) -> Option<Flood> {
    let mut extensions = Extensions::new();
    error.connect_info()?.get_extras(&mut extensions);
    Meter::of(&extensions).flood()
}
