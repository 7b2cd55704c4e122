//! The two connections of an audit. They count different rows at the same time. On PostgreSQL the second one
//! also counts deliveries for the main one, in the same snapshot, if it is ready in time.
//!
//! Neither side waits for the other one to get a connection. Otherwise audits that run at the same time could
//! use up the pool and wait for each other.

use sqlx::AssertSqlSafe;
use tokio::sync::oneshot;

use super::rows::Deliveries;

/// The side of the main connection.
pub(super) struct Main {
    /// Passes the name of the main connection's snapshot.
    snapshot: Option<oneshot::Sender<String>>,
    /// Receives the deliveries that the second connection counts, once it has begun to.
    counting: oneshot::Receiver<oneshot::Receiver<Vec<Deliveries>>>,
}

/// The side of the second connection.
pub(super) struct Second {
    snapshot: oneshot::Receiver<String>,
    counting: oneshot::Sender<oneshot::Receiver<Vec<Deliveries>>>,
}

/// A snapshot of the main connection.
pub(super) struct Shared {
    name: String,
    counting: oneshot::Sender<oneshot::Receiver<Vec<Deliveries>>>,
}

/// The second connection's promise to count the deliveries, for which the main connection waits.
pub(super) struct Counting {
    /// The name of the main connection's snapshot, which exists until the deliveries are sent.
    snapshot: String,
    counted: oneshot::Sender<Vec<Deliveries>>,
}

/// Returns the two sides of an audit.
pub(super) fn connections() -> (Main, Second) {
    let (share, snapshot) = oneshot::channel();
    let (begin, counting) = oneshot::channel();
    let main = Main {
        snapshot: Some(share),
        counting,
    };
    let second = Second {
        snapshot,
        counting: begin,
    };
    (main, second)
}

impl Main {
    /// Lets the second connection begin, in this snapshot if there is one.
    pub(super) fn share(&mut self, snapshot: Option<String>) {
        if let (Some(second), Some(snapshot)) = (self.snapshot.take(), snapshot) {
            // The second side no longer receives it if the audit has failed.
            second.send(snapshot).ok();
        }
    }

    /// Waits for the deliveries that the second connection counts. Returns `None` if it has not promised that,
    /// and from then on cannot, or if it failed.
    pub(super) async fn deliveries(&mut self) -> Option<Vec<Deliveries>> {
        self.counting.close();
        self.counting.try_recv().ok()?.await.ok()
    }
}

impl Second {
    /// Waits until it may begin. Returns `None` if the main connection shares no snapshot.
    pub(super) async fn snapshot(self) -> Option<Shared> {
        let name = self.snapshot.await.ok()?;
        let counting = self.counting;
        Some(Shared { name, counting })
    }
}

impl Shared {
    /// Promises to count the deliveries. Returns `None` if the main connection counts them itself.
    pub(super) fn promise(self) -> Option<Counting> {
        let (counted, receiver) = oneshot::channel();
        self.counting.send(receiver).ok()?;
        let snapshot = self.name;
        Some(Counting { snapshot, counted })
    }
}

impl Counting {
    /// Returns the statement that begins the second connection's transaction in the snapshot.
    pub(super) fn import(&self) -> AssertSqlSafe<String> {
        AssertSqlSafe(format!("SET TRANSACTION SNAPSHOT '{}'", self.snapshot))
    }

    pub(super) fn send(self, deliveries: Vec<Deliveries>) {
        // The main connection no longer receives them if the audit has failed.
        self.counted.send(deliveries).ok();
    }
}
