//! Tests at once the failures that other tests cause one by one: unreadable messages, 600 endpoints that
//! hang, name servers that fail for one customer, a worker that is stopped, a log without a reader, and an
//! unavailable database.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use e2e::{
    Alone, Answer, Collector, Crowd, Installation, Load, Names, Postgres, Raw, RawMessage, Receiver, Reply,
    Role, SOON, event, memory_kib, percentile, report, scaled, shared_broker, wait_for, wait_until,
};
use tokio::time::{MissedTickBehavior, interval};

const LONG: Duration = Duration::from_mins(3);
const PER_SECOND: u32 = 100;
const HANGING: usize = 600;
/// The limit on the 99th percentile of the latency, in milliseconds. In the short form, failures take up more
/// of the time. Its limit is two and a half times as high, plus the latency of the broker alone.
const P99_MAX_MS: f64 = 100.0;
/// The maximum growth of a worker's memory from three eighths of the time until the end.
const GAIN_MAX_MIB: u64 = 24;
/// The interval at which an unreadable message and an event for the customer without name servers are
/// published.
const EVERY: Duration = Duration::from_secs(1);

/// When a stopped worker continues, its messages are redelivered. This is the time limit for that. Events
/// within this time before or after the stop are not measured.
const MARGIN: Duration = Duration::from_secs(3);

/// A failure that the test causes or ends. [`PLAN`] has the time of each, in eighths of the whole time.
#[derive(Clone, Copy)]
enum Trouble {
    LogAway,
    LogBack,
    DatabaseAway,
    DatabaseBack,
    WorkerStops,
}

const PLAN: [(u32, Trouble); 9] = [
    (1, Trouble::LogAway),
    (2, Trouble::LogBack),
    (2, Trouble::DatabaseAway),
    (3, Trouble::DatabaseBack),
    (4, Trouble::LogAway),
    (5, Trouble::LogBack),
    (5, Trouble::DatabaseAway),
    (6, Trouble::DatabaseBack),
    (7, Trouble::WorkerStops),
];

struct Scene {
    installation: Installation,
    postgres: Postgres,
    collector: Collector,
    /// The workers. The second one is stopped for a while.
    workers: [Role; 2],
    /// The time during which the second worker was stopped.
    stopped: Option<(Instant, Instant)>,
}

impl Scene {
    async fn cause(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::LogAway => self.collector.leave(),
            Trouble::LogBack => self.collector.come_back(),
            Trouble::DatabaseAway => self.postgres.stop().await,
            Trouble::DatabaseBack => self.postgres.start_again().await,
            Trouble::WorkerStops => {
                let (from, lasts) = (
                    Instant::now(),
                    scaled(Duration::from_secs(3), Duration::from_secs(40)),
                );
                self.workers[1].signal("STOP").await;
                wait_until("the worker was stopped for a while", SOON, || {
                    from.elapsed() >= lasts
                })
                .await;
                self.workers[1].signal("CONT").await;
                self.stopped = Some((from, Instant::now()));
            }
        }
    }

    /// Causes and ends the failures of [`PLAN`], and waits until all of the time has passed. Returns the
    /// memory of the first worker in KiB, after three eighths of the time and at the end.
    async fn carry_out_plan(&mut self) -> [u64; 2] {
        let (began, lasts) = (Instant::now(), lasts());
        let mut memory_kib_before = 0;
        for (eighths, trouble) in PLAN {
            wait_until("the next trouble", lasts, || {
                began.elapsed() >= lasts / 8 * eighths
            })
            .await;
            if eighths == 3 {
                memory_kib_before = memory_kib(self.workers[0].pid(), "VmRSS");
            }
            self.cause(trouble).await;
        }
        wait_until("it has lasted", lasts, || began.elapsed() >= lasts).await;
        [memory_kib_before, memory_kib(self.workers[0].pid(), "VmRSS")]
    }

    /// Waits until the journal has this many deliveries, all of which have ended, and this many unreadable
    /// messages.
    async fn wait_until_recorded(&self, deliveries: u64, odd: u64) {
        let audit = wait_for("all is recorded", LONG, || async {
            let audit = self.installation.audit().await;
            let ended = ["delivered", "dead"].map(|state| audit.number(&format!("/deliveries/{state}")));
            if ended.iter().sum::<u64>() == deliveries && audit.number("/rejected") == odd {
                Ok(audit)
            } else {
                Err(format!(
                    "{ended:?} of {deliveries}, {} of {odd}",
                    audit.number("/rejected")
                ))
            }
        })
        .await;
        audit.assert_settled();
    }
}

/// Returns the duration of the test.
fn lasts() -> Duration {
    scaled(Duration::from_secs(48), Duration::from_mins(20))
}

fn unreadable(number: usize) -> RawMessage {
    RawMessage::unreadable(number, event("org_healthy", &format!("odd_{number}")))
}

/// Publishes an unreadable message and an event for the customer without name servers, again and again.
/// Returns how many of each were published.
async fn pester(url: String, prefix: String, lasts: Duration) -> usize {
    let mut raw = Raw::connect(&url, &prefix).await;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < lasts {
        ticks.tick().await;
        raw.publish(&unreadable(count)).await.unwrap();
        let nameless = RawMessage {
            properties: vec![0x10, 0, 2],
            routing_key: b"lead.completed".to_vec(),
            body: event("org_nameless", &format!("nameless_{count}")).into_bytes(),
            ..unreadable(count)
        };
        raw.publish(&nameless).await.unwrap();
        count += 1;
    }
    count
}

/// Starts a name server that fails for one customer.
async fn names() -> Names {
    Names::start(|name, _| match name {
        "broken.example" => Reply::ServerFailure,
        "good.example" => Reply::Addresses(vec![Ipv4Addr::LOCALHOST.into()]),
        _ => Reply::NoName,
    })
    .await
}

/// Starts a receiver that answers, and occasionally fails.
async fn healthy() -> Receiver {
    Receiver::new(|request, before| {
        let number: usize = request.lead.trim_start_matches("lead_").parse().unwrap();
        let fails = before == 0 && number.is_multiple_of(20);
        Answer::status(if fails { 500 } else { 200 })
    })
    .await
}

/// Creates an installation with this database and this name server.
async fn installation(postgres: &Postgres, names: &Names) -> Installation {
    let servers = names.address().to_string();
    let settings = [
        ("MAGNETITE_DATABASE__URL", postgres.url()),
        ("MAGNETITE_EGRESS__NAME_SERVERS", &servers),
        // Some names do not resolve when their endpoints are registered.
        ("MAGNETITE_EGRESS__ALLOW_HTTP", "true"),
    ];
    Installation::with("soak", &shared_broker(), &[500, 1000, 2000], &settings).await
}

/// Registers the receiver twice: under a name that resolves, and under one whose name servers fail.
async fn register(installation: &Installation, healthy: &Receiver) {
    for (organization, name) in [
        ("org_healthy", "good.example"),
        ("org_nameless", "broken.example"),
    ] {
        let url = healthy.url().replace("127.0.0.1", name);
        installation.endpoint(organization, &url).await;
    }
}

/// Starts two workers and a recorder, whose logs go to the collector.
async fn start_roles(installation: &Installation, collector: &Collector) -> ([Role; 2], Role) {
    let start = |role| installation.start_logging_to(role, &collector.path(), "info,lapin=off");
    let workers = [start("worker"), start("worker")];
    let recorder = start("recorder");
    for role in workers.iter().chain([&recorder]) {
        role.wait_until_ready().await;
    }
    (workers, recorder)
}

/// Reports what was measured, and checks the limits.
async fn assert_measured(
    scene: &Scene,
    healthy: &Receiver,
    published: &[(String, Instant)],
    alone: &Alone,
    odd: usize,
    memory_kib: [u64; 2],
) {
    let (from, until) = scene.stopped.unwrap();
    let is_unaffected = |at: Instant| at + MARGIN < from || at > until + MARGIN;
    let unaffected: Vec<_> = published
        .iter()
        .filter(|(_, at)| is_unaffected(*at))
        .cloned()
        .collect();
    let mut latencies = healthy.latencies_ms(&unaffected);
    let [p50, p99, max] = [50.0, 99.0, 100.0].map(|p| percentile(&mut latencies, p));
    let alone_p99 = alone.late_ms(99.0, is_unaffected);
    let [before_mib, after_mib] = memory_kib.map(|kib| kib / 1024);
    let lost = scene.workers[0]
        .metric("magnetite_log_lines_lost_total", "")
        .await;
    report(
        "everything at once",
        format!(
            "{:?}: {} events of a healthy endpoint beside {HANGING} that hang, {odd} messages that cannot be read and {odd} \
             events for a name whose servers fail: lost 0; outside of {:.0?} in which a worker was stopped p50 {p50:.1} ms, p99 \
             {p99:.1} ms (of the broker alone {alone_p99:.1} ms), max {max:.1} ms; {lost} log lines lost; a worker's memory {before_mib} MiB, then {after_mib} MiB",
            lasts(),
            published.len(),
            until - from,
        ),
    );
    assert!(
        lost > 0.0,
        "the log was taken all the time: the test proves nothing"
    );
    let p99_max = scaled(2.5 * P99_MAX_MS + alone_p99, P99_MAX_MS);
    assert!(p99 <= p99_max, "p99 {p99:.1} ms, at most {p99_max:.1} ms");
    assert!(
        after_mib <= before_mib + GAIN_MAX_MIB,
        "{before_mib} MiB, then {after_mib} MiB"
    );
}

/// A test that measures under load. No other test runs at the same time.
mod alone {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_that_goes_wrong_at_once_loses_nothing_and_delays_nothing_that_is_well() {
        let postgres = Postgres::start().await;
        let names = names().await;
        let installation = installation(&postgres, &names).await;
        let crowd = Crowd::register(&installation, HANGING, 1).await;
        let healthy = healthy().await;
        register(&installation, &healthy).await;

        let collector = Collector::new();
        let (workers, recorder) = start_roles(&installation, &collector).await;
        let alone = Alone::start(&installation).await;
        let load = Load::start(&installation, "org_healthy", PER_SECOND);
        wait_until("events flow", SOON, || healthy.distinct() > 100).await;
        let pestering = tokio::spawn(pester(
            installation.broker_url().to_owned(),
            installation.prefix().to_owned(),
            lasts(),
        ));
        crowd.wave(&installation, "hang").await;

        let mut scene = Scene {
            installation,
            postgres,
            collector,
            workers,
            stopped: None,
        };
        let memory_kib = scene.carry_out_plan().await;
        let odd = pestering.await.unwrap();
        let published = load.stop().await;
        crowd.receiver.release();

        wait_until("the healthy endpoint has everything", LONG, || {
            healthy.accepted() == published.len()
        })
        .await;
        let deliveries = published.len() + odd + HANGING;
        scene.wait_until_recorded(deliveries as u64, odd as u64).await;

        assert_measured(&scene, &healthy, &published, &alone, odd, memory_kib).await;
        for role in scene.workers.into_iter().chain([recorder]) {
            assert!(role.terminate().await);
        }
        scene.installation.delete().await;
    }
}
