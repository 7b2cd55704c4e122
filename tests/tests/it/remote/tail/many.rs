//! Tests that many streams do not delay deliveries.

use std::time::{Duration, Instant};

use e2e::{Alone, Api, Load, Receiver, SOON, percentile, report, scaled, wait_until};
use futures_util::future::{join_all, try_join_all};
use reqwest::Response;
use tokio::task::JoinHandle;

use super::Rig;

const STREAMS: usize = 200;
const PER_SECOND: u32 = 200;
/// The limit on the time from publish to receipt. The short form adds the latency of the broker alone in the same
/// seconds, because other processes may use the machine.
const P99_MAX_MS: f64 = 50.0;
/// Longer than the test takes.
const TIMEOUT: Duration = Duration::from_mins(10);

/// Tests that measure under load. No other test runs at the same time.
mod alone {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn two_hundred_streams_at_once_do_not_delay_a_healthy_endpoint() {
        let lasts = scaled(Duration::from_secs(12), Duration::from_mins(1));
        let rig = Rig::new("remote-many").await;
        let receiver = Receiver::ok().await;
        rig.installation.endpoint("org_1", &receiver.url()).await;
        let streams = open(&rig.api, &rig.laptop.key).await;
        let alone = Alone::start(&rig.installation).await;
        let (began, load) = (
            Instant::now(),
            Load::start(&rig.installation, "org_1", PER_SECOND),
        );
        wait_until("the load has lasted", lasts + SOON, || began.elapsed() >= lasts).await;
        let published = load.stop().await;
        let ended = Instant::now();
        wait_until("everything has arrived", SOON, || {
            receiver.accepted() == published.len()
        })
        .await;
        let mut latencies = receiver.latencies_ms(&published);
        let [p50_ms, p99_ms] = [50.0, 99.0].map(|p| percentile(&mut latencies, p));
        let alone_ms = alone.late_ms(99.0, |due| due < ended);
        // The streams end with the API.
        assert!(rig.api.role.terminate().await);
        let lines = join_all(streams).await;
        let least = lines.into_iter().map(Result::unwrap).min().unwrap();
        report(
            "200 streams at once",
            format!(
                "{lasts:?}, {PER_SECOND}/s: from publishing to receipt p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms (of the broker alone \
                 {alone_ms:.1} ms); each stream has at least {least} lines of {} events",
                published.len()
            ),
        );
        let allowed_ms = P99_MAX_MS + scaled(alone_ms, 0.0);
        assert!(
            p99_ms <= allowed_ms,
            "p99 {p99_ms:.1} ms, of the broker alone {alone_ms:.1} ms"
        );
        assert!(
            least > published.len(),
            "{least} lines of {} events",
            published.len()
        );
        for role in [rig.worker, rig.recorder] {
            assert!(role.terminate().await);
        }
        rig.installation.delete().await;
    }
}

/// Opens all streams, and starts to read them. The results are the numbers of their lines.
async fn open(api: &Api, key: &str) -> Vec<JoinHandle<usize>> {
    let opening = (0..STREAMS).map(|_| api.request("GET", "/v1/tail", key).timeout(TIMEOUT).send());
    let responses = try_join_all(opening).await.unwrap();
    let reading = responses.into_iter().map(|response| {
        assert_eq!(response.status(), 200);
        tokio::spawn(lines(response))
    });
    reading.collect()
}

/// Reads a stream to its end. Returns the number of its lines.
async fn lines(mut response: Response) -> usize {
    let mut lines = 0;
    while let Some(part) = response.chunk().await.unwrap() {
        lines += part.split(|byte| *byte == b'\n').count() - 1;
    }
    lines
}
