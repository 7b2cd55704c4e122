//! Sabotages a system under load, with one act in each round. `audit` and `doctor` have to name the act, and
//! must not report anything if nothing was done.

use std::{collections::BTreeSet, time::Duration};

use e2e::{
    Answer, Audit, Installation, Load, Node, Raw, RawMessage, Receiver, Role, SOON, ShiftedClock, SmallDisk,
    chance, event, report, scaled, wait_for, wait_until,
};
use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

/// The time limit within which the checks have to know the effect of an act.
const KNOWN: Duration = Duration::from_mins(3);
/// The delay of retries in milliseconds, which is longer than a round.
const DELAY_MS: u64 = 600_000;
const PER_SECOND: u32 = 40;
/// The number of rounds that run concurrently on one node.
const AT_ONCE: usize = 3;
/// The size of the disk, which has room for more than a round writes.
const DISK_KIB: u32 = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    // These acts lose nothing.
    Nothing,
    WorkerKilled,
    RecorderKilled,
    RecorderStoodStill,
    WorkerTerminated,
    // These acts lose something, hide something, or put something at risk.
    AttemptDeleted,
    DeliveryDeleted,
    EventDeleted,
    DelayPurged,
    JournalPurged,
    RetriesUnbound,
    EventsUnbound,
    MessagesExpire,
    JournalDropsItsHead,
    RecordsDropped,
    DatabaseLocked,
    DatabaseFull,
    UnreadableMessage,
    NoEvent,
    ClockAhead,
    OtherDatabase,
}

const ACTS: [Act; 21] = [
    Act::Nothing,
    Act::WorkerKilled,
    Act::RecorderKilled,
    Act::RecorderStoodStill,
    Act::WorkerTerminated,
    Act::AttemptDeleted,
    Act::DeliveryDeleted,
    Act::EventDeleted,
    Act::DelayPurged,
    Act::JournalPurged,
    Act::RetriesUnbound,
    Act::EventsUnbound,
    Act::MessagesExpire,
    Act::JournalDropsItsHead,
    Act::RecordsDropped,
    Act::DatabaseLocked,
    Act::DatabaseFull,
    Act::UnreadableMessage,
    Act::NoEvent,
    Act::ClockAhead,
    Act::OtherDatabase,
];

impl Act {
    /// Returns whether the act loses nothing.
    fn is_harmless(self) -> bool {
        self.names().is_empty()
    }

    /// Returns the names of which the checks have to report at least one; empty for a harmless act.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Nothing
            | Self::WorkerKilled
            | Self::RecorderKilled
            | Self::RecorderStoodStill
            | Self::WorkerTerminated => &[],
            Self::AttemptDeleted => &["unrecorded", "vanished"],
            Self::DeliveryDeleted | Self::EventDeleted => &["unbalanced", "vanished"],
            Self::DelayPurged => &["in_no_queue"],
            Self::JournalPurged | Self::RecordsDropped => &["gap", "lost_batches"],
            Self::RetriesUnbound | Self::EventsUnbound => &["bindings", MENDED],
            Self::MessagesExpire | Self::JournalDropsItsHead => &["policies"],
            Self::DatabaseLocked | Self::DatabaseFull => &[UNKNOWN],
            Self::UnreadableMessage => &["unreadable"],
            Self::NoEvent => &[REJECTED],
            Self::ClockAhead => &["clocks", "retention"],
            Self::OtherDatabase => &["installation"],
        }
    }
}

/// A worker has restored what was missing.
const MENDED: &str = "mended";
/// `audit` reports that it does not know yet, and exits with 3.
const UNKNOWN: &str = "unknown";
/// Messages were rejected.
const REJECTED: &str = "rejected";

/// The results of both checks.
#[derive(Debug)]
struct Answers {
    audit: Audit,
    /// The checks of `doctor` whose outcome is not ok.
    doctor: Vec<Value>,
}

impl Answers {
    /// Returns all lines that an operator would investigate.
    fn alarms(&self) -> Vec<&Value> {
        let of_audit = self.audit.lines.iter().filter(|line| {
            let kind = line["kind"].as_str().unwrap();
            let is_alarm = !matches!(kind, "balance" | "queues" | "finding");
            is_alarm || (kind == "finding" && self.audit.code == Some(1))
        });
        of_audit.chain(&self.doctor).collect()
    }

    /// Returns the names that both commands report.
    fn named(&self) -> BTreeSet<String> {
        let rejected = (self.audit.number("/rejected") > 0).then(|| REJECTED.to_owned());
        let unknown = (self.audit.code == Some(3)).then(|| UNKNOWN.to_owned());
        let alarms = self.alarms().into_iter().map(name);
        alarms.chain(rejected).chain(unknown).collect()
    }

    /// Returns whether nothing is wrong and nothing is still unknown.
    fn are_content(&self) -> bool {
        self.audit.code == Some(0) && self.named().is_empty()
    }

    /// Returns whether something is reported as wrong, not merely as unknown.
    fn name_something(&self) -> bool {
        self.named().iter().any(|name| name != UNKNOWN)
    }
}

struct Scene<'a> {
    node: &'a Node,
    installation: Installation,
    well: Receiver,
    worker: Option<Role>,
    recorder: Option<Role>,
    /// A lock on the database, which is released at the end of the round.
    lock: Option<SqliteConnection>,
    /// The disk of the database, if the act fills it.
    disk: Option<SmallDisk>,
}

impl<'a> Scene<'a> {
    async fn new(node: &'a Node, number: usize, act: Act) -> Self {
        let mut installation =
            Installation::with(&format!("sabotage-{number}"), node.url(), &[DELAY_MS], &[]).await;
        let mut disk = None;
        if act == Act::DatabaseFull {
            let small = SmallDisk::mount(&installation.directory().join("disk"), DISK_KIB).await;
            installation.move_database_to(&small).await;
            disk = Some(small);
        }
        let well = Receiver::ok().await;
        installation.endpoint("org_1", &well.url()).await;
        // Each round has its own failing endpoint, so that rounds do not affect each other.
        let failing = Receiver::new(|_, _| Answer::status(500)).await;
        installation.endpoint("org_1", &failing.url()).await;
        let (worker, recorder) = (installation.worker().await, installation.recorder().await);
        Self {
            node,
            installation,
            well,
            worker: Some(worker),
            recorder: Some(recorder),
            lock: None,
            disk,
        }
    }

    fn worker(&self) -> &Role {
        self.worker.as_ref().unwrap()
    }

    fn recorder(&self) -> &Role {
        self.recorder.as_ref().unwrap()
    }

    fn queue(&self, name: &str) -> String {
        format!("{}.{name}", self.installation.prefix())
    }

    async fn answers(&self) -> Answers {
        let audit = self.installation.audit().await;
        let mut doctor = self.installation.doctor().await;
        doctor.retain(|check| check["outcome"] != "ok");
        Answers { audit, doctor }
    }

    async fn database(&self) -> SqliteConnection {
        let path = self.installation.directory().join("magnetite.db");
        let opened = SqliteConnection::connect(&format!("sqlite://{}", path.display()));
        opened.await.unwrap()
    }

    async fn delete_one(&self, table: &str) {
        let sql = format!("DELETE FROM {table} WHERE id = (SELECT MIN(id) FROM {table})");
        let mut database = self.database().await;
        let deleted = sqlx::query(AssertSqlSafe(sql)).execute(&mut database).await;
        assert_eq!(deleted.unwrap().rows_affected(), 1);
    }

    async fn set_policy(&self, queue: &str, definition: &str) {
        let name = self.queue("policy");
        let pattern = format!("^{}$", self.queue(queue).replace('.', "[.]"));
        let policy = ["set_policy", "--apply-to", "queues", &name, &pattern, definition];
        self.node.ctl(&policy).await;
    }

    async fn clear_policy(&self) {
        self.node.ctl(&["clear_policy", &self.queue("policy")]).await;
    }

    async fn purge(&self, queue: &str) {
        self.node.ctl(&["purge_queue", &self.queue(queue)]).await;
    }

    async fn unbind(&self, exchange: &str, queue: &str, key: &str) {
        self.installation.amqp().unbind(exchange, queue, key).await;
    }

    /// Waits until more events are delivered.
    async fn deliveries_go_on(&self) {
        let before = self.well.accepted();
        wait_until("deliveries go on", SOON, || self.well.accepted() > before + 20).await;
    }

    async fn records_are_dropped(&self) {
        wait_for("records are dropped", SOON, || async {
            match self.worker().metric("magnetite_journal_dropped_total", "").await {
                0.0 => Err("none".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
    }

    async fn raw(&self) -> Raw {
        Raw::connect(self.installation.broker_url(), self.installation.prefix()).await
    }

    /// Commits the act, while events are published.
    async fn commit(&mut self, act: Act) {
        match act {
            Act::Nothing => {}
            Act::WorkerKilled => {
                self.worker.take().unwrap().kill().await;
                self.worker = Some(self.installation.worker().await);
            }
            Act::WorkerTerminated => {
                assert!(self.worker.take().unwrap().terminate().await);
                self.worker = Some(self.installation.worker().await);
            }
            Act::RecorderKilled => {
                self.recorder.take().unwrap().kill().await;
                self.recorder = Some(self.installation.recorder().await);
            }
            Act::RecorderStoodStill => {
                self.recorder().signal("STOP").await;
                self.deliveries_go_on().await;
                self.recorder().signal("CONT").await;
            }
            Act::AttemptDeleted => self.delete_one("attempts").await,
            Act::DeliveryDeleted => self.delete_one("deliveries").await,
            Act::EventDeleted => self.delete_one("events").await,
            Act::DelayPurged => self.purge(&format!("delay.{DELAY_MS}")).await,
            Act::JournalPurged => self.purge_journal().await,
            Act::RetriesUnbound => self.unbind("deliveries", "due", "due").await,
            Act::EventsUnbound => self.unbind("events", "events", "#").await,
            Act::MessagesExpire => self.set_policy("due", r#"{"message-ttl":1000}"#).await,
            Act::JournalDropsItsHead => {
                let definition = r#"{"max-length":1,"overflow":"drop-head"}"#;
                self.set_policy("journal", definition).await;
            }
            Act::RecordsDropped => self.drop_records().await,
            Act::DatabaseLocked => self.lock_database().await,
            Act::DatabaseFull => self.fill_disk().await,
            Act::UnreadableMessage => {
                let unreadable = RawMessage::unreadable(0, event("org_1", "odd"));
                self.raw().await.publish(&unreadable).await.unwrap();
            }
            Act::NoEvent => self.installation.amqp().publish(&["not json"]).await,
            Act::ClockAhead => self.record_with_clock_ahead().await,
            Act::OtherDatabase => {
                let path = self.installation.directory().join("other.db");
                let url = format!("sqlite://{}", path.display());
                self.installation.set("MAGNETITE_DATABASE__URL", &url);
                self.installation.cli_ok(&["migrate"]).await;
            }
        }
    }

    /// Purges the journal's queue while no recorder runs.
    async fn purge_journal(&mut self) {
        assert!(self.recorder.take().unwrap().terminate().await);
        self.deliveries_go_on().await;
        self.purge("journal").await;
        self.recorder = Some(self.installation.recorder().await);
    }

    /// Makes the worker drop records, because the journal's queue refuses them, and kills it.
    async fn drop_records(&mut self) {
        let full = r#"{"max-length-bytes":1,"overflow":"reject-publish"}"#;
        assert!(self.recorder.take().unwrap().terminate().await);
        self.set_policy("journal", full).await;
        self.records_are_dropped().await;
        self.worker.take().unwrap().kill().await;
        self.clear_policy().await;
        self.worker = Some(self.installation.worker().await);
        self.recorder = Some(self.installation.recorder().await);
    }

    async fn lock_database(&mut self) {
        let mut lock = self.database().await;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut lock).await.unwrap();
        self.lock = Some(lock);
        self.deliveries_go_on().await;
    }

    /// Fills the database's disk, and waits until the recorder notices.
    async fn fill_disk(&self) {
        self.disk.as_ref().unwrap().fill();
        wait_for("the recorder has no room", SOON, || async {
            let ready = self.recorder().get("/readyz").await.unwrap();
            if ready.starts_with("HTTP/1.1 503") && ready.contains("full") {
                Ok(())
            } else {
                Err(ready)
            }
        })
        .await;
    }

    /// Replaces the recorder by one whose clock is 40 days ahead.
    async fn record_with_clock_ahead(&mut self) {
        let directory = self.installation.directory();
        let clock = ShiftedClock::ahead_by(Duration::from_hours(40 * 24), &directory).await;
        let command = clock.shift(self.installation.command(&["recorder"]));
        assert!(self.recorder.take().unwrap().terminate().await);
        let recorder = self.installation.launch(command, "recorder-ahead");
        recorder.wait_until_ready().await;
        self.recorder = Some(recorder);
    }

    /// Waits until the checks report what they have to, and returns the names that they reported. Panics if
    /// any answer until then is wrong: an alarm after a harmless act, or no alarm after any other act.
    async fn judged(&self, act: Act) -> BTreeSet<String> {
        wait_for(&format!("the checks know about {act:?}"), KNOWN, || async {
            let answers = self.answers().await;
            if act.is_harmless() {
                assert!(
                    !answers.name_something(),
                    "a false alarm after {act:?}: {answers:#?}"
                );
                let are_content = answers.are_content().then(BTreeSet::new);
                are_content.ok_or_else(|| format!("{answers:#?}"))
            } else if answers.are_content() && self.is_mended(act).await {
                Ok(BTreeSet::from([MENDED.to_owned()]))
            } else {
                assert!(!answers.are_content(), "a false peace after {act:?}");
                let named = answers.named();
                let is_named = act.names().iter().any(|name| named.contains(*name));
                is_named.then_some(named).ok_or_else(|| format!("{answers:#?}"))
            }
        })
        .await
    }

    /// Returns whether the worker has found out by itself what was missing, by a periodic check or a returned
    /// publish, and has restored it.
    async fn is_mended(&self, act: Act) -> bool {
        let worker = self.worker();
        let missing = async |exchange| worker.metric("magnetite_bindings_missing_total", exchange).await;
        match act {
            Act::RetriesUnbound => {
                missing("deliveries").await + worker.metric("magnetite_publish_failures_total", "").await
                    > 0.0
            }
            Act::EventsUnbound => missing("events").await > 0.0,
            _ => false,
        }
    }

    async fn end(mut self) {
        drop(self.lock.take());
        self.clear_policy_if_any().await;
        for role in [self.worker.take(), self.recorder.take()].into_iter().flatten() {
            role.kill().await;
        }
        self.installation.delete().await;
    }

    async fn clear_policy_if_any(&self) {
        let policies = self.node.ctl(&["-q", "list_policies"]).await;
        if policies.contains(&self.queue("policy")) {
            self.clear_policy().await;
        }
    }
}

/// Returns the name in a line of either command.
fn name(line: &Value) -> String {
    let word = |key: &str| line[key].as_str().map(str::to_owned);
    let name = word("check").or_else(|| word("finding")).or_else(|| word("kind"));
    name.unwrap_or_else(|| line.to_string())
}

async fn round(node: &Node, number: usize, act: Act) {
    let mut scene = Scene::new(node, number, act).await;
    let load = Load::start(&scene.installation, "org_1", PER_SECOND);
    wait_until("events flow", SOON, || scene.well.accepted() > 20).await;
    let before = scene.answers().await;
    assert!(
        !before.name_something(),
        "a false alarm before {act:?}: {before:#?}"
    );
    scene.commit(act).await;
    // With this act, the publisher fails, because no queue accepts its events.
    if act == Act::EventsUnbound {
        drop(load);
    } else {
        load.stop().await;
    }
    let named = scene.judged(act).await;
    report(
        &format!("sabotage: {act:?}"),
        named.into_iter().collect::<Vec<_>>().join(", "),
    );
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sabotage_is_named_and_nothing_else_is() {
    let rounds: usize = scaled(9, 100);
    let node = Node::start().await;
    // Each act is used once before any is repeated. The seed decides the order.
    let mut order = Vec::new();
    for lap in 0..rounds.div_ceil(ACTS.len()) {
        let mut acts = ACTS.to_vec();
        acts.sort_by_key(|act| chance((lap, *act as usize), u64::MAX));
        order.extend(acts);
    }
    let acts = order.into_iter().take(rounds).enumerate();
    let all = stream::iter(acts).map(|(number, act)| round(&node, number, act));
    all.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}
