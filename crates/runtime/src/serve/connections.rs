//! The open connections of a listener, and which one is closed when there are too many.
//!
//! A connection is in one of three states: its client has not sent a whole request yet; a request is being
//! answered; or the connection waits for its client to send the next request or to read a response. A response that
//! keeps its [`Answering`] counts as being answered until its body ends, and so does an upgraded connection. When all
//! places are taken, a new client gets the place of the oldest connection without a request, or else of the connection
//! that has waited longest. Therefore connections that send nothing cannot keep other clients out, however many there
//! are. Client addresses are not compared, because behind a proxy they are all the same.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// How long a new client waits before the states are checked again. It may have to wait because requests were
/// being answered on all connections.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

const ANSWERING: u64 = u64::MAX;
const NEW: u64 = 0;

/// A limited set of connections. Clones share the same set.
#[derive(Clone)]
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    places: Arc<Semaphore>,
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
    /// A counter that numbers connections and the moments at which they began to wait.
    clock: AtomicU64,
}

struct Connection {
    /// [`NEW`], [`ANSWERING`], or the moment when it began to wait.
    state: AtomicU64,
    close: Notify,
}

/// An open connection. Its place becomes free when this is dropped.
pub(super) struct Open {
    number: u64,
    connection: Arc<Connection>,
    connections: Connections,
    _place: OwnedSemaphorePermit,
}

/// A request that is being answered. When this is dropped, the connection waits for its client.
///
/// It is among the extensions of each request, in an [`Arc`]. A response whose body takes long keeps a clone, so that
/// its connection is not closed for another client. A handler that upgrades the connection keeps a clone for as long as
/// it uses the connection, so that the connection keeps its place.
pub struct Answering {
    open: Arc<Open>,
}

impl Connections {
    /// Creates a set of at most `max` connections.
    pub(super) fn new(max: usize) -> Self {
        Self(Arc::new(Shared {
            places: Arc::new(Semaphore::new(max)),
            open: Mutex::default(),
            clock: AtomicU64::new(NEW + 1),
        }))
    }

    /// Returns a place for a connection that was accepted. Closes another connection if all places are taken.
    ///
    /// # Cancel safety
    /// If the future is dropped, the new connection has no place.
    pub(super) async fn open(&self) -> Open {
        loop {
            if self.0.places.available_permits() == 0 {
                self.close_one();
            }
            let place = Arc::clone(&self.0.places).acquire_owned();
            if let Ok(Ok(place)) = timeout(LOOK_AGAIN, place).await {
                return self.enter(place);
            }
        }
    }

    fn enter(&self, place: OwnedSemaphorePermit) -> Open {
        let connection = Arc::new(Connection {
            state: AtomicU64::new(NEW),
            close: Notify::new(),
        });
        let number = self.tick();
        self.all().insert(number, Arc::clone(&connection));
        Open {
            number,
            connection,
            connections: self.clone(),
            _place: place,
        }
    }

    /// Closes the oldest connection without a request, or else the one that has waited longest. A connection
    /// may be notified twice before it closes.
    fn close_one(&self) {
        let all = self.all();
        let states = all.iter().map(|(number, connection)| {
            let state = connection.state.load(Ordering::Relaxed);
            (state, *number, connection)
        });
        let waiting = states.filter(|(state, ..)| *state != ANSWERING);
        if let Some((.., connection)) = waiting.min_by_key(|(state, number, _)| (*state, *number)) {
            connection.close.notify_one();
        }
    }

    fn tick(&self) -> u64 {
        self.0.clock.fetch_add(1, Ordering::Relaxed)
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Connection>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Waits until the connection has to give its place to another.
    pub(super) async fn closed(&self) {
        self.connection.close.notified().await;
    }
}

impl Answering {
    /// Marks the connection as answering a request until the result is dropped.
    pub(super) fn of(open: &Arc<Open>) -> Self {
        open.connection.state.store(ANSWERING, Ordering::Relaxed);
        Self {
            open: Arc::clone(open),
        }
    }

    /// Closes the connection, even if its client reads nothing. If the connection was upgraded, whatever uses it has to
    /// close it: see [`closed`](Self::closed).
    pub fn close(&self) {
        self.open.connection.close.notify_one();
    }

    /// Waits until the connection has to be closed. Whatever uses an upgraded connection waits for this.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn closed(&self) {
        self.open.closed().await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.all().remove(&self.number);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let now = self.open.connections.tick();
        self.open.connection.state.store(now, Ordering::Relaxed);
    }
}
