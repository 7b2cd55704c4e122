//! Serves the liveness and readiness probes and the metrics.
//!
//! - `/livez` responds with 200 while the async runtime runs, regardless of all other problems: a restart
//!   helps only against a hang.
//! - `/readyz` responds with 200 and `ready`, and a line `degraded: ` for each role that runs in a degraded
//!   state; or with 503 and one line for each thing that a role is waiting for.
//! - `/metrics` responds in Prometheus' text format, version 0.0.4.
//!
//! Probes are answered from memory. They do not query the broker or the database, because otherwise an outage
//! of these would cause every replica to be restarted. Clients are not authenticated: the listener belongs on
//! a loopback or cluster address.

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

/// The upper bounds of the buckets of every histogram of seconds. They range from a receiver on the same
/// host, via the 30 s of the contract, to a delivery with its last retries.
pub const DURATION_BUCKETS_S: [f64; 18] = [
    0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 150.0,
    300.0,
];

/// How often the recorder sorts recorded values into their buckets. Without this, memory grows until the next
/// scrape.
const UPKEEP: Duration = Duration::from_secs(5);

/// Enough for a few probes and scrapers. Other clients can neither use up the role's file descriptors nor
/// take a probe's connection.
const BOUNDS: Bounds = Bounds {
    connections_max: 64,
    headers_timeout: Duration::from_secs(5),
    shutdown_deadline: Duration::from_secs(1),
};

/// The sources of the responses.
#[derive(Clone)]
pub struct Probes {
    /// The handle from [`install_recorder`].
    pub metrics: PrometheusHandle,
    /// Every role of this process.
    pub roles: Vec<Role>,
    /// Cancelled when the process shuts down. From then on it is not ready, so that it gets no traffic while
    /// it drains.
    pub stopping: CancellationToken,
}

/// One role of this process.
#[derive(Clone, Debug)]
pub struct Role {
    /// The name, such as `worker`.
    pub name: &'static str,
    /// What the role is waiting for; `None` while it works. A dropped sender means that the role has ended.
    pub readiness: watch::Receiver<Option<String>>,
    /// Why the role runs in a degraded state; `None` while nothing is wrong.
    pub degraded: watch::Receiver<Option<String>>,
}

/// Starts collecting the metrics of the whole process, with durations in the buckets of
/// [`DURATION_BUCKETS_S`].
///
/// # Errors
/// Returns an error if the process already has a recorder.
pub fn install_recorder() -> Result<PrometheusHandle, BuildError> {
    builder()?.install_recorder()
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &DURATION_BUCKETS_S)
}

/// Serves until `stop` is cancelled, then completes the responses in progress.
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
    /// Returns one line for each reason why the process is not ready.
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
    /// Returns one line for each degraded role.
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
