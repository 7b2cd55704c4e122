//! The runtime for lapin: tokio, with TCP streams that are screened.

use std::{
    future::Future,
    io::{self, Read, Write},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures_util::{
    Stream,
    io::{AsyncRead, AsyncWrite},
};
use lapin::AsyncTcpStream;

use super::Screened;

/// A connection before it is screened, with or without TLS.
pub(crate) type Unscreened = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;
/// The runtime for lapin.
pub(crate) type ScreenedRuntime = Runtime<RuntimeParts<Tokio, ScreenedTokio>>;

/// The reactor of tokio, with TCP streams that are screened.
#[derive(Clone, Debug)]
pub(crate) struct ScreenedTokio(Tokio);

/// Returns a runtime for lapin on the current tokio runtime.
pub(crate) fn runtime() -> ScreenedRuntime {
    let tokio = Tokio::current();
    Runtime::new(RuntimeParts::new(tokio.clone(), ScreenedTokio(tokio)))
}

impl Reactor for ScreenedTokio {
    type TcpStream = Screened<Unscreened>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, period: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(period)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async { Ok(Screened::new(AsyncTcpStream::Plain(connecting.await?), 0)) }
    }
}
