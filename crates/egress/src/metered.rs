//! Connections with a meter that counts what they receive.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::Uri;
use hyper::http::Extensions;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower::Service;
use webhook::Phase;

use crate::evidence::Routes;
use crate::meter::{Flood, INTERIM_MAX, Meter};
use crate::progress;

mod messages;

use messages::{Frames, Interim};

/// A connector whose connections are metered by bytes. It also records the addresses that it reached.
#[derive(Clone, Debug)]
pub(crate) struct ByBytes<C> {
    pub(crate) connector: C,
    pub(crate) routes: Routes,
}

/// A connector whose connections are also metered by messages. It wraps [`ByBytes`], with or without TLS.
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

/// The unit in which received bytes are counted.
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

/// Attaches the meter to the connection, instead of the addresses that the client would attach and that are
/// not needed.
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
