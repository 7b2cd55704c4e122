//! A TCP proxy that can cut, stall and slow down connections.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

/// A proxy between the clients that connect to [`Proxy::url`] and a server. Dropping it closes every
/// connection.
pub struct Proxy {
    address: SocketAddr,
    target: Target,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// How a connection is cut, on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// With RST: data in flight is discarded, and the next read or write fails.
    Reset,
    /// With FIN: an orderly end of the stream, but at the wrong time.
    Close,
}

/// The direction of data on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// The `host:port` of a URL, with the text before and after it.
#[derive(Clone)]
pub(crate) struct Target {
    before: String,
    server: String,
    after: String,
}

struct Shared {
    line: watch::Sender<Line>,
    /// The cut that is made after this many more bytes in this direction; `None` if none is pending.
    armed: Mutex<Option<(Way, usize, Cut)>>,
}

#[derive(Clone, Copy)]
struct Line {
    stalled: bool,
    /// The latency in each direction.
    latency: Duration,
    /// The bandwidth in each direction of each connection; 0 means unlimited.
    bytes_per_second: u32,
    cuts: u64,
    how: Cut,
}

/// The size of a chunk. It is small compared with what a slow line carries in a second.
const CHUNK_BYTES: usize = 4096;
/// The maximum number of chunks in flight in one direction of a connection. This is the proxy's share of the
/// buffering that any line has.
const CHUNKS_MAX: usize = 64;

impl Proxy {
    /// Listens on loopback and connects to the server at this URL, whatever its scheme.
    pub async fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, target) = (listener.local_addr().unwrap(), Target::of(url));
        let shared = Arc::new(Shared {
            line: watch::Sender::new(Line {
                stalled: false,
                latency: Duration::ZERO,
                bytes_per_second: 0,
                cuts: 0,
                how: Cut::Close,
            }),
            armed: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, target.server.clone(), Arc::clone(&shared)));
        Self {
            address,
            target,
            shared,
            accepting,
        }
    }

    /// Returns the server's URL with the proxy's address in it.
    pub fn url(&self) -> String {
        self.target.at(self.address)
    }

    /// Cuts every open connection. New connections are accepted.
    pub fn cut(&self, how: Cut) {
        self.shared.line.send_modify(|line| {
            line.cuts += 1;
            line.how = how;
        });
    }

    /// Lets `bytes` more bytes pass in this direction, on all connections together, and then cuts the
    /// connection that carried the last of them.
    pub fn cut_after(&self, way: Way, bytes: usize, how: Cut) {
        *self.shared.armed.lock().unwrap() = Some((way, bytes, how));
    }

    /// Returns whether the cut of [`Proxy::cut_after`] is still pending.
    pub fn is_armed(&self) -> bool {
        self.shared.armed.lock().unwrap().is_some()
    }

    /// Stops moving data in both directions. Connections stay open, and new ones are accepted.
    pub fn stall(&self) {
        self.shared.line.send_modify(|line| line.stalled = true);
    }

    /// Ends a stall. All data continues, in order.
    pub fn resume(&self) {
        self.shared.line.send_modify(|line| line.stalled = false);
    }

    /// Delays all data by `latency` and limits the bandwidth of each connection, both in each direction.
    pub fn slow(&self, latency: Duration, bytes_per_second: u32) {
        self.shared.line.send_modify(|line| {
            line.latency = latency;
            line.bytes_per_second = bytes_per_second;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Target {
    pub(crate) fn of(url: &str) -> Self {
        let begin = url.find("://").expect("a URL") + 3;
        let end = url[begin..].find(['/', '?']).map_or(url.len(), |at| begin + at);
        let host = url[begin..end].rfind('@').map_or(begin, |at| begin + at + 1);
        let server = url[host..end].to_owned();
        assert!(server.contains(':'), "the server's URL names no port");
        Self {
            before: url[..host].to_owned(),
            server,
            after: url[end..].to_owned(),
        }
    }

    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// Returns the URL with its `host:port` replaced by this address.
    pub(crate) fn at(&self, address: SocketAddr) -> String {
        format!("{}{address}{}", self.before, self.after)
    }
}

async fn accept(listener: TcpListener, server: String, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        connections.spawn(serve(client, server.clone(), Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut client: TcpStream, server: String, shared: Arc<Shared>) {
    let mut line = shared.line.subscribe();
    // If the server is unreachable, the client's connection is closed.
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let how = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let cuts = line.borrow().cuts;
        tokio::select! {
            cut = line.wait_for(|line| line.cuts != cuts) => cut.map_or(Cut::Close, |line| line.how),
            how = carry(&shared, [
                (Way::ToServer, from_client, to_server),
                (Way::ToClient, from_server, to_client),
            ]) => how,
        }
    };
    if how == Cut::Reset {
        for stream in [&client, &server] {
            let _ = stream.set_zero_linger();
        }
    }
}

/// Forwards both directions until both have ended, or until one of them has to be cut.
async fn carry(shared: &Shared, ways: [(Way, ReadHalf<'_>, WriteHalf<'_>); 2]) -> Cut {
    let [up, down] = ways.map(|(way, from, to)| carry_one_way(shared, way, from, to));
    match tokio::try_join!(up, down) {
        Ok(_) => Cut::Close,
        Err(how) => how,
    }
}

/// Forwards one direction. Returns an error when the connection has to be cut.
async fn carry_one_way(
    shared: &Shared,
    way: Way,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
) -> Result<(), Cut> {
    let (queue, mut queued) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_MAX);
    let reading = async {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        // A read error counts as the end of the stream, which is passed on to the other side of the
        // connection.
        while shared.flows().await && from.read_buf(&mut chunk).await.unwrap_or(0) > 0 {
            let read = (Instant::now(), chunk.split().freeze());
            if queue.send(read).await.is_err() {
                break;
            }
            chunk.reserve(CHUNK_BYTES);
        }
        drop(queue);
        Ok(())
    };
    let writing = async {
        while let Some((read_at, chunk)) = queued.recv().await {
            let Line {
                latency,
                bytes_per_second,
                ..
            } = *shared.line.borrow();
            sleep_until(read_at + latency).await;
            shared.flows().await;
            let (passes, cut) = shared.passes(way, chunk.len());
            if to.write_all(&chunk[..passes]).await.is_err() {
                break;
            }
            cut.map_or(Ok(()), Err)?;
            if bytes_per_second > 0 {
                sleep(Duration::from_secs(1) * chunk.len() as u32 / bytes_per_second).await;
            }
        }
        drop(queued);
        let _ = to.shutdown().await;
        Ok(())
    };
    tokio::try_join!(reading, writing).map(|_| ())
}

impl Shared {
    /// Waits until the proxy is not stalled. Returns false if the proxy has been dropped.
    async fn flows(&self) -> bool {
        let mut line = self.line.subscribe();
        line.wait_for(|line| !line.stalled).await.is_ok()
    }

    /// Returns how many of these bytes may pass, and whether the connection has to be cut after them.
    fn passes(&self, way: Way, bytes: usize) -> (usize, Option<Cut>) {
        let mut armed = self.armed.lock().unwrap();
        match &mut *armed {
            Some((on, left, how)) if *on == way => {
                let passes = bytes.min(*left);
                *left -= passes;
                let cut = (*left == 0).then_some(*how);
                if cut.is_some() {
                    *armed = None;
                }
                (passes, cut)
            }
            _ => (bytes, None),
        }
    }
}
