//! Everything that a measurement needs, from the installation to the final checks.

mod clients;

use std::time::{Duration, Instant};

use bench::{
    event::Events,
    installation,
    process::{self, Process},
    receiver::{Expected, Receipts, Receiver},
};
use e2e::{Endpoint, Installation, Postgres, wait_until};
use serde::Serialize;
use tokio::process::Child;

use crate::{
    cases::{Journal, Load, Side},
    endpoints,
    options::Options,
};

/// An installation, a receiver, and endpoints there. No process that delivers is running.
pub(crate) struct Setup<'a> {
    /// The name of the measurement.
    pub(crate) name: String,
    pub(crate) installation: Installation,
    pub(crate) receiver: Receiver,
    pub(crate) expected: Expected,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) events: Events,
    pub(crate) side: &'a Side,
    pub(crate) options: &'a Options,
    postgres: Option<Postgres>,
}

/// A [`Setup`] whose clients are running.
pub(crate) struct Running<'a> {
    pub(crate) setup: Setup<'a>,
    pub(crate) clients: Vec<Process>,
    recorder: Option<Process>,
    /// The profiler of the first client.
    profile: Option<Child>,
    servers: Servers,
}

/// The result of a measurement.
pub(crate) struct Measured {
    pub(crate) cpu_us: Cpu,
    /// The peak memory of the client that used most.
    pub(crate) peak_mib: f64,
    pub(crate) receipts: Receipts,
}

/// User and system time in microseconds per delivery; `None` for a process that did not run or is not known.
#[derive(Clone, Serialize)]
pub(crate) struct Cpu {
    /// The raw loop or all workers together, from their start to their exit.
    pub(crate) client: f64,
    pub(crate) broker: Option<f64>,
    pub(crate) receiver: f64,
    pub(crate) recorder: Option<f64>,
    pub(crate) database: Option<f64>,
}

/// The processor time so far of the servers that also run before and after the measurement.
struct Servers {
    broker: Option<Duration>,
    receiver: Duration,
    database: Option<Duration>,
}

/// The time limit for all deliveries: several times what the slowest machine should need for 200,000 of them.
const COMPLETE_MAX: Duration = Duration::from_mins(15);
/// The time limit for the work that remains after the last receipt.
const SETTLED_MAX: Duration = Duration::from_mins(15);
/// A broker that uses at most this much processor time within [`IDLE`] has nothing to do.
const IDLE_CPU_MAX: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_millis(200);
/// The time limit for the broker to remove a message from one queue when it is already in the next.
const LET_GO_MAX: Duration = Duration::from_secs(1);

impl<'a> Setup<'a> {
    pub(crate) async fn new(
        name: String,
        load: &Load,
        side: &'a Side,
        events: usize,
        options: &'a Options,
    ) -> Self {
        let postgres = match side.journal {
            Journal::Stored => Some(Postgres::start().await),
            Journal::Off | Journal::Queued => None,
        };
        let database = postgres
            .as_ref()
            .map(|server| ("MAGNETITE_DATABASE__URL", server.url()));
        let settings = Vec::from_iter(database);
        let installation = installation::create(&format!("bench-{name}"), &settings).await;
        let authority = load
            .is_tls
            .then(|| installation.directory().join("authority.pem"));
        let expected = Expected {
            events,
            fan_out: load.fan_out,
            organizations: side.organizations,
            failing_every: side.failing_every,
            is_closing: load.is_closing,
            authority,
        };
        let receiver = Receiver::start(&expected).await;
        let mut endpoints = Vec::new();
        if side.organizations == 1 {
            endpoints = endpoints::of_one(&installation, &receiver, load.fan_out).await;
        } else {
            // Boxed, because the future is large.
            Box::pin(endpoints::of_many(&installation, &receiver, side.organizations)).await;
        }
        let events = Events {
            body_bytes: load.body_bytes,
            organizations: side.organizations,
        };
        Self {
            name,
            installation,
            receiver,
            expected,
            endpoints,
            events,
            side,
            options,
            postgres,
        }
    }

    /// Starts the processes that deliver and record.
    pub(crate) fn start(self) -> Running<'a> {
        let servers = self.servers();
        let is_recorded = self.side.journal == Journal::Stored;
        let recorder = is_recorded.then(|| clients::recorder(&self));
        let clients = clients::start(&self);
        let first = &clients[0];
        let profile = |directory| clients::profile(first, &self.name, directory);
        let profile = self.options.profile.as_deref().map(profile);
        Running {
            profile,
            setup: self,
            clients,
            recorder,
            servers,
        }
    }

    fn broker_pid(&self) -> Option<u32> {
        self.options.broker.as_deref().and_then(process::broker_pid)
    }

    fn servers(&self) -> Servers {
        let broker = self.broker_pid();
        let database = self.postgres.as_ref().map(Postgres::pid);
        Servers {
            broker: broker.map(process::cpu_of_tree),
            receiver: process::cpu_of_tree(self.receiver.pid()),
            database: database.map(process::cpu_of_tree),
        }
    }

    /// Waits until the broker is idle. A busy RabbitMQ delays acks, discards them when their channel is
    /// closed, and then redelivers the acknowledged messages. Nothing indicates when it has processed all
    /// acks, but an idle broker has.
    async fn broker_has_nothing_to_do(&self) {
        let Some(pid) = self.broker_pid() else { return };
        let (mut since, mut until_then) = (Instant::now(), process::cpu_of_tree(pid));
        wait_until("the broker has nothing to do", SETTLED_MAX, || {
            let cpu = process::cpu_of_tree(pid);
            if cpu.saturating_sub(until_then) > IDLE_CPU_MAX {
                (since, until_then) = (Instant::now(), cpu);
            }
            since.elapsed() >= IDLE
        })
        .await;
    }
}

impl Running<'_> {
    /// Waits until every delivery has arrived, and stops all processes. Panics unless every delivery arrived
    /// exactly once, plus once more for each failure, and nothing is left in a queue.
    pub(crate) async fn end(mut self) -> Measured {
        self.setup.receiver.complete(COMPLETE_MAX).await;
        self.setup.broker_has_nothing_to_do().await;
        let (mut clients, mut peak_bytes) = (Duration::ZERO, 0);
        for client in self.clients {
            let cost = client.end().await;
            clients += cost.cpu;
            peak_bytes = peak_bytes.max(cost.peak_bytes);
        }
        if let Some(mut profile) = self.profile {
            profile.wait().await.unwrap();
        }
        let amqp = self.setup.installation.amqp();
        let mut recorder = None;
        if let Some(recording) = self.recorder {
            amqp.wait_for_ready("journal", 0, SETTLED_MAX).await;
            recorder = Some(recording.end().await.cpu);
            // Messages that were unacked would have been requeued by now.
            amqp.wait_for_ready("journal", 0, Duration::ZERO).await;
        }
        let (before, after) = (self.servers, self.setup.servers());
        let receipts = self.setup.receiver.end().await;
        let (expected, installation) = (self.setup.expected, self.setup.installation);
        assert_eq!(
            receipts.requests,
            expected.deliveries() + expected.failures(),
            "requests: one arrived twice; see which in the workers' logs, which --profile DIRECTORY keeps"
        );
        check_queues(&installation).await;
        if recorder.is_some() {
            check_books(&installation, expected.deliveries()).await;
        }
        installation.delete().await;
        let us = |cpu: Duration| cpu.as_secs_f64() * 1e6 / expected.deliveries() as f64;
        let since =
            |before: Option<Duration>, after: Option<Duration>| Some(us(after?.saturating_sub(before?)));
        Measured {
            cpu_us: Cpu {
                client: us(clients),
                broker: since(before.broker, after.broker),
                receiver: us(after.receiver.saturating_sub(before.receiver)),
                recorder: recorder.map(us),
                database: since(before.database, after.database),
            },
            peak_mib: peak_bytes as f64 / f64::from(1 << 20),
            receipts,
        }
    }
}

async fn check_queues(installation: &Installation) {
    let work = installation.work_queues();
    for queue in work.iter().map(String::as_str).chain(["dead", "rejected"]) {
        // A delay queue removes a message shortly after the next queue has received it.
        installation.amqp().wait_for_ready(queue, 0, LET_GO_MAX).await;
    }
}

async fn check_books(installation: &Installation, deliveries: usize) {
    let audit = installation.audit().await;
    audit.assert_settled();
    let delivered = audit.number("/deliveries/delivered") as usize;
    assert_eq!(delivered, deliveries, "{audit:#?}");
}
