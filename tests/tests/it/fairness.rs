//! Tests that 600 endpoints that hang, in one organization or in many, do not delay an endpoint of another
//! organization.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2e::{
    Alone, Answer, Crowd, Installation, Load, Receiver, Role, SOON, percentile, report, scaled, wait_for,
    wait_until,
};

const HANGING: usize = 600;
const HEALTHY_PER_SECOND: u32 = 200;
/// The healthy endpoint answers the first attempt of one in this many events with 500.
const FAILS_ONE_IN: usize = 20;
/// The first delay of the contract's schedule.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The interval between waves. A wave ends after ten attempts of 30 s and the delays between them, which take
/// seven and a half minutes.
const WAVE_EVERY: Duration = Duration::from_mins(4);
/// The limit on the time from publish to receipt in the long form.
///
/// In the short form, the first second of a wave, in which 600 connections are opened, is one of few seconds.
/// The short form therefore has a higher limit, to which it adds the latency of the broker alone in the same
/// seconds.
const P99_MAX_MS: f64 = 50.0;
const P99_SHORT_MAX_MS: f64 = 250.0;
/// The limit on the time of every event. A deferred delivery takes at least a second, so none may be
/// deferred.
const MAX_MS: f64 = 1000.0;
/// The number of slowest seconds that are reported.
const SLOWEST_TOLD: usize = 8;
/// The limit on the lateness of a retry.
const LATE_P99_MAX_MS: f64 = 100.0;

/// Returns the percentile to which the limits apply. One percent of the long form is at least three seconds,
/// but of the short form only a tenth of a second. With the lower percentile, a machine that stalls for half
/// a second does not fail the short form, unless something takes longer than [`MAX_MS`].
fn usual_percent() -> f64 {
    scaled(95.0, 99.0)
}

/// Tests that measure under load. No other test runs at the same time.
mod alone {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn six_hundred_endpoints_of_one_organization_that_never_answer_delay_no_other_organization() {
        measure("one-hangs", 1, false).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn sixty_organizations_with_ten_endpoints_that_never_answer_delay_no_other_organization() {
        measure("sixty-hang", 60, false).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn sixty_organizations_whose_endpoints_begin_to_hang_at_once_delay_no_other_organization() {
        measure("sixty-begin", 60, true).await;
    }
}

/// Registers an endpoint that answers, and occasionally fails.
async fn healthy(installation: &Installation) -> Receiver {
    let receiver = Receiver::new(|request, before| {
        let number: usize = request.lead.trim_start_matches("lead_").parse().unwrap();
        let fails = before == 0 && number.is_multiple_of(FAILS_ONE_IN);
        Answer::status(if fails { 500 } else { 200 })
    })
    .await;
    installation.endpoint("org_healthy", &receiver.url()).await;
    receiver
}

/// Latencies of the events of the healthy organization, in milliseconds.
struct Measured {
    latencies: Vec<f64>,
    /// How much later than after [`RETRY_AFTER`] each retry arrived.
    latenesses: Vec<f64>,
    /// The 99th percentile and the maximum of the latency of the broker alone.
    alone: [f64; 2],
    /// The seconds with the slowest events, and the latency of the broker alone in each of them.
    slowest: String,
}

impl Measured {
    /// Measures the events whose publish time satisfies `is_within`.
    fn within(
        healthy: &Receiver,
        published: &[(String, Instant)],
        alone: &Alone,
        is_within: impl Fn(Instant) -> bool,
    ) -> Self {
        let chosen: Vec<_> = published
            .iter()
            .filter(|(_, at)| is_within(*at))
            .cloned()
            .collect();
        let receipts = healthy.receipts();
        let retried = chosen.iter().filter_map(|(lead, _)| {
            let [first, second, ..] = &receipts[lead][..] else {
                return None;
            };
            let late = (second.at - first.at).as_secs_f64() - RETRY_AFTER.as_secs_f64();
            (!first.accepted).then_some(late * 1000.0)
        });
        let latencies = healthy.latencies_ms(&chosen);
        Self {
            latenesses: retried.collect(),
            slowest: slowest_seconds(&chosen, &latencies, alone),
            latencies,
            alone: [99.0, 100.0].map(|p| alone.late_ms(p, &is_within)),
        }
    }

    fn hold(&mut self, campaign: &str, lasted: Duration) {
        let [alone_p99, alone_max] = self.alone;
        let (count, retries) = (self.latencies.len(), self.latenesses.len());
        let [p50, p99, max] = [50.0, 99.0, 100.0].map(|p| percentile(&mut self.latencies, p));
        let [late_p50, late_p99] = [50.0, 99.0].map(|p| percentile(&mut self.latenesses, p));
        report(
            campaign,
            format!(
                "{lasted:.0?}, {count} events of a healthy endpoint of another organization: from publishing to receipt p50 {p50:.1} ms, \
                 p99 {p99:.1} ms, max {max:.1} ms; {retries} retries of it late by p50 {late_p50:.1} ms, p99 {late_p99:.1} ms; the broker alone: p99 \
                 {alone_p99:.1} ms, max {alone_max:.1} ms; slowest seconds: {}",
                self.slowest
            ),
        );
        let usual = percentile(&mut self.latencies, usual_percent());
        let usual_max = scaled(P99_SHORT_MAX_MS + alone_p99, P99_MAX_MS);
        let late = percentile(&mut self.latenesses, usual_percent());
        let late_max = scaled(P99_SHORT_MAX_MS + alone_p99, LATE_P99_MAX_MS);
        let most = MAX_MS + scaled(alone_max, 0.0);
        assert!(usual <= usual_max, "{usual:.1} ms, at most {usual_max:.1} ms");
        assert!(max <= most, "max {max:.1} ms, at most {most:.1} ms");
        assert!(
            late <= late_max,
            "retries are late by {late:.1} ms, at most {late_max:.1} ms"
        );
    }
}

/// Describes the seconds with the slowest events, and whether the broker alone was slow in them. This shows
/// where to look when a limit is exceeded.
fn slowest_seconds(published: &[(String, Instant)], latencies: &[f64], alone: &Alone) -> String {
    let began = published[0].1;
    let second_of = |at: Instant| at.saturating_duration_since(began).as_secs();
    let mut most = BTreeMap::<u64, f64>::new();
    for ((_, at), latency) in published.iter().zip(latencies) {
        let second = most.entry(second_of(*at)).or_default();
        *second = second.max(*latency);
    }
    let mut most: Vec<_> = most.into_iter().collect();
    most.sort_by(|a, b| b.1.total_cmp(&a.1));
    let told = most.iter().take(SLOWEST_TOLD).map(|(second, ms)| {
        let broker = alone.late_ms(100.0, |at| at >= began && second_of(at) == *second);
        format!("{second} ({ms:.0} ms, the broker alone {broker:.0})")
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Checks the limits while the endpoints hang. Checks them again after the worker was killed and another one
/// has started with everything that the first one held, and with as much again.
async fn measure(name: &str, organizations: usize, begin_well: bool) {
    let (first, second) = scaled(
        (Duration::from_secs(12), Duration::from_secs(10)),
        (Duration::from_mins(10), Duration::from_mins(5)),
    );
    let installation = Installation::new(name).await;
    let crowd = Crowd::register(&installation, HANGING, organizations).await;
    let healthy = healthy(&installation).await;
    let worker = installation.worker().await;
    if begin_well {
        crowd.begin_well(&installation).await;
    }
    let alone = Alone::start(&installation).await;
    let load = Load::start(&installation, "org_healthy", HEALTHY_PER_SECOND);
    wait_until("events flow", SOON, || healthy.distinct() > 200).await;

    let began = Instant::now();
    waves(&installation, &crowd, "first", first).await;
    assert_busy(&worker, &crowd).await;
    let ended = Instant::now();
    worker.kill().await;
    let worker = installation.worker().await;
    let began_again = Instant::now();
    waves(&installation, &crowd, "second", second).await;
    assert_busy(&worker, &crowd).await;
    let published = load.stop().await;
    wait_for("the healthy endpoint has everything", SOON, || async {
        let accepted = healthy.accepted();
        let all = (accepted == published.len()).then_some(());
        all.ok_or_else(|| format!("{accepted} of {}", published.len()))
    })
    .await;

    // Events that were in flight at the kill are delivered by the next worker.
    let before = |at| at >= began && at + MARGIN < ended;
    let of = format!("{HANGING} endpoints of {organizations} organizations");
    let how = if begin_well {
        "begin to hang"
    } else {
        "never answer"
    };
    let after = |at| at >= began_again;
    Measured::within(&healthy, &published, &alone, before).hold(&format!("{of} {how}"), first);
    Measured::within(&healthy, &published, &alone, after).hold(&format!("{of} {how}, after SIGKILL"), second);
    crowd.receiver.release();
    drop(worker);
    installation.delete().await;
}

/// Publishes wave after wave, so that the endpoints hang during the whole time.
async fn waves(installation: &Installation, crowd: &Crowd, name: &str, lasts: Duration) {
    let began = Instant::now();
    for number in 0.. {
        crowd.wave(installation, &format!("{name}_{number}")).await;
        let until = lasts.min(WAVE_EVERY * (number + 1));
        wait_until("the wave is over", until + SOON, || began.elapsed() >= until).await;
        if until == lasts {
            return;
        }
    }
}

/// Longer than an event may take, including its retry.
const MARGIN: Duration = Duration::from_secs(2);

/// Panics unless every endpoint has received a request, and many requests are still in progress.
async fn assert_busy(worker: &Role, crowd: &Crowd) {
    let asked = crowd.receiver.count();
    assert!(asked >= HANGING, "{asked} requests hang");
    let unacked = worker.metric("magnetite_messages_unacked", "held").await;
    assert!(
        unacked > 100.0,
        "{unacked} attempts are under way: the test proves nothing"
    );
}
