//! A connection that is re-established whenever it is lost.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, future::ready};
use lapin::{Channel, Connection, ConnectionProperties, Event, options::BasicPublishOptions};
use rand::RngExt as _;
use runtime::{Lasting, vital};
use tokio::{
    sync::{Mutex, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Closed, Config,
    channel::{ChannelError, Declaring},
    config::Node,
    connect::connect,
    meters,
    refusals::Refusals,
};

/// A connection that is re-established with jittered backoff whenever it is lost, without a limit on the
/// number of attempts.
///
/// The link tries the configuration's nodes in turn, beginning with a random one, so that many processes
/// spread over the nodes. Clones share the connection.
#[derive(Clone)]
pub struct Link {
    state: watch::Receiver<State>,
    declaring: Arc<Mutex<()>>,
    refusals: Arc<Refusals>,
}

#[derive(Clone, Default)]
struct State {
    connection: Option<Arc<Connection>>,
    /// `host:port/vhost` of the current or last connection.
    address: String,
    /// Whether the broker accepts no publishes because of a memory or disk alarm.
    blocked: bool,
    /// Why the last attempt to connect failed; `None` while there is a connection.
    failure: Option<String>,
}

impl State {
    fn is_writable(&self) -> bool {
        self.connection.is_some() && !self.blocked
    }
}

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The maximum backoff. It is short enough that processes reconnect within seconds after the broker is back,
/// and long enough not to put load on the broker.
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// How long to wait for a new connection to show whether it is blocked.
const PROBE_MAX: Duration = Duration::from_secs(5);
/// The interval of checks for a connection that ended without an event.
const POLL: Duration = Duration::from_secs(1);

impl Link {
    /// Starts to connect and returns immediately. RabbitMQ shows `name` in its list of connections.
    /// Cancelling `stop` closes the connection.
    ///
    /// The link does not know of an alarm that was raised before the connection was made, until the first
    /// publish.
    pub fn open(config: &Config, name: &'static str, stop: CancellationToken) -> Self {
        Self::start(config, name, stop, false)
    }

    /// Opens a link like [`open`](Self::open) for a connection that only publishes. When such a link is up,
    /// it is known whether the broker accepts publishes. This requires permission to write to the default
    /// exchange.
    pub fn publishing(config: &Config, name: &'static str, stop: CancellationToken) -> Self {
        Self::start(config, name, stop, true)
    }

    fn start(config: &Config, name: &'static str, stop: CancellationToken, publishes: bool) -> Self {
        let (sender, state) = watch::channel(State::default());
        let supervisor = Supervisor {
            config: config.clone(),
            name,
            publishes,
            away: Lasting::new(),
            state: sender,
        };
        supervisor.report_none();
        tokio::spawn(vital("link to the broker", async move {
            stop.run_until_cancelled(supervisor.run()).await;
            supervisor.close().await;
        }));
        Self {
            state,
            declaring: Arc::default(),
            refusals: Arc::default(),
        }
    }

    /// Returns whether there is a connection.
    pub fn is_up(&self) -> bool {
        self.state.borrow().connection.is_some()
    }

    /// Returns `host:port/vhost` of the node of the current or last connection; empty before the first
    /// connection.
    pub fn address(&self) -> String {
        self.state.borrow().address.clone()
    }

    /// Returns why the last attempt to connect failed; `None` while there is a connection, and before the
    /// first attempt has ended.
    pub fn failure(&self) -> Option<String> {
        self.state.borrow().failure.clone()
    }

    /// Returns whether the broker currently blocks publishes.
    pub fn is_blocked(&self) -> bool {
        self.state.borrow().blocked
    }

    /// Returns whether there is a connection and the broker accepts publishes.
    pub fn is_writable(&self) -> bool {
        self.state.borrow().is_writable()
    }

    /// Waits until the link's state changes from its state at the last call on this clone.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn changed(&mut self) {
        // An error means that the link was stopped, which is its last change.
        let _ = self.state.changed().await;
    }

    /// Waits until there is a connection.
    ///
    /// # Errors
    /// Returns an error if the link was stopped.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn connection(&self) -> Result<Arc<Connection>, Closed> {
        let mut state = self.state.clone();
        let up = state
            .wait_for(|state| state.connection.is_some())
            .await
            .map_err(|_| Closed)?;
        up.connection.clone().ok_or(Closed)
    }

    /// Waits until there is a connection and the broker accepts publishes.
    ///
    /// # Errors
    /// Returns an error if the link was stopped.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn writable(&self) -> Result<(), Closed> {
        let mut state = self.state.clone();
        state
            .wait_for(State::is_writable)
            .await
            .map(|_| ())
            .map_err(|_| Closed)
    }

    /// Waits until the link was stopped and its connection is closed, so that a process closes its connection
    /// properly before it exits.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn closed(&self) {
        let mut state = self.state.clone();
        while state.changed().await.is_ok() {}
    }

    /// Returns what the broker refuses on this link.
    pub(crate) fn noted(&self) -> &Refusals {
        &self.refusals
    }

    /// Opens a channel to declare a topology on, after waiting until no other task on this link declares one.
    pub(crate) async fn declaring(&self) -> Result<Declaring<'_>, ChannelError> {
        let alone = self.declaring.lock().await;
        Ok(Declaring::new(self.channel().await?, alone))
    }

    /// Opens a channel on the connection, after waiting for a connection.
    pub(crate) async fn channel(&self) -> Result<Channel, ChannelError> {
        Ok(self.connection().await?.create_channel().await?)
    }
}

struct Supervisor {
    config: Config,
    name: &'static str,
    publishes: bool,
    /// The condition that there is no connection, or none that lasts.
    away: Lasting,
    state: watch::Sender<State>,
}

impl Supervisor {
    async fn run(&self) {
        let nodes = self.config.nodes();
        let first = rand::rng().random_range(0..nodes.len());
        let (mut failures, mut is_first) = (0_usize, true);
        for node in nodes.iter().cycle().skip(first) {
            let broker = node.address();
            match self.connect(node).await {
                Ok(connection) => {
                    let was_away = self.away.end();
                    if was_away.is_some() || std::mem::take(&mut is_first) {
                        tracing::info!(broker, connection = self.name, "connected to the broker");
                    }
                    failures = 0;
                    let why = self.watch(connection, &broker).await;
                    if let Some(report) = self.away.again() {
                        tracing::warn!(
                            broker, connection = self.name, error = %why, unlogged = report.unlogged,
                            "lost the connection to the broker; reconnecting"
                        );
                    }
                }
                Err(error) => {
                    failures += 1;
                    self.failed(&error);
                    if self.away.again().is_some() {
                        // Commands report the failure themselves, and filter this target.
                        tracing::warn!(
                            target: "broker::connecting", broker, connection = self.name, error = %error, failures,
                            "cannot connect to the broker; trying again; check that it is running and that broker.url is correct"
                        );
                    }
                }
            }
            // Try each node once before the wait grows.
            let rounds = failures.div_ceil(nodes.len());
            tokio::time::sleep(backoff(u32::try_from(rounds).unwrap_or(u32::MAX))).await;
        }
    }

    async fn connect(&self, node: &Node) -> Result<Arc<Connection>, String> {
        let properties = ConnectionProperties::default().with_connection_name(self.name.into());
        let connecting = connect(node, self.config.tls(), properties);
        match timeout(node.connect_timeout(), connecting).await {
            Ok(Ok(connection)) => Ok(Arc::new(connection)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {:?}", node.connect_timeout())),
        }
    }

    /// Keeps the link's state up to date until the connection ends, and returns why it ended.
    async fn watch(&self, connection: Arc<Connection>, address: &str) -> String {
        let mut events = std::pin::pin!(connection.events_listener());
        if self.publishes
            && let Ok(Some(reason)) =
                timeout(PROBE_MAX, blocked_from_the_start(&connection, &mut events)).await
        {
            self.blocked(Some(&reason));
        }
        self.state.send_modify(|state| {
            state.connection = Some(Arc::clone(&connection));
            state.failure = None;
            address.clone_into(&mut state.address);
        });
        meters::CONNECTED.level([self.name]).set(1.0);
        let mut poll = tokio::time::interval(POLL);
        let why = loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => self.blocked(Some(&reason)),
                    Some(Event::ConnectionUnblocked) => self.blocked(None),
                    Some(Event::Error(error)) if !connection.status().connected() => break error.to_string(),
                    // A channel's error, which the user of the channel handles, or a connection's, which the
                    // poll will see.
                    Some(Event::Error(error)) => tracing::debug!(connection = self.name, %error, "channel closed"),
                    Some(_) => {}
                    None => break "the connection ended".to_owned(),
                },
                _ = poll.tick() => if !connection.status().connected() {
                    break "the connection ended for an unknown reason".to_owned();
                },
            }
        };
        self.state.send_modify(|state| {
            state.connection = None;
            state.blocked = false;
        });
        self.report_none();
        why
    }

    fn failed(&self, error: &str) {
        self.state.send_if_modified(|state| {
            let is_new = state.failure.as_deref() != Some(error);
            state.failure = Some(error.to_owned());
            is_new
        });
    }

    fn blocked(&self, reason: Option<&str>) {
        self.state.send_modify(|state| state.blocked = reason.is_some());
        meters::BLOCKED
            .level([self.name])
            .set(f64::from(reason.is_some()));
        if let Some(reason) = reason {
            tracing::warn!(
                connection = self.name,
                reason,
                "the broker blocks publishing (memory or disk alarm) until it has enough free memory and disk space; publishes wait until then"
            );
        } else {
            tracing::info!(connection = self.name, "the broker accepts publishes again");
        }
    }

    /// Reports that there is no connection.
    fn report_none(&self) {
        for state in [meters::CONNECTED, meters::BLOCKED] {
            state.level([self.name]).set(0.0);
        }
    }

    async fn close(&self) {
        let connection = self.state.send_replace(State::default()).connection;
        self.report_none();
        if let Some(connection) = connection {
            close(&connection).await;
        }
    }
}

/// Closes a connection. It does not matter whether the broker still answers, because the connection is not
/// used any more.
pub(crate) async fn close(connection: &Connection) {
    let _ = timeout(Duration::from_millis(500), connection.close(200, "OK".into())).await;
}

/// Returns the reason why the broker accepts no publishes on this new connection; `None` if it accepts them.
///
/// During an alarm, RabbitMQ notifies a connection once it publishes, and reads nothing more from it. So the
/// link receives either this notification or the response to the channel close that follows the publish. Any
/// response will do: other problems with the connection show when it is used.
async fn blocked_from_the_start(
    connection: &Connection,
    events: &mut (impl Stream<Item = Event> + Unpin),
) -> Option<String> {
    let channel = connection.create_channel().await.ok()?;
    let (nowhere, options) = ("".into(), BasicPublishOptions::default());
    let publishing = channel.basic_publish("".into(), nowhere, options, &[], <_>::default());
    publishing.await.ok()?;
    let mut reasons = events.filter_map(|event| {
        ready(match event {
            Event::ConnectionBlocked(reason) => Some(reason),
            _ => None,
        })
    });
    tokio::select! {
        _ = channel.close(200, "OK".into()) => None,
        reason = reasons.next() => reason,
    }
}

/// Returns how long to wait before the next attempt after this many failures: 100 ms, doubled with each
/// failure up to 3 s, and reduced by a random share of up to half, so that processes do not reconnect at the
/// same time.
pub fn backoff(failures: u32) -> Duration {
    let full = BACKOFF_FIRST
        .saturating_mul(1 << failures.min(10))
        .min(BACKOFF_MAX);
    full.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_is_jittered_and_has_a_bound() {
        for failures in 0..40 {
            let wait = backoff(failures);
            assert!(
                wait >= BACKOFF_FIRST / 2 && wait <= BACKOFF_MAX,
                "{failures}: {wait:?}"
            );
        }
        assert!(backoff(20) >= BACKOFF_MAX / 2);
        assert!((0..50).map(|_| backoff(5)).any(|wait| wait != backoff(5)));
    }
}
