//! The HTTP API for customers and for the platform.
//!
//! # Theory of operation
//!
//! ```text
//! request -> observe (id, log, metric) -> admit (key, rate, scope) -> receive (body, slot)
//!         -> handler -> store | egress | producer
//! ```
//!
//! [`run`] is the role `api`: a listener, and a router of handlers in `routes`. Each handler documents
//! itself, and the OpenAPI document is generated from these descriptions. The document is authoritative:
//! `operations` reads from it which scope an operation needs, so that what is documented is what is enforced,
//! and a request to an undocumented route is denied. An admitted request has a `Caller`: an API key, and the
//! organization that the request is for, which is the key's or, with a platform key, the one that the request
//! names. A caller cannot see anything outside of it.
//!
//! Handlers call [`service`], as the command line does, and convert the results with [`service::view`].
//! [`service::publish`] sends events to the broker, the events of many requests in one window of confirms. Each
//! request is answered after its own event is confirmed. An event's bytes are those of the request body.
//!
//! A stream of what workers record is a response whose body does not end. All streams share one queue on the
//! broker, and each is sent the lines that its caller may see (`streams`, [`service::tail`]).
//!
//! A relay's program receives its requests over a WebSocket, and answers them. The requests arrive in a queue that is
//! exclusive to this process, and each answer goes to the worker that has sent the request (`relays`).
//!
//! # What survives a crash
//!
//! Everything that was answered: endpoints are in the database, events in the broker. This process keeps only
//! caches, and the times when keys were last used, of which a crash loses up to a minute.
//!
//! # Invariants
//!
//! - A request that changes an endpoint is answered when every running worker acts on the change, or names
//!   the workers that are not known to act on it.
//! - A publish request is answered with 202 only after the broker's confirm.
//! - An operation affects only the organization that the request is for. The id of another organization's
//!   object is answered like an id that does not exist. Only with a platform key can one request list the
//!   objects of all organizations, or publish events of several.
//! - A stream ends within 20 s after its key was revoked or has expired, and soon after a shutdown begins, even if
//!   its client reads nothing. While the database is unavailable, a stream whose key was revoked goes on. A slow
//!   reader delays no other.
//! - The connection of a relay ends within 20 s after its key was revoked or has expired, or the relay has ended, and
//!   within a second after a shutdown begins. While the database is unavailable, it goes on. Its program can answer only
//!   the requests that were sent to it.
//! - No key is created with more scopes than the key that creates it, or for another organization.
//! - No log line or metric contains an API key or an endpoint's secret. Only the response to the request that
//!   created a key or a secret contains it.
//! - Every error is a `Problem`, including those that axum and the layers return.
//! - The following are bounded: connections, requests in progress, their bodies and their duration, streams and
//!   the lines that wait for each, programs that are connected to relays and the requests that each has not answered,
//!   cached keys, and events that wait to be published. Of what requests share, one key may hold at most a quarter and
//!   one organization at most half, except for a first request that needs more (`shares`).
//!
//! # Deliberately absent
//!
//! TLS and rate limits by address, which a proxy can provide. Sessions, cookies and CORS, because clients
//! authenticate with an API key, which must not be used in a browser.

mod config;
mod schema;
mod meters;
mod problem;
mod pagination;
mod time;
mod extract;
mod key_cache;
mod readiness;
mod openapi;
mod caller;
mod operations;
mod shares;
mod streams;
mod relays;
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
use service::{
    publish::{PUBLISH_TIMEOUT, Publishing},
    resend::Resending,
};
use store::Store;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use meters::METRICS;

use context::{Context, Shared};
use key_cache::KeyCache;
use operations::Operations;
use readiness::Readiness;
use relays::Relays;
use shares::Shares;
use streams::Streams;

/// The dependencies of the API.
#[derive(Debug)]
pub struct Deps {
    /// The listener to serve the API on.
    pub listener: TcpListener,
    /// The broker to publish to.
    pub broker: broker::Config,
    /// The broker's exchanges and queues, for sending deliveries again.
    pub topology: Topology,
    /// The time after which a delivery that is still pending is considered lost: the duration of all its
    /// attempts, the delays between them, and the longest wait for a slot.
    pub late: Duration,
    /// The store with endpoints, API keys and the journal. Its schema must be up to date.
    pub store: Store,
    /// Checks the URLs of endpoints.
    pub egress: Egress,
    /// Why this process could not write its row in the table of roles the last time, which it does every
    /// second; `None` if it could.
    pub database: watch::Receiver<Option<String>>,
    /// Receives the reason why the API is not ready; `None` while it can publish.
    pub readiness: watch::Sender<Option<String>>,
    /// Receives the reason why the API is degraded; `None` while everything works.
    pub degraded: watch::Sender<Option<String>>,
}

/// Serves requests until `stop` is cancelled. Then ends the streams and finishes the requests in flight, for at
/// most [`Config::shutdown_deadline`].
///
/// While the broker or the database is unavailable, requests that need it are answered with 503.
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
    let streams = Streams::new(&broker, topology.clone(), stop.clone());
    let relays = Relays::start(&broker, topology.clone(), store.clone(), stop.clone());
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
        keys: KeyCache::new(store.clone(), config.rate_per_key),
        resending,
        publishing: Publishing::start(producer),
        operations: Operations::of(&document)
            .expect("every operation in this program's own document has a valid `security`"),
        document: document.to_string().into(),
        arriving: Shares::new(config::ARRIVING_MAX),
        body_bytes: Shares::new(config.bodies_bytes_max()),
        slots: Shares::new(config::IN_FLIGHT_MAX),
        pings: Shares::new(config::PINGS_MAX),
        streams,
        relays,
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
        () = context.keys.note_uses() => unreachable!("it never returns"),
        () = readiness.watch() => unreachable!("it never returns"),
    }
    tokio::join!(
        context.publishing.shutdown(),
        context.resending.shutdown(),
        context.streams.shutdown(),
        context.relays.shutdown(),
    );
    context.keys.note_last_uses().await;
}

/// Returns the OpenAPI document, as it is served.
pub fn openapi() -> Value {
    router::parts(routes::all()).1
}

#[cfg(test)]
mod tests;
