//! Is it alive, can it work, what does it count.
//!
//! | path | answers |
//! |---|---|
//! | `/livez` | 200 while the runtime turns, whatever else is wrong: a restart cures nothing but a hang |
//! | `/readyz` | 200 `ready`, with a line `degraded: ` for each role that works with less than it should have; or 503 with one line for each thing that is waited for |
//! | `/metrics` | Prometheus' text format, version 0.0.4 |
//!
//! A probe is answered from memory: it waits for no broker and no database, or their outage would get every
//! replica restarted. Clients are not authenticated: the listener belongs on a loopback or cluster address.

use std::{fmt::Write as _, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::{net::TcpListener, sync::watch, time::interval};
use tokio_util::sync::CancellationToken;

use crate::serve::{self, Bounds};

/// Upper bounds of the buckets of every histogram of seconds: from a receiver on the same host, by the 30 s
/// of the contract, to a delivery with its last retries.
pub const DURATION_BUCKETS_S: [f64; 18] = [
    0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 150.0,
    300.0,
];

/// How often the recorder sorts what was recorded into its buckets; without it memory grows until the next
/// scrape.
const UPKEEP: Duration = Duration::from_secs(5);

/// Enough for a few probes and scrapers. Whatever else connects takes neither the role's file descriptors nor
/// a probe's place.
const BOUNDS: Bounds = Bounds {
    connections_max: 64,
    headers_timeout: Duration::from_secs(5),
    shutdown_deadline: Duration::from_secs(1),
};

/// What the answers are made of.
#[derive(Clone)]
pub struct Probes {
    /// From [`install_recorder`].
    pub metrics: PrometheusHandle,
    /// Every role of this process.
    pub roles: Vec<Role>,
    /// Once it is cancelled the process is not ready, so that nobody counts on it while it drains.
    pub stopping: CancellationToken,
}

/// One role of this process.
#[derive(Clone, Debug)]
pub struct Role {
    /// Such as `worker`.
    pub name: &'static str,
    /// What the role waits for; `None` while it works. A dropped sender means that the role has ended.
    pub readiness: watch::Receiver<Option<String>>,
    /// Why the role works on with less than it should have; `None` while nothing is wrong.
    pub degraded: watch::Receiver<Option<String>>,
}

/// Collects the metrics of the whole process from now on, durations in the buckets of [`DURATION_BUCKETS_S`].
///
/// # Errors
/// When the process has a recorder already.
pub fn install_recorder() -> Result<PrometheusHandle, BuildError> {
    builder()?.install_recorder()
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &DURATION_BUCKETS_S)
}

/// Serves until `stop` is cancelled, then finishes the answers under way.
pub async fn serve(listener: TcpListener, probes: Probes, stop: CancellationToken) {
    let upkeep = upkeep(probes.metrics.clone());
    tokio::select! {
        () = serve::serve(listener, router(probes), &stop, BOUNDS) => {}
        () = upkeep => unreachable!("the upkeep never ends"),
    }
}

async fn upkeep(metrics: PrometheusHandle) {
    let mut ticks = interval(UPKEEP);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

fn router(probes: Probes) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(probes)
}

async fn ready(State(probes): State<Probes>) -> impl IntoResponse {
    let waits_for = probes.waits_for();
    if waits_for.is_empty() {
        (StatusCode::OK, format!("ready\n{}", probes.degraded()))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, waits_for)
    }
}

async fn metrics(State(probes): State<Probes>) -> impl IntoResponse {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, probes.metrics.render())
}

impl Probes {
    /// One line for each reason not to be ready.
    fn waits_for(&self) -> String {
        let mut lines = String::new();
        if self.stopping.is_cancelled() {
            lines.push_str("shutting down\n");
        }
        for role in &self.roles {
            if let Some(reason) = role.waits_for() {
                let _ = writeln!(lines, "{}: {reason}", role.name);
            }
        }
        lines
    }
}

impl Probes {
    /// One line for each role that works with less than it should have.
    fn degraded(&self) -> String {
        let mut lines = String::new();
        for role in &self.roles {
            if let Some(reason) = &*role.degraded.borrow() {
                let _ = writeln!(lines, "degraded: {}: {reason}", role.name);
            }
        }
        lines
    }
}

impl Role {
    fn waits_for(&self) -> Option<String> {
        match self.readiness.has_changed() {
            Ok(_) => self.readiness.borrow().clone(),
            Err(_) => Some("ended".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
