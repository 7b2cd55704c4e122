//! Tests that endpoints that never answer do not delay one that does.

use std::time::{Duration, Instant};

use e2e::{Alone, Answer, Installation, Load, Receiver, SOON, percentile, report, scaled, wait_until};
use futures_util::future::join_all;

const LONG: Duration = Duration::from_mins(2);
const HEALTHY_PER_SECOND: u32 = 200;
/// The rate of events to all endpoints that never answer together.
const HANGING_PER_SECOND: u32 = 200;
/// The default number of slots of a worker. One endpoint may hold at most a quarter of them.
const SLOTS: usize = 512;
/// A worker holds up to 1,024 messages of each queue (the prefetch), 512 attempts, and what it remembers of
/// settled messages.
const MEMORY_MAX_MIB: u64 = 256;

struct Measured {
    p50_ms: f64,
    p99_ms: f64,
    /// The 99th percentile of the latency of the broker alone, in the same seconds.
    alone_p99_ms: f64,
    memory_mib: u64,
    /// The maximum number of connections to one endpoint that never answers.
    sockets_max: usize,
}

/// Tests that measure under load. No other test runs at the same time.
mod alone {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn beside_an_endpoint_that_never_answers_the_healthy_p99_stays_below_50_ms() {
        measure("neighbour", 1).await.assert_bounded(50.0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn beside_eight_endpoints_that_never_answer_the_healthy_p99_stays_below_100_ms() {
        measure("neighbours", 8).await.assert_bounded(100.0);
    }
}

impl Measured {
    fn assert_bounded(&self, p99_max_ms: f64) {
        let allowed_ms = p99_max_ms + scaled(self.alone_p99_ms, 0.0);
        assert!(
            self.p99_ms <= allowed_ms,
            "p99 {:.1} ms, of the broker alone {:.1} ms",
            self.p99_ms,
            self.alone_p99_ms
        );
        assert!(self.sockets_max <= SLOTS / 4, "{} sockets", self.sockets_max);
        assert!(self.memory_mib <= MEMORY_MAX_MIB, "{} MiB", self.memory_mib);
    }
}

/// Measures one worker with its default configuration. At the end, the hanging endpoints answer, and
/// everything arrives.
async fn measure(name: &str, hanging: usize) -> Measured {
    let lasts = scaled(Duration::from_secs(12), Duration::from_mins(1));
    let installation = Installation::new(name).await;
    let healthy = Receiver::ok().await;
    installation.endpoint("org_healthy", &healthy.url()).await;
    let mut neighbours = Vec::new();
    for n in 0..hanging {
        let receiver = Receiver::new(|_, _| Answer::Hang).await;
        installation.endpoint(&format!("org_{n}"), &receiver.url()).await;
        neighbours.push(receiver);
    }
    let worker = installation.worker().await;
    let alone = Alone::start(&installation).await;
    let (began, load) = (
        Instant::now(),
        Load::start(&installation, "org_healthy", HEALTHY_PER_SECOND),
    );
    let noise: Vec<_> = (0..hanging)
        .map(|n| {
            Load::start(
                &installation,
                &format!("org_{n}"),
                HANGING_PER_SECOND / hanging as u32,
            )
        })
        .collect();
    wait_until("the load has lasted", lasts + SOON, || began.elapsed() >= lasts).await;
    let (memory_mib, sockets_max) = (
        worker.memory_max_mib(),
        neighbours.iter().map(Receiver::connections_max).max().unwrap(),
    );

    let published = load.stop().await;
    let ended = Instant::now();
    wait_until("the healthy endpoint has everything", SOON, || {
        healthy.accepted() == published.len()
    })
    .await;
    let receipts = healthy.receipts();
    let mut latencies = healthy.latencies_ms(&published);
    assert!(receipts.values().all(|receipts| receipts.len() == 1), "once each");
    for receiver in &neighbours {
        receiver.release();
    }
    let noise = join_all(noise.into_iter().map(Load::stop)).await;
    for (receiver, published) in neighbours.iter().zip(noise) {
        wait_until("everything arrives in the end", LONG, || {
            receiver.distinct() == published.len()
        })
        .await;
    }
    let measured = Measured {
        p50_ms: percentile(&mut latencies, 50.0),
        p99_ms: percentile(&mut latencies, 99.0),
        alone_p99_ms: alone.late_ms(99.0, |due| due < ended),
        memory_mib,
        sockets_max,
    };
    report(
        &format!("{hanging} of {} endpoints never answer", hanging + 1),
        format!(
            "{lasts:?}, {HANGING_PER_SECOND}/s to them, {HEALTHY_PER_SECOND}/s to the healthy one: from publishing to receipt p50 \
             {:.1} ms, p99 {:.1} ms (of the broker alone {:.1} ms); worker at most {memory_mib} MiB, at most {sockets_max} sockets to one of them",
            measured.p50_ms, measured.p99_ms, measured.alone_p99_ms
        ),
    );
    assert!(worker.terminate().await);
    installation.delete().await;
    measured
}
