//! Tests that, after an endpoint was down, `endpoint recover` sends everything that it missed, even if it is
//! interrupted.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use e2e::{
    Answer, Endpoint, Installation, Postgres, Proxy, Receiver, Request, Role, SOON, event, is_long, report,
    scaled, shared_broker, wait_for, wait_until,
};
use sqlx::{Connection as _, SqliteConnection};
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

use super::LONG;

/// Three attempts within 0.6 s, so that deliveries are dead soon while the endpoint is down.
const DELAYS_MS: [u64; 2] = [200, 400];
const PER_SECOND: usize = 50;
/// How many places a delivery may be out of order. At a rate of 100/s, ten are sent concurrently, and two
/// such windows may overlap.
const WINDOWS: usize = 20;

/// An endpoint whose server was down and can be started again.
struct Outage {
    installation: Installation,
    worker: Role,
    /// `None` while it is stopped.
    recorder: Option<Role>,
    endpoint: Endpoint,
    /// The address of its server, which has to be the same after the outage.
    address: SocketAddr,
    /// The events that were published during the outage, in order: lead and body.
    missed: Vec<(String, String)>,
}

impl Outage {
    /// Simulates an outage. The server answers for a second and then refuses connections. For a third of the
    /// outage, the endpoint is disabled. Returns when every delivery has ended.
    async fn of(name: &str, settings: &[(&str, &str)]) -> Self {
        let installation = Installation::with(name, &shared_broker(), &DELAYS_MS, settings).await;
        // No process connects from this address, so no process can take the port meanwhile, not even one that
        // tries to connect to it.
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let receiver = Receiver::at(listener, |_, _| Answer::status(200));
        let endpoint = installation.endpoint("org_1", &receiver.url()).await;
        let (worker, recorder) = (installation.worker().await, Some(installation.recorder().await));
        let mut this = Self {
            installation,
            worker,
            recorder,
            endpoint,
            address,
            missed: Vec::new(),
        };
        this.publish("before", PER_SECOND).await;
        wait_until("what came before is delivered", SOON, || {
            receiver.count() == PER_SECOND
        })
        .await;
        this.worker.wait_for_unacked("", 0, SOON).await;
        drop(receiver);
        wait_for("the server is away", SOON, || async {
            match TcpStream::connect(address).await {
                Ok(_) => Err("connected".to_owned()),
                Err(_) => Ok(()),
            }
        })
        .await;

        let third = scaled(8, 300) * PER_SECOND / 3;
        let mut missed = this.publish("down", third).await;
        this.endpoint_command("disable").await;
        missed.extend(this.publish("disabled", third).await);
        this.endpoint_command("enable").await;
        missed.extend(this.publish("enabled", third).await);
        this.missed = missed;
        this.wait_until_over().await;
        this
    }

    /// Publishes events at a steady pace, and returns their leads and bodies.
    async fn publish(&self, leads: &str, count: usize) -> Vec<(String, String)> {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / PER_SECOND as u32);
        let mut published = Vec::new();
        for number in 0..count {
            pace.tick().await;
            let lead = format!("{leads}_{number}");
            let body = event("org_1", &lead);
            self.installation
                .amqp()
                .publish(std::slice::from_ref(&body))
                .await;
            published.push((lead, body));
        }
        published
    }

    async fn endpoint_command(&self, action: &str) {
        let arguments = ["endpoint", action, &self.endpoint.id];
        self.installation.cli_ok(&arguments).await;
    }

    /// Waits until every delivery has ended and the journal has recorded that.
    async fn wait_until_over(&self) {
        self.installation.amqp().wait_for_ready("events", 0, LONG).await;
        self.installation
            .wait_until_recorded(&[&self.worker], self.recorder.as_ref().unwrap(), LONG)
            .await;
        self.installation
            .wait_for_listed(&["delivery", "list", "--state", "pending"], 0, LONG)
            .await;
    }

    /// Starts the server again, at the same address.
    async fn comes_back(&self) -> Receiver {
        let listener = TcpListener::bind(self.address).await.unwrap();
        Receiver::at(listener, |_, _| Answer::status(200))
    }

    fn recover(&self, rate: usize) -> Command {
        let rate = format!("{rate}/s");
        let mut command = self.installation.command(&[
            "endpoint",
            "recover",
            &self.endpoint.id,
            "--since",
            "1h",
            "--rate",
            &rate,
            "--json",
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `recover`, sends it a signal once the receiver has received this many different events, and waits
    /// until it has exited.
    async fn interrupted(mut recover: Command, receiver: &Receiver, distinct: usize, signal: &str) -> Output {
        let child = recover.spawn().unwrap();
        wait_until("some are recovered", LONG, || receiver.distinct() >= distinct).await;
        kill(&child, signal).await;
        child.wait_with_output().await.unwrap()
    }

    /// Returns what `--dry-run` counts: dead and missed deliveries, and those that an interrupted run has
    /// left.
    async fn dry_run(&self) -> [usize; 3] {
        let arguments = [
            "endpoint",
            "recover",
            &self.endpoint.id,
            "--since",
            "1h",
            "--dry-run",
        ];
        let counted = &self.installation.json(&arguments).await[0];
        assert_eq!((&counted["sent"], &counted["dry_run"]), (&0.into(), &true.into()));
        ["dead", "missed", "left_by_an_earlier_run"].map(|name| counted[name].as_u64().unwrap() as usize)
    }

    /// Panics unless nothing is left to recover, the audit balances, and the receiver got exactly what was
    /// missed: unchanged, with the ids of the events, and oldest first, up to `astray_max` places out of
    /// order. Returns the number of duplicates.
    async fn assert_recovered(&self, receiver: &Receiver, astray_max: usize) -> usize {
        wait_until("all that was missed has arrived", LONG, || {
            receiver.distinct() >= self.missed.len()
        })
        .await;
        self.wait_until_over().await;
        assert_eq!(self.dry_run().await, [0; 3]);
        let audit = self.installation.audit().await;
        audit.assert_settled();
        assert_eq!(audit.number("/resends/delivered"), self.missed.len() as u64);

        let listed = self
            .installation
            .json(&["event", "list", "--limit", "1000000"])
            .await;
        let text = |name: &str, row: usize| listed[row][name].as_str().unwrap();
        let ids: HashMap<_, _> = (0..listed.len())
            .map(|row| (text("lead_id", row), text("id", row)))
            .collect();
        let missed = self.missed.iter().enumerate();
        let ranks: HashMap<_, _> = missed.map(|(rank, (lead, _))| (lead.as_str(), rank)).collect();
        let (requests, mut seen) = (receiver.requests(), HashSet::new());
        for request in &requests {
            let lead = request.lead.as_str();
            let rank = *ranks.get(lead).unwrap_or_else(|| panic!("{lead} was not missed"));
            let place = seen.len();
            if seen.insert(lead) {
                assert!(
                    place.abs_diff(rank) <= astray_max,
                    "{lead} came as number {place}"
                );
            }
            assert!(
                request.body == self.missed[rank].1,
                "{lead}: not what was published"
            );
            assert_eq!(request.event_id(), ids[lead], "{lead}");
            request.verify(&self.endpoint.secret);
        }
        assert_eq!(seen.len(), self.missed.len());
        requests.len() - seen.len()
    }

    async fn end(self) {
        assert!(self.recorder.unwrap().terminate().await && self.worker.terminate().await);
        self.installation.delete().await;
    }
}

async fn kill(child: &Child, signal: &str) {
    let pid = child.id().expect("it has not been waited for").to_string();
    let sent = Command::new("kill")
        .args([&format!("-{signal}"), &pid])
        .status()
        .await
        .unwrap();
    assert!(sent.success(), "kill -{signal} {pid}");
}

/// Returns the number of requests per second. Panics if it is higher than the requested rate, or much lower.
/// The machine may be busy in the short form.
fn rate_of(requests: &[Request], asked: usize) -> f64 {
    let (first, last) = (requests.first().unwrap().at, requests.last().unwrap().at);
    let rate = (requests.len() - 1) as f64 / (last - first).as_secs_f64();
    let asked = asked as f64;
    let least = scaled(0.5, 0.85) * asked;
    assert!(rate > least && rate < 1.15 * asked, "{rate:.1}/s, not {asked}/s");
    rate
}

/// Tests that measure under load. No other test runs at the same time.
mod alone {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn all_that_was_missed_comes_once_and_oldest_first_at_the_asked_rate() {
        const RATE: usize = 100;
        let outage = Outage::of("recover", &[]).await;
        let [dead, missed, left] = outage.dry_run().await;
        assert_eq!((dead + missed, left), (outage.missed.len(), 0));
        assert!(dead > 0 && missed > 0, "{dead} dead, {missed} missed");
        let receiver = outage.comes_back().await;

        let begun = Instant::now();
        let output = outage.recover(RATE).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["sent"], outage.missed.len(), "{told}");
        let doubles = outage.assert_recovered(&receiver, WINDOWS).await;
        assert_eq!(doubles, 0);
        let rate = rate_of(&receiver.requests(), RATE);
        report(
            "an endpoint was down under 50/s",
            format!(
                "{dead} dead and {missed} missed, all recovered once in {:.1?}, at {rate:.1}/s of {RATE}/s",
                begun.elapsed()
            ),
        );
        outage.end().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn interrupted_and_run_again_on_postgresql_it_brings_nothing_twice() {
        const RATE: usize = 100;
        let postgres = Postgres::start().await;
        let outage = Outage::of("interrupted", &[("MAGNETITE_DATABASE__URL", postgres.url())]).await;
        let (receiver, all) = (outage.comes_back().await, outage.missed.len());

        let output = Outage::interrupted(outage.recover(RATE), &receiver, all / 2, "INT").await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("interrupted: "), "{told}");
        let told = told.split("interrupted: ").nth(1).unwrap();
        let sent: usize = told.split(' ').next().unwrap().parse().unwrap();
        assert!((all / 2..all).contains(&sent), "{sent} of {all}");
        wait_until("what was sent arrives", SOON, || receiver.count() == sent).await;
        let left = outage.dry_run().await;
        assert_eq!(left.iter().sum::<usize>(), all - sent, "{left:?}");

        let output = outage.recover(RATE).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let doubles = outage.assert_recovered(&receiver, WINDOWS).await;
        assert_eq!(doubles, 0);
        let requests = receiver.requests();
        let rates = [&requests[..sent], &requests[sent..]].map(|requests| rate_of(requests, RATE));
        report(
            "an endpoint was down under 50/s, on PostgreSQL; recover interrupted and run again",
            format!(
                "{all} missed, {sent} recovered before SIGINT and {} after it, at {rates:.1?}/s of {RATE}/s, none twice",
                all - sent
            ),
        );
        outage.end().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn killed_and_run_again_it_brings_everything_and_twice_at_most_what_was_in_its_hands() {
        const RATE: usize = 500;
        const KILLS: usize = 6;
        let mut outage = Outage::of("killed", &[]).await;
        let (receiver, all) = (outage.comes_back().await, outage.missed.len());
        // Messages that the command publishes arrive long before their confirms, so the command is killed in
        // between.
        let proxy = Proxy::to(outage.installation.broker_url()).await;
        proxy.slow(Duration::from_millis(100), 10_000_000);
        let mut held = 0;
        for kill in 1..=KILLS {
            if kill == KILLS / 2 {
                // From now on, only the marks in the database show what was sent.
                assert!(outage.recorder.take().unwrap().terminate().await);
            }
            let mut recover = outage.recover(RATE);
            recover.env("MAGNETITE_BROKER__URL", proxy.url());
            let output = Outage::interrupted(recover, &receiver, all * kill / (KILLS + 1), "KILL").await;
            assert_eq!(output.status.code(), None, "{output:?}");
            held += claims_run_out(&outage.installation).await;
        }
        assert!(held > 0, "no kill hit a window");
        outage.recorder = Some(outage.installation.recorder().await);
        let before = receiver.distinct();
        assert!(before < all, "{before} of {all}");

        let output = outage.recover(RATE).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        // Deliveries that a killed command has claimed may be sent last.
        let doubles = outage.assert_recovered(&receiver, all).await;
        assert!(doubles <= held, "{doubles} came twice, of {held}");
        report(
            &format!("an endpoint was down under 50/s; recover killed {KILLS} times and run again"),
            format!(
                "{all} missed, {before} recovered before the last SIGKILL, {held} in its hands, {doubles} came twice"
            ),
        );
        outage.end().await;
    }
}

/// Returns the number of deliveries that a killed command has claimed. A claim expires after a minute, but
/// the short form does not wait for that.
async fn claims_run_out(installation: &Installation) -> usize {
    let path = installation.directory().join("magnetite.db");
    let mut database = SqliteConnection::connect(&format!("sqlite://{}", path.display()))
        .await
        .unwrap();
    let held: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM deliveries WHERE sent_ms IS NULL AND claimed_until_ms > 0")
            .fetch_one(&mut database)
            .await
            .unwrap();
    if !is_long() {
        sqlx::query(
            "UPDATE deliveries SET claimed_until_ms = 0 WHERE sent_ms IS NULL AND claimed_until_ms > 0",
        )
        .execute(&mut database)
        .await
        .unwrap();
    }
    held as usize
}
