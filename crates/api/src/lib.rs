//! The HTTP API for customers and the platform.
//!
//! # Theory of operation
//!
//! ```text
//! request -> observe (id, log, metric) -> admit (key, rate, scope) -> receive (body, slot) -> handler -> store | egress | producer
//! ```
//!
//! [`run`] is the role `api`: a listener, and a router of handlers in `routes`, each of which documents
//! itself. The OpenAPI document is made of these descriptions, and it decides: what an operation needs is
//! read from the document by `operations`, so that what is documented is what is enforced, and a route without a
//! description is denied. Whoever is let in is a `Caller`: a key and its organization, outside of which
//! nothing is there.
//!
//! Handlers call [`service`], as the command line does, and show the results as [`service::view`] has them.
//! Events go to the broker through `publishing`, many requests in one window of confirms, and are answered
//! after their own confirm; their bytes are those of the body.
//!
//! # What survives a crash
//!
//! All that was answered: endpoints are in the database, events in the broker. Nothing is kept here but
//! caches, and when keys were last used, of which a crash loses a minute.
//!
//! # Invariants
//!
//! - A request that changes an endpoint is answered when every running worker acts on the change, or names
//!   those that are not known to.
//! - 202 is answered after the broker's confirm, never before.
//! - An operation does what it does for its caller's organization alone: another one's id is answered like
//!   one that does not exist.
//! - No answer, line of the log or metric has a key; a secret is in the answer that made it and in no other.
//! - Everything that goes wrong is a `Problem`, also what axum and the layers answer with.
//! - Bounded: connections, requests that are worked on, their bodies and their time, keys that are
//!   remembered, events that wait. One key may hold at most a quarter of what requests share, and one
//!   organization half (`shares`).
//!
//! # Deliberately absent
//!
//! TLS and limits by address: a proxy's job. Sessions, cookies, CORS: whoever calls has a key, and a browser
//! is no place for it.

mod config;
mod schema;
mod meters;
mod problem;
mod pagination;
mod time;
mod extract;
mod keys;
mod publishing;
mod resending;
mod readiness;
mod openapi;
mod caller;
mod operations;
mod shares;
mod context;
mod auth;
mod body;
mod observe;
mod routes;
mod router;

use std::time::Duration;

use broker::Topology;
use egress::Egress;
use producer::Producer;
use runtime::serve::{self, Bounds};
use serde_json::Value;
use store::Store;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use meters::METRICS;

use context::{Context, Shared};
use keys::Keys;
use operations::Operations;
use publishing::{PUBLISH_TIMEOUT, Publishing};
use readiness::Readiness;
use resending::Resending;
use shares::Shares;

/// What the API works with.
#[derive(Debug)]
pub struct Deps {
    /// Where it is served.
    pub listener: TcpListener,
    /// The broker to publish to.
    pub broker: broker::Config,
    /// Its queues, for what is sent again.
    pub topology: Topology,
    /// After how long a delivery that is still pending was lost: all its attempts, the delays between them,
    /// and waiting for a slot.
    pub late: Duration,
    /// Where endpoints, keys and the journal are; its schema must be up to date.
    pub store: Store,
    /// Judges URLs.
    pub egress: Egress,
    /// Why this process could not write its row in the table of roles the last time, which it does every
    /// second; `None` if it could.
    pub database: watch::Receiver<Option<String>>,
    /// Receives what the API waits for; `None` while it can publish.
    pub readiness: watch::Sender<Option<String>>,
    /// Receives what the API works without; `None` while nothing is missing.
    pub degraded: watch::Sender<Option<String>>,
}

/// Serves until `stop` is cancelled, and then finishes the requests under way, until
/// [`Config::shutdown_deadline`].
///
/// A broker or database that is away is answered with 503.
pub async fn run(config: Config, deps: Deps, stop: CancellationToken) {
    let Deps {
        listener,
        mut broker,
        topology,
        late,
        store,
        egress,
        database,
        readiness,
        degraded,
    } = deps;
    broker.publish_timeout = PUBLISH_TIMEOUT;
    let resending = Resending::start(&broker, topology.clone(), store.clone(), late);
    let producer = Producer::connect(broker);
    let readiness = Readiness {
        ready: readiness,
        degraded,
        producer: producer.clone(),
        resending: resending.link(),
        topology,
        database,
    };
    let (handlers, document) = router::parts(routes::all());
    let context = Context::new(Shared {
        keys: Keys::new(store.clone(), config.rate_per_key),
        resending,
        publishing: Publishing::start(producer),
        operations: Operations::of(&document).expect("the document is made of this program's own code"),
        document: document.to_string().into(),
        arriving: Shares::new(config::ARRIVING_MAX),
        body_bytes: Shares::new(config.bodies_bytes_max()),
        slots: Shares::new(config::IN_FLIGHT_MAX),
        pings: Shares::new(config::PINGS_MAX),
        store,
        egress,
        config,
    });
    let router = router::router(handlers, context.clone());
    let bounds = Bounds {
        connections_max: config::CONNECTIONS_MAX,
        headers_timeout: context.config.idle_timeout,
        shutdown_deadline: context.config.shutdown_deadline,
    };
    tokio::select! {
        () = serve::serve(listener, router, &stop, bounds) => {}
        () = context.keys.note_uses() => unreachable!("it never ends"),
        () = readiness.watch() => unreachable!("it never returns"),
    }
    tokio::join!(context.publishing.shutdown(), context.resending.shutdown());
    context.keys.note_last_uses().await;
}

/// The OpenAPI document, as it is served.
pub fn openapi() -> Value {
    router::parts(routes::all()).1
}

#[cfg(test)]
mod tests;
