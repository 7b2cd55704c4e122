//! Reads the roles, the journal and the queues.

use std::time::{Duration, Instant};

use broker::{Changes, Inspection, Link, Mark, QueueState, Topology, TopologyFault};
use service::status::{FAILING_MAX, OVERDUE};
use store::{Failing, Overview, RetentionStop, RunningRole, SchemaState, Store};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{command::topology, configuration::Configuration, database};

/// The maximum time for the login at the broker.
const LOGIN_MAX: Duration = Duration::from_secs(5);
/// The maximum time for the answer to one question: about all queues, about policies and bindings, or about
/// the installation.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The maximum time for closing a connection. The broker does not answer on a blocked one.
const GOODBYE_MAX: Duration = Duration::from_millis(500);
/// The time between the two reads of the queues from which their rates are computed.
const RATE_OVER: Duration = Duration::from_secs(1);
/// How long a role that ended without announcing it is shown.
pub(super) const LOST_SHOWN: Duration = Duration::from_mins(10);
/// The maximum number of workers without a recent announcement whose queues are checked, beginning with those
/// that announced themselves last.
const SILENT_MAX: usize = 100;

/// The collected state, or for each part why it could not be read.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) now_ms: u64,
    pub(super) since_ms: u64,
    pub(super) database: Result<InDatabase, String>,
    pub(super) broker: Result<OnBroker, String>,
}

#[derive(Debug)]
pub(super) struct InDatabase {
    /// The id of the database's installation.
    pub(super) installation: String,
    pub(super) roles: Vec<RunningRole>,
    pub(super) overview: Overview,
    /// At most [`FAILING_MAX`].
    pub(super) failing: Vec<Failing>,
    /// Messages in quarantine, by reason.
    pub(super) rejected: Vec<(String, u64)>,
    pub(super) retention_stops: Vec<RetentionStop>,
}

#[derive(Debug)]
pub(super) struct OnBroker {
    pub(super) queues: Vec<Depth>,
    /// Exchanges and queues that are missing, or not as this version declares them.
    pub(super) problems: Vec<TopologyFault>,
    /// The broker has a memory or disk alarm.
    pub(super) is_blocked: bool,
    /// Workers that are connected to the broker although they have not announced themselves in the database
    /// recently.
    pub(super) cut_off: Vec<String>,
    /// The installation that the queues belong to, if it is not the database's; otherwise `None`.
    pub(super) other_installation: Option<String>,
    /// The effects of policies and the missing bindings, or why they could not be read.
    pub(super) inspection: Result<Inspection, String>,
}

/// The existing queues, and the exchanges and queues that are missing or different.
type Queues = (Vec<Depth>, Vec<TopologyFault>);

/// The state of a queue, computed from two reads.
#[derive(Debug)]
pub(super) struct Depth {
    /// The name without the prefix.
    pub(super) name: String,
    /// The name on the broker.
    pub(super) full_name: String,
    pub(super) ready: u32,
    /// The growth of `ready`, in messages per second; negative if it shrank.
    pub(super) rate: f64,
    pub(super) consumers: u32,
}

/// Reads the state as often as requested.
pub(super) struct Looker<'a> {
    configuration: &'a Configuration,
    topology: Topology,
    link: Link,
    changes: Changes,
    stop: CancellationToken,
}

impl<'a> Looker<'a> {
    pub(super) async fn open(configuration: &'a Configuration) -> Self {
        let stop = CancellationToken::new();
        let link = Link::open(&configuration.broker.config(), "magnetite status", stop.clone());
        let topology = configuration.topology();
        log_in(&link, configuration.broker.config().addresses_count()).await;
        Self {
            configuration,
            changes: Changes::over(link.clone(), topology.clone()),
            topology,
            link,
            stop,
        }
    }

    pub(super) async fn look(&self, since_ms: u64) -> Seen {
        let now_ms = runtime::now_ms();
        let database = self.in_database(now_ms, since_ms);
        let (database, told) = tokio::join!(database, self.told());
        let broker = match told {
            Ok(((queues, problems), inspection, is_blocked)) => {
                let database = database.as_ref().ok();
                Ok(OnBroker {
                    queues,
                    problems,
                    is_blocked,
                    cut_off: self.cut_off(database).await,
                    other_installation: self.other_installation(database).await,
                    inspection,
                })
            }
            Err(error) => Err(error),
        };
        Seen {
            now_ms,
            since_ms,
            database,
            broker,
        }
    }

    pub(super) async fn close(self) {
        self.stop.cancel();
        self.link.closed().await;
    }

    async fn in_database(&self, now_ms: u64, since_ms: u64) -> Result<InDatabase, String> {
        let configuration = &self.configuration.database;
        configuration
            .expect_file()
            .map_err(|error| format!("{error:#}"))?;
        let store = database::connect(configuration)
            .await
            .map_err(|error| format!("{error:#}"))?;
        let found = ask(&store, now_ms, since_ms).await;
        store.close().await;
        found.map_err(|error| format!("{error:#}"))
    }

    /// Reads the state of the broker. Returns an error at once if the link is not connected.
    async fn told(&self) -> Result<(Queues, Result<Inspection, String>, bool), String> {
        if !self.link.is_up() {
            return Err(self.away());
        }
        let (queues, inspection, is_blocked) =
            tokio::join!(self.queues(), self.inspection(), self.is_blocked());
        Ok((queues?, inspection, is_blocked))
    }

    fn away(&self) -> String {
        let address = self.configuration.broker.config().address();
        let failure = self.link.failure();
        let why = failure.unwrap_or_else(|| format!("no answer within {LOGIN_MAX:?}"));
        format!("the broker at {address} cannot be used: {why}")
    }

    async fn queues(&self) -> Result<Queues, String> {
        let check = async || match timeout(ANSWER_MAX, self.topology.check(&self.link)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(format!("{:#}", anyhow::Error::from(error))),
            Err(_) => Err(self.away()),
        };
        let (first, began) = (check().await?, Instant::now());
        sleep(RATE_OVER).await;
        let (second, over) = (check().await?, began.elapsed());
        let before: Vec<QueueState> = first.into_iter().flatten().collect();
        let (mut depths, mut problems) = (Vec::new(), Vec::new());
        for found in second {
            match found {
                Ok(state) => depths.push(self.depth(&state, &before, over)),
                Err(problem) => problems.push(problem),
            }
        }
        Ok((depths, problems))
    }

    fn depth(&self, state: &QueueState, before: &[QueueState], over: Duration) -> Depth {
        let was = before.iter().find(|was| was.name == state.name);
        let more = was.map_or(0.0, |was| f64::from(state.ready) - f64::from(was.ready));
        Depth {
            name: self.topology.own_name(&state.name).to_owned(),
            full_name: state.name.clone(),
            ready: state.ready,
            rate: more / over.as_secs_f64(),
            consumers: state.consumers,
        }
    }

    /// Returns whether the broker has an alarm. Uses a separate connection: during an alarm, the broker tells
    /// a connection so when it publishes, and then reads nothing more from it.
    async fn is_blocked(&self) -> bool {
        let (config, stop) = (self.configuration.broker.config(), CancellationToken::new());
        let link = Link::publishing(&config, "magnetite status, alarms", stop.clone());
        let is_up = timeout(LOGIN_MAX, link.connection())
            .await
            .is_ok_and(|up| up.is_ok());
        let is_blocked = is_up && link.is_blocked();
        stop.cancel();
        let _ = timeout(GOODBYE_MAX, link.closed()).await;
        is_blocked
    }

    async fn inspection(&self) -> Result<Inspection, String> {
        let config = self.configuration.broker.config();
        match timeout(ANSWER_MAX, topology::inspect(&config, &self.topology)).await {
            Ok(Ok(inspection)) => Ok(inspection),
            Ok(Err(error)) => Err(runtime::display_chain(&error)),
            Err(_) => Err(format!("no answer within {ANSWER_MAX:?}")),
        }
    }

    /// Returns the installation that the queues belong to, if it is known and not the database's.
    async fn other_installation(&self, database: Option<&InDatabase>) -> Option<String> {
        let finding = self.topology.find_mark(&self.link, &database?.installation);
        match timeout(ANSWER_MAX, finding).await {
            Ok(Ok(Mark::Theirs(theirs))) => Some(theirs),
            _ => None,
        }
    }

    /// Returns the workers that are connected to the broker although they have not announced themselves
    /// recently.
    async fn cut_off(&self, database: Option<&InDatabase>) -> Vec<String> {
        let roles = database.iter().flat_map(|database| &database.roles);
        let mut silent: Vec<_> = roles
            .filter(|role| role.role == "worker" && !role.is_heard())
            .collect();
        silent.sort_by_key(|role| role.unseen_ms);
        let mut cut_off = Vec::new();
        for role in silent.into_iter().take(SILENT_MAX) {
            if self.changes.is_consuming(&role.process).await == Some(true) {
                cut_off.push(role.process.clone());
            }
        }
        cut_off
    }
}

/// Waits until the broker accepts the login; if it has only one address, at most until the login fails.
async fn log_in(link: &Link, addresses_count: u32) {
    let mut states = link.clone();
    let failed = async {
        while states.failure().is_none() {
            states.changed().await;
        }
    };
    tokio::select! {
        _ = timeout(LOGIN_MAX, link.connection()) => {}
        () = failed, if addresses_count == 1 => {}
    }
}

async fn ask(store: &Store, now_ms: u64, since_ms: u64) -> anyhow::Result<InDatabase> {
    match store.check().await?.state {
        SchemaState::UpToDate => {}
        other => database::fits(&other)?,
    }
    let overdue_ms = now_ms.saturating_sub(OVERDUE.as_millis() as u64);
    Ok(InDatabase {
        installation: store.installation_id().await?,
        roles: store.running_roles(LOST_SHOWN).await?,
        overview: store.overview(now_ms, since_ms, overdue_ms).await?,
        failing: store.failing(None, None, FAILING_MAX, now_ms).await?,
        rejected: store.count_rejected(since_ms, now_ms.saturating_add(1)).await?,
        retention_stops: store.retention_stops().await?,
    })
}
