//! Tests that measure time and memory. No other test runs at the same time.

use std::time::{Duration, Instant};

use e2e::{
    Alone, Certificates, Hostile, Installation, Load, Receiver, Role, event, memory_kib, percentile, report,
    scaled, wait_for, wait_until,
};

use super::{deadline, installation, register, rows::ROWS};

const HOSTILE: usize = 100;
const HEALTHY_PER_SECOND: u32 = 50;
/// How much more memory the second half of a run may need than the first, in KiB. The total depends on the
/// number of attempts in flight, which is the same in both halves. A response that is kept whole, or 1 KiB
/// that leaks in every attempt, would exceed the limit.
const GROWTH_MAX_KIB: u64 = 8 * 1024;
/// The limit on the time from publish to the complete request at the receiver, including the confirm and the
/// fan-out.
const P99_MAX_MS: f64 = 100.0;

/// Returns the duration of the measurement. Each hostile endpoint receives an event every
/// [`hostile_interval`], so that about four attempts are in flight at each endpoint whose attempts end at the
/// deadline.
fn duration() -> Duration {
    scaled(Duration::from_secs(10), Duration::from_mins(1))
}

fn hostile_interval() -> Duration {
    deadline() / 2
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_hostile_endpoints_leave_memory_flat_and_healthy_ones_fast() {
    let certificates = Certificates::new();
    let installation = installation("hostile-crowd", &[200], &certificates).await;
    let mut receivers = Vec::new();
    for number in 0..HOSTILE {
        receivers.push(Hostile::start(ROWS[number % ROWS.len()].hostility, &certificates).await);
    }
    let healthy = Receiver::ok().await;
    let urls = receivers.iter().map(Hostile::url).chain([healthy.url()]);
    let ids = register(&installation, urls.collect()).await;
    let worker = installation.worker().await;

    let (until, pid) = (Instant::now() + duration(), worker.pid());
    let memory = tokio::spawn(watch_memory(pid, until));
    let alone = Alone::start(&installation).await;
    let load = Load::start(&installation, &format!("org_{HOSTILE}"), HEALTHY_PER_SECOND);
    let hostile = publish_in_turn(&installation, until).await;
    let (published, memory) = (load.stop().await, memory.await.unwrap());

    wait_until("every healthy event arrives", Duration::from_secs(10), || {
        healthy.distinct() == published.len()
    })
    .await;
    assert_latency(&healthy, &published, &alone);
    assert_flat(&memory);
    assert_books(&installation, &worker, &ids, &hostile, published.len()).await;
    assert_eq!(healthy.count(), published.len(), "nothing was delivered twice");
    assert!(worker.terminate().await);
    installation.delete().await;
}

/// Publishes events to the hostile endpoints in turn, and returns the number of events for each.
async fn publish_in_turn(installation: &Installation, until: Instant) -> Vec<usize> {
    let amqp = installation.connect().await;
    let mut counts = vec![0; HOSTILE];
    let mut pace = tokio::time::interval(hostile_interval() / HOSTILE as u32);
    for number in (0..HOSTILE).cycle() {
        pace.tick().await;
        if Instant::now() >= until {
            break;
        }
        let lead = counts[number].to_string();
        amqp.publish(&[event(&format!("org_{number}"), &lead)]).await;
        counts[number] += 1;
    }
    counts
}

/// Returns the process's resident memory in KiB, sampled ten times per second.
async fn watch_memory(pid: u32, until: Instant) -> Vec<u64> {
    let (mut samples, mut pace) = (Vec::new(), tokio::time::interval(Duration::from_millis(100)));
    while Instant::now() < until {
        pace.tick().await;
        samples.push(memory_kib(pid, "VmRSS"));
    }
    samples
}

fn assert_flat(samples: &[u64]) {
    let (first, second) = samples.split_at(samples.len() / 2);
    let [first, second] = [first, second].map(|half| *half.iter().max().unwrap());
    report(
        "100 hostile endpoints: the worker's memory",
        format!(
            "at most {:.1} MiB in the first half, {:.1} MiB in the second",
            first as f64 / 1024.0,
            second as f64 / 1024.0
        ),
    );
    assert!(
        second <= first + GROWTH_MAX_KIB,
        "{first} KiB grew to {second} KiB"
    );
}

fn assert_latency(healthy: &Receiver, published: &[(String, Instant)], alone: &Alone) {
    let mut took_ms = healthy.latencies_ms(published);
    let [p50, p99, most] = [50.0, 99.0, 100.0].map(|p| percentile(&mut took_ms, p));
    let alone_p99 = alone.late_ms(99.0, |_| true);
    report(
        "100 hostile endpoints: a healthy one, publish to receipt",
        format!(
            "{} events, p50 {p50:.1} ms, p99 {p99:.1} ms (of the broker alone {alone_p99:.1} ms), max {most:.1} ms",
            published.len()
        ),
    );
    let p99_max = P99_MAX_MS + scaled(alone_p99, 0.0);
    assert!(p99 <= p99_max, "p99 {p99:.1} ms, at most {p99_max:.1} ms");
}

/// Panics unless every hostile delivery is dead after two attempts because of its endpoint, or was delivered
/// where that is the expected end. No failure may have been treated as a fault on our side.
async fn assert_books(
    installation: &Installation,
    worker: &Role,
    ids: &[String],
    hostile: &[usize],
    healthy: usize,
) {
    let row = |number: usize| &ROWS[number % ROWS.len()];
    let fails = |number: &usize| row(*number).error.is_some();
    let dead: usize = (0..HOSTILE).filter(fails).map(|number| hostile[number]).sum();
    let limit = 2 * deadline() + Duration::from_secs(30);
    installation
        .amqp()
        .wait_for_ready("dead", dead as u32, limit)
        .await;
    let letters = installation.amqp().drain("dead").await;
    let misses: Vec<_> = letters
        .iter()
        .flat_map(|letter| {
            let id = letter.header("magnetite-endpoint");
            row(ids.iter().position(|known| *known == id).unwrap()).misses_in(letter)
        })
        .collect();
    assert!(misses.is_empty(), "{misses:#?}");
    let delivered = healthy + hostile.iter().sum::<usize>() - dead;
    wait_for("the rest is delivered", limit, || async {
        let counted = worker
            .metric("magnetite_attempts_total", "outcome=\"delivered\"")
            .await as usize;
        if counted == delivered {
            Ok(())
        } else {
            Err(format!("{counted} of {delivered}"))
        }
    })
    .await;
    let put_off = async |reason| worker.metric("magnetite_deferrals_total", reason).await as u64;
    let (faults, no_slot) = (put_off("fault").await, put_off("no_slot").await);
    report(
        "100 hostile endpoints: the books",
        format!(
            "{dead} dead after 2 attempts each, {delivered} delivered, {no_slot} deferrals, {faults} faults"
        ),
    );
    assert_eq!(faults, 0, "attempts were put off for faults of ours");
}
