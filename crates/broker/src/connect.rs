//! One attempt to connect, over a stream that is screened.
//!
//! lapin starts a thread for each connection. The thread waits for the broker as long as the socket is open,
//! even after the caller has stopped waiting for the connection. A node that hangs accepts connections but
//! never answers, so each attempt would leave a thread and a socket behind. Therefore an abandoned attempt
//! closes its socket.

use std::{
    io,
    net::{Shutdown, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lapin::{AsyncTcpStream, Connection, ConnectionProperties, uri::AMQPUri};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Node,
    screen::{self, Screened, ScreenedRuntime, Unscreened},
    tls::{Connector, explained},
};

/// Connects and logs in, without a timeout.
///
/// # Cancel safety
/// Dropping the future closes the socket and leaves nothing behind.
pub(crate) async fn connect(
    node: &Node,
    tls: &Connector,
    properties: ConnectionProperties,
) -> lapin::Result<Connection> {
    let waiting = Waiting(Attempt::default());
    let attempt = waiting.0.clone();
    let (node, tls) = (node.clone(), tls.clone());
    let connecting = Connection::connector(
        node.uri(),
        screen::runtime(),
        async move |uri: AMQPUri, _: ScreenedRuntime| {
            let stream = attempt.unless_given_up(Box::pin(open(&node, &tls))).await?;
            match &stream {
                AsyncTcpStream::Plain(stream) => attempt.opened(stream.get_ref().as_fd())?,
                AsyncTcpStream::Rustls(stream) => attempt.opened(stream.get_ref().0.get_ref().as_fd())?,
                _ => return Err(io::Error::other("lapin opened a stream of an unknown kind").into()),
            }
            let frame_max = uri.query.frame_max.unwrap_or_default();
            let screened = Screened::new(stream, frame_max).secured(node.is_secured());
            Ok(AsyncTcpStream::Plain(screened))
        },
        properties,
    );
    let connection = connecting.await?;
    waiting.succeeded();
    Ok(connection)
}

/// Resolves the host and connects to it over TCP, and over TLS if the URL's scheme is `amqps`.
pub(crate) async fn open(node: &Node, tls: &Connector) -> io::Result<Unscreened> {
    let authority = node.uri().authority;
    let tokio = lapin::runtime::default_runtime().map_err(io::Error::other)?;
    let addresses = tokio.to_socket_addrs((authority.host.clone(), authority.port));
    let stream = AsyncTcpStream::connect(&tokio, addresses).await?;
    if node.is_secured() {
        let name = tls.name(&authority.host);
        let secured = stream.into_rustls(&tls.rustls()?, name).await;
        secured.map_err(|error| explained(error, name))
    } else {
        Ok(stream)
    }
}

/// State shared by the caller who waits for the connection and lapin's thread.
#[derive(Clone, Default)]
struct Attempt {
    given_up: CancellationToken,
    /// A duplicate of the descriptor of the connection's socket, until the login has succeeded.
    socket: Arc<Mutex<Option<TcpStream>>>,
}

impl Attempt {
    /// Runs name lookup, TCP connect and TLS handshake until the attempt is abandoned.
    async fn unless_given_up<T>(&self, opening: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let opened = self.given_up.run_until_cancelled(opening).await;
        opened.unwrap_or_else(|| Err(given_up()))
    }

    fn opened(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        *self.socket() = Some(TcpStream::from(socket.try_clone_to_owned()?));
        // If the caller gave up earlier, it has not seen the socket and cannot shut it down.
        if self.given_up.is_cancelled() {
            return Err(given_up());
        }
        Ok(())
    }

    fn socket(&self) -> MutexGuard<'_, Option<TcpStream>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn given_up() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the attempt to connect was abandoned")
}

/// Abandons the attempt when it is dropped.
struct Waiting(Attempt);

impl Waiting {
    /// Ends the wait after the connection was established. From here on, lapin manages the connection.
    fn succeeded(self) {
        self.0.socket().take();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.given_up.cancel();
        if let Some(socket) = self.0.socket().take() {
            // An error means that the socket is closed already. The thread reads the end of the stream and
            // exits.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
