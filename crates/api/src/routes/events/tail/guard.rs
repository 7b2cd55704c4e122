//! Ends a stream whose key is no longer valid, and every stream when the API shuts down.
//!
//! This is a task of its own, because hyper asks for the next part of a body only when the client has read enough
//! of the earlier ones. The body of a client that reads nothing could therefore not end itself.

use std::{sync::Arc, time::Duration};

use axum::http::HeaderMap;
use runtime::serve::Answering;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use crate::{auth, caller::Caller, context::Context};

/// The interval of checks whether the key is still valid.
const CHECK_EVERY: Duration = Duration::from_secs(15);
/// How long a client may take to read the last part of a stream, before its connection is closed.
const LAST_PART_MAX: Duration = Duration::from_secs(2);

/// Decides when a stream ends.
pub(super) struct Guard {
    pub(super) context: Context,
    pub(super) caller: Caller,
    /// The headers of the request, which contain the key.
    pub(super) headers: HeaderMap,
    /// The connection of the stream; `None` if the request came over none, as in tests.
    pub(super) connection: Option<Arc<Answering>>,
}

impl Guard {
    /// Cancels `end` when the stream has to end, and closes its connection soon after that. Returns at once when
    /// `end` is cancelled elsewhere.
    pub(super) async fn run(self, end: CancellationToken) {
        let ending = end.clone().drop_guard();
        tokio::select! {
            () = end.cancelled() => return,
            () = self.context.streams.stopped() => {}
            () = self.key_ended() => {}
        }
        drop(ending);
        sleep(LAST_PART_MAX).await;
        if let Some(connection) = &self.connection {
            connection.close();
        }
    }

    async fn key_ended(&self) {
        let mut checks = interval_at(Instant::now() + CHECK_EVERY, CHECK_EVERY);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            checks.tick().await;
            if !auth::is_still_valid(&self.context, &self.caller.key, &self.headers).await {
                return;
            }
        }
    }
}
