//! The life cycle that all roles share: file descriptor limits, signals, probes, database, work, shutdown.
//!
//! If the broker or the database is unavailable, a role waits and keeps retrying. It logs this when the
//! condition begins, once a minute, and when it ends. An error that retrying cannot resolve ends the process
//! with exit code 1.

use std::{fs, future::Future, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use futures_util::future::join_all;
use runtime::{
    Lasting, logs,
    probes::{self, Role},
    vital,
};
use store::{Actor, Announcement, JournalTotals, Position, Store};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{configuration::Configuration, database, limits, meters, signals};

use super::{claim::claim, troubles};

/// How to treat an outdated database schema before the work begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Schema {
    /// Migrate it.
    Migrate,
    /// Return an error.
    Expect,
}

/// The maximum time for an answer to a probe after everything else has ended.
const HEALTH_GRACE: Duration = Duration::from_secs(1);

/// The interval at which the count of lost log lines is updated.
const LOST_LINES_EVERY: Duration = Duration::from_secs(1);
/// The interval at which a role announces itself in the database.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// The maximum time for removing the role's row from the database at the end.
const CLOSE_MAX: Duration = Duration::from_millis(500);

/// The channels through which a role reports its state to the probes.
struct Told {
    readiness: watch::Sender<Option<String>>,
    degraded: watch::Sender<Option<String>>,
}

/// The identity of this process.
struct Process {
    /// A random name.
    name: String,
    host: String,
}

/// A role that runs in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Delivers events.
    Worker,
    /// Writes the journal to the database.
    Recorder,
    /// Serves the HTTP API at this address.
    Api(SocketAddr),
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Recorder => "recorder",
            Self::Api(_) => "api",
        }
    }
}

/// Runs roles until a signal arrives or one of them ends, and then shuts all of them down.
pub(super) async fn run(configuration: &Configuration, schema: Schema, kinds: &[Kind]) -> anyhow::Result<()> {
    let egress = configuration.egress.client()?;
    raise_descriptors(configuration.worker.in_flight_max);
    let stop = signals::stop_on_signal()?;
    let (told, roles): (Vec<_>, Vec<_>) = kinds
        .iter()
        .map(|kind| {
            let (readiness, waits_for) = watch::channel(Some("starting".to_owned()));
            let (degraded, is_degraded) = watch::channel(None);
            let role = Role {
                name: kind.name(),
                readiness: waits_for,
                degraded: is_degraded,
            };
            let told = Told { readiness, degraded };
            ((*kind, told), role)
        })
        .unzip();
    let probes = ProbeServer::start(configuration.health_listen, roles.clone(), &stop).await?;
    let worked = work(configuration, schema, &egress, (told, roles), stop).await;
    probes.end().await;
    worked
}

async fn work(
    configuration: &Configuration,
    schema: Schema,
    egress: &egress::Egress,
    (told, roles): (Vec<(Kind, Told)>, Vec<Role>),
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let process = Process::new();
    // Boxed, because connecting needs much space.
    let opening = Box::pin(open_store(configuration, schema, &told));
    let Some(store) = stop.run_until_cancelled(opening).await.transpose()? else {
        return Ok(());
    };
    let running = told.into_iter().map(async |(kind, told)| {
        let ended = match kind {
            // The worker announces itself, together with the version of the endpoints that it uses.
            Kind::Worker => Box::pin(deliver(configuration, &process, &store, egress, told, &stop)).await,
            Kind::Recorder => {
                let (unannounced, database) = watch::channel(None);
                let recording = record(configuration, &process, &store, (told, database), &stop);
                Box::pin(announced(&process, kind, &store, unannounced, recording)).await
            }
            Kind::Api(address) => {
                let (unannounced, database) = watch::channel(None);
                let serving = serve(address, configuration, &store, egress, (told, database), &stop);
                Box::pin(announced(&process, kind, &store, unannounced, serving)).await
            }
        };
        // If one role ends, for whatever reason, the whole process ends.
        stop.cancel();
        ended
    });
    let ended = tokio::select! {
        ended = join_all(running) => ended,
        () = troubles::report(&process.name, &store, &roles) => unreachable!("reporting never ends"),
    };
    store.close().await;
    ended.into_iter().collect()
}

impl Process {
    fn new() -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname");
        Self {
            name: format!("{:016x}", rand::random::<u64>()),
            host: host.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned()),
        }
    }
}

/// Runs a role that makes no attempts, and announces it every second until it ends. `unannounced` receives
/// the reason if the last announcement could not be written, and `None` if it could.
async fn announced<T>(
    process: &Process,
    kind: Kind,
    store: &Store,
    unannounced: watch::Sender<Option<String>>,
    role: impl Future<Output = T>,
) -> T {
    let announcing = async {
        loop {
            let announcement = Announcement {
                process: &process.name,
                role: kind.name(),
                host: &process.host,
                position: Position::default(),
                journal: JournalTotals::default(),
                in_hand: 0,
                now_ms: runtime::now_ms(),
            };
            let announced = store.announce_role(&announcement).await;
            let failed = announced.err().map(|error| {
                tracing::debug!(role = kind.name(), %error, "cannot announce this role");
                format!("cannot write to the database: {:#}", anyhow::Error::from(error))
            });
            unannounced.send_replace(failed);
            sleep(ANNOUNCE_EVERY).await;
        }
    };
    let ended = tokio::select! {
        ended = role => ended,
        () = announcing => unreachable!("announcing never ends"),
    };
    let _ = timeout(CLOSE_MAX, store.close_role(&process.name, kind.name())).await;
    ended
}

/// Waits until the queues are known to belong to this database's installation. Returns false if the role was
/// stopped first.
async fn claimed(
    configuration: &Configuration,
    store: &Store,
    readiness: &watch::Sender<Option<String>>,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    readiness.send_replace(Some("connecting to the broker".to_owned()));
    let claiming = stop.run_until_cancelled(claim(configuration, store)).await;
    Ok(claiming.transpose()?.is_some())
}

async fn deliver(
    configuration: &Configuration,
    process: &Process,
    store: &Store,
    egress: &egress::Egress,
    told: Told,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if !claimed(configuration, store, &told.readiness, stop).await? {
        return Ok(());
    }
    let deps = worker::Deps {
        name: process.name.clone(),
        host: process.host.clone(),
        broker: configuration.broker.config(),
        store: store.acting_as(Actor::Worker),
        egress: egress.clone(),
        readiness: told.readiness,
        degraded: told.degraded,
    };
    Ok(worker::run(configuration.worker.clone(), deps, stop.clone()).await?)
}

async fn record(
    configuration: &Configuration,
    process: &Process,
    store: &Store,
    (told, database): (Told, watch::Receiver<Option<String>>),
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if !claimed(configuration, store, &told.readiness, stop).await? {
        return Ok(());
    }
    let deps = recorder::Deps {
        broker: configuration.broker.config(),
        topology: configuration.topology(),
        store: store.acting_as(Actor::Recorder),
        host: process.host.clone(),
        database,
        readiness: told.readiness,
        degraded: told.degraded,
    };
    Ok(recorder::run(configuration.recorder.clone(), deps, stop.clone()).await?)
}

async fn serve(
    address: SocketAddr,
    configuration: &Configuration,
    store: &Store,
    egress: &egress::Egress,
    (told, database): (Told, watch::Receiver<Option<String>>),
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (listener, address) = listen(address, "api.listen").await?;
    tracing::info!(%address, "serving the API; its documentation is at /docs");
    let deps = api::Deps {
        listener,
        broker: configuration.broker.config(),
        topology: configuration.topology(),
        late: configuration.late(),
        store: store.clone(),
        egress: egress.clone(),
        database,
        readiness: told.readiness,
        degraded: told.degraded,
    };
    // Requests that need no broker are served without one.
    tokio::select! {
        () = api::run(configuration.api.clone(), deps, stop.clone()) => Ok(()),
        error = refused(configuration, store) => Err(error),
    }
}

/// Returns why the queues must not be used, as soon as this is known. Never returns if they may be used.
async fn refused(configuration: &Configuration, store: &Store) -> anyhow::Error {
    match claim(configuration, store).await {
        Err(error) => error,
        Ok(()) => std::future::pending().await,
    }
}

/// Binds a listener. Returns the actual address, which differs from `address` if its port is 0.
async fn listen(address: SocketAddr, key: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: set {key} to a free address"))?;
    let address = listener.local_addr().unwrap_or(address);
    Ok((listener, address))
}

fn raise_descriptors(in_flight_max: usize) {
    let needed = limits::descriptors_needed(in_flight_max);
    match limits::raise_descriptors() {
        Ok(limit) if limit < needed => tracing::warn!(
            limit,
            needed,
            "too few file descriptors for worker.in_flight_max; raise the hard limit (ulimit -Hn, LimitNOFILE=)"
        ),
        Ok(limit) => tracing::debug!(limit, needed, "file descriptors"),
        Err(error) => tracing::warn!(%error, needed, "cannot raise the limit of file descriptors"),
    }
}

async fn open_store(
    configuration: &Configuration,
    schema: Schema,
    roles: &[(Kind, Told)],
) -> anyhow::Result<Store> {
    let database = &configuration.database;
    let is_new = database.missing_file().is_some();
    if let Schema::Expect = schema {
        database.expect_file()?;
    }
    let store = until_available(roles, async || database::connect(database).await).await?;
    tracing::info!(database = store.address(), is_new, "opened the database");
    if store::is_unverified(&database.url) {
        tracing::warn!(advice = database::VERIFY, "{}", database::UNVERIFIED);
    }
    match schema {
        Schema::Migrate => {
            let applied = until_available(roles, async || Ok(store.migrate().await?)).await?;
            if !applied.is_empty() {
                tracing::info!(migrations = applied.join(", "), "migrated the database");
            }
        }
        Schema::Expect => {
            let found = until_available(roles, async || Ok(store.check().await?)).await?;
            database::fits(&found.state)?;
        }
    }
    Ok(store)
}

/// Repeats `operation` for as long as the database is unavailable.
async fn until_available<T, F: Future<Output = anyhow::Result<T>>>(
    roles: &[(Kind, Told)],
    operation: impl Fn() -> F,
) -> anyhow::Result<T> {
    let (mut failures, away) = (0, Lasting::new());
    loop {
        let error = match operation().await {
            Ok(done) => {
                if let Some(ended) = away.end() {
                    tracing::info!(failures = ended.times, "the database is available");
                }
                return Ok(done);
            }
            Err(error) => error,
        };
        if !error
            .downcast_ref::<store::Error>()
            .is_some_and(store::Error::is_unavailable)
        {
            return Err(error);
        }
        failures += 1;
        if away.again().is_some() {
            tracing::warn!(
                error = format!("{error:#}"),
                failures,
                "the database is unavailable; trying again"
            );
        }
        for (_, told) in roles {
            told.readiness
                .send_replace(Some("connecting to the database".to_owned()));
        }
        sleep(broker::backoff(failures)).await;
    }
}

async fn count_lost_lines() {
    let lost = meters::LOG_LINES_LOST.count([]);
    let mut ticks = interval(LOST_LINES_EVERY);
    loop {
        ticks.tick().await;
        lost.absolute(logs::lost());
    }
}

/// The server of `/livez`, `/readyz` and `/metrics`, if one is configured.
struct ProbeServer {
    serving: Option<JoinHandle<()>>,
    stop: CancellationToken,
}

impl ProbeServer {
    async fn start(
        address: Option<SocketAddr>,
        roles: Vec<Role>,
        stopping: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let Some(address) = address else {
            return Ok(Self { serving: None, stop });
        };
        let (listener, address) = listen(address, "health.listen").await?;
        tracing::info!(%address, "serving /livez, /readyz and /metrics");
        let metrics = probes::install_recorder().context("cannot collect metrics")?;
        meters::register(&roles.iter().map(|role| role.name).collect::<Vec<_>>());
        let probes = probes::Probes {
            metrics,
            roles,
            stopping: stopping.clone(),
        };
        let serving = probes::serve(listener, probes, stop.clone());
        let serving = tokio::spawn(vital("probes", async move {
            tokio::select! {
                served = serving => served,
                () = count_lost_lines() => unreachable!("counting never ends"),
            }
        }));
        Ok(Self {
            serving: Some(serving),
            stop,
        })
    }

    async fn end(self) {
        self.stop.cancel();
        if let Some(serving) = self.serving {
            // The process ends: an answer that is not complete by now is dropped.
            let _ = timeout(HEALTH_GRACE, serving).await;
        }
    }
}
