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

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use hyper::Uri;
use hyper::http::Extensions;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower::Service;
use webhook::Phase;

use crate::evidence::Routes;
use crate::progress;

mod messages;

use messages::{Frames, Interim};

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

    fn take_bytes(&self, bytes: usize) -> io::Result<()> {
        let before = self.0.bytes.fetch_add(bytes as i64, Ordering::Relaxed);
        self.check(before + bytes as i64 <= i64::from(BYTES_MAX), Flood::Bytes)
    }

    fn take_frames(&self, frames: u32) -> io::Result<()> {
        if frames == 0 {
            return Ok(());
        }
        let before = self.0.frames.fetch_add(i64::from(frames), Ordering::Relaxed);
        self.check(before + i64::from(frames) <= i64::from(FRAMES_MAX), Flood::Frames)
    }

    fn check(&self, is_within: bool, flood: Flood) -> io::Result<()> {
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

/// A connector of which every connection is metered by the byte, and its address noted.
#[derive(Clone, Debug)]
pub(crate) struct ByBytes<C> {
    pub(crate) connector: C,
    pub(crate) routes: Routes,
}

/// A connector of which every connection is metered by the message, too. The connector inside is [`ByBytes`],
/// with or without TLS.
#[derive(Clone, Debug)]
pub(crate) struct ByMessages<C>(pub(crate) C);

type Connecting<T, E> = Pin<Box<dyn Future<Output = Result<TokioIo<Metered<T>>, E>> + Send>>;

impl<C> Service<Uri> for ByBytes<C>
where
    C: Service<Uri, Response = TokioIo<TcpStream>>,
    C::Future: Send + 'static,
{
    type Response = TokioIo<Metered<TcpStream>>;
    type Error = C::Error;
    type Future = Connecting<TcpStream, C::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let (connecting, routes) = (self.connector.call(to), self.routes.clone());
        Box::pin(async move {
            let stream = connecting.await?.into_inner();
            if let Ok(address) = stream.peer_addr() {
                routes.reached(address.ip());
            }
            Ok(TokioIo::new(Metered {
                stream,
                meter: Meter::default(),
                count: Count::Bytes,
            }))
        })
    }
}

impl<C> Service<Uri> for ByMessages<C>
where
    C: Service<Uri>,
    C::Response: Connection,
    C::Future: Send + 'static,
{
    type Response = TokioIo<Metered<TokioIo<C::Response>>>;
    type Error = C::Error;
    type Future = Connecting<TokioIo<C::Response>, C::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = self.0.call(to);
        Box::pin(async move {
            let stream = connecting.await?;
            progress::enter(Phase::Send);
            let (connected, mut extensions) = (stream.connected(), Extensions::new());
            connected.get_extras(&mut extensions);
            let meter = Meter::of(&extensions);
            progress::connected(&meter);
            Ok(TokioIo::new(Metered {
                stream: TokioIo::new(stream),
                meter,
                count: Count::messages(connected.is_negotiated_h2()),
            }))
        })
    }
}

/// A connection with its meter.
#[derive(Debug)]
pub(crate) struct Metered<S> {
    stream: S,
    meter: Meter,
    count: Count,
}

/// What is counted of the bytes that are received.
#[derive(Debug)]
enum Count {
    Bytes,
    Interim(Interim),
    Frames(Frames),
}

impl Count {
    fn messages(is_http2: bool) -> Self {
        if is_http2 {
            Self::Frames(Frames::default())
        } else {
            Self::Interim(Interim::default())
        }
    }
}

impl<S> Metered<S> {
    fn received(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.count {
            Count::Bytes => self.meter.take_bytes(bytes.len()),
            Count::Frames(frames) => self.meter.take_frames(frames.begun_in(bytes)),
            Count::Interim(interim) => {
                let all = interim.received(bytes);
                self.meter.check(all <= INTERIM_MAX, Flood::Interim)
            }
        }
    }

    fn sent(&mut self) {
        if let Count::Interim(interim) = &mut self.count {
            interim.sent();
        }
    }
}

/// In place of what the client would tell of a connection: its addresses, which nothing asks for.
impl<S> Connection for Metered<S>
where
    S: Connection,
{
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.meter.clone());
        if matches!(self.count, Count::Frames(_)) {
            connected.negotiated_h2()
        } else {
            connected
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        Poll::Ready(self.received(&buffer.filled()[before..]))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.sent();
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.sent();
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
