//! Measures events that are published at a steady pace, regardless of the progress of earlier ones: how long
//! each takes until its receipt, how late failed deliveries are attempted again, and how much memory the
//! worker uses.

use std::{fmt, future::pending, time::Duration};

use bench::{
    pace::{self, Paced},
    process,
    receiver::Receipts,
};
use e2e::{memory_kib, percentile};
use serde::Serialize;
use tokio::time::interval;

use crate::{
    cases::{Side, USUAL},
    options::Options,
    setup::{Cpu, Setup},
};

#[derive(Serialize)]
pub(crate) struct Steady {
    pub(crate) per_second: usize,
    seconds: usize,
    /// The time from when an event was due to be published, not from its publish, until its receipt; `None`
    /// if attempts fail.
    pub(crate) latency_ms: Option<Spread>,
    /// The time from one second after the receiver answered the first attempt until the receipt of the second
    /// attempt; `None` if no attempts fail.
    pub(crate) lateness_ms: Option<Spread>,
    /// The worker's resident set, once per second.
    pub(crate) memory_mib: Vec<f64>,
    /// The largest resident set in the second tenth and in the last tenth of the time; `None` if a tenth is
    /// shorter than a second.
    memory_max_mib: Option<[f64; 2]>,
    cpu_us: Cpu,
    /// The processor time of this process, which publishes, while it published, in microseconds per event.
    publisher_cpu_us: f64,
}

#[derive(Serialize)]
pub(crate) struct Spread {
    count: usize,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
    /// Percentiles and their values, for a plot.
    curve: Vec<[f64; 2]>,
}

/// The seconds at the start that are not evaluated, because the worker starts and opens its connections then.
const WARM_UP_SECONDS: usize = 3;
/// The delay before a failed delivery is attempted again.
const DELAY: Duration = Duration::from_secs(1);
const CURVE: [f64; 14] = [
    0.0, 1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99, 100.0,
];

pub(crate) async fn run(
    name: String,
    side: &Side,
    per_second: usize,
    seconds: usize,
    options: &Options,
) -> Steady {
    let warm_up = WARM_UP_SECONDS * per_second;
    let events = warm_up + seconds * per_second;
    let running = Setup::new(name, &USUAL, side, events, options).await.start();
    let pid = running.clients[0].pid();

    let mut memory_mib = Vec::new();
    let this = std::process::id();
    let cpu_before = process::cpu(this);
    let amqp = running.setup.installation.amqp();
    let publishing = pace::publish(amqp, running.setup.events, 0..events, per_second, pending());
    let paced = tokio::select! {
        paced = publishing => paced,
        () = sample(pid, &mut memory_mib) => unreachable!("it never ends"),
    };
    let publisher_cpu = process::cpu(this).saturating_sub(cpu_before);
    let measured = running.end().await;

    let memory_mib = memory_mib.split_off(WARM_UP_SECONDS.min(memory_mib.len()));
    let (receipts, is_failing) = (&measured.receipts, side.failing_every > 0);
    Steady {
        per_second,
        seconds,
        latency_ms: (!is_failing).then(|| latency(receipts, &paced, warm_up)),
        lateness_ms: is_failing.then(|| lateness(receipts, warm_up)),
        memory_max_mib: tenths(&memory_mib),
        memory_mib,
        cpu_us: measured.cpu_us,
        publisher_cpu_us: publisher_cpu.as_secs_f64() * 1e6 / events as f64,
    }
}

async fn sample(pid: u32, memory_mib: &mut Vec<f64>) {
    let mut second = interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        memory_mib.push(memory_kib(pid, "VmRSS") as f64 / 1024.0);
    }
}

fn latency(receipts: &Receipts, paced: &Paced, warm_up: usize) -> Spread {
    let arrived = receipts.at_ns.iter().enumerate().skip(warm_up);
    Spread::of(arrived.map(|(number, at_ns)| ms(paced.due_ns(number), *at_ns)))
}

fn lateness(receipts: &Receipts, warm_up: usize) -> Spread {
    let retried = receipts.failed_ns.iter().zip(&receipts.at_ns).skip(warm_up);
    let failed = retried.filter(|(failed_ns, _)| **failed_ns > 0);
    Spread::of(failed.map(|(failed_ns, at_ns)| ms(failed_ns + DELAY.as_nanos() as u64, *at_ns)))
}

/// Returns the time from `due_ns` to `at_ns` in milliseconds. It is negative if `at_ns` is earlier.
fn ms(due_ns: u64, at_ns: u64) -> f64 {
    (at_ns as i64 - due_ns as i64) as f64 / 1e6
}

fn tenths(memory_mib: &[f64]) -> Option<[f64; 2]> {
    let tenth = memory_mib.len() / 10;
    let most = |samples: &[f64]| samples.iter().copied().reduce(f64::max);
    Some([
        most(&memory_mib[tenth..2 * tenth])?,
        most(&memory_mib[memory_mib.len() - tenth..])?,
    ])
}

impl Steady {
    /// Returns the ratio of the largest memory use in the last tenth of the time to that in the second tenth.
    pub(crate) fn memory_growth(&self) -> Option<f64> {
        self.memory_max_mib.map(|[second, last]| last / second)
    }
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        Self {
            count: values.len(),
            p50: percentile(&mut values, 50.0),
            p99: percentile(&mut values, 99.0),
            p999: percentile(&mut values, 99.9),
            max: percentile(&mut values, 100.0),
            curve: CURVE.map(|p| [p, percentile(&mut values, p)]).to_vec(),
        }
    }
}

pub(crate) const HEADER: &str = "| events/s | ms | count | p50 | p99 | p99.9 | max \
    | CPU µs/event: worker, broker, receiver, publisher | cores busy with them \
    | worker's memory MiB: second and last tenth of the time |\n|---|---|---|---|---|---|---|---|---|---|";

impl fmt::Display for Steady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = self.per_second;
        for (what, spread) in [
            ("latency", &self.latency_ms),
            ("lateness of retries", &self.lateness_ms),
        ] {
            let Some(Spread {
                count,
                p50,
                p99,
                p999,
                max,
                ..
            }) = spread
            else {
                continue;
            };
            write!(
                f,
                "| {per_second} | {what} | {count} | {p50:.2} | {p99:.2} | {p999:.2} | {max:.2} "
            )?;
        }
        let Cpu {
            client,
            broker,
            receiver,
            ..
        } = self.cpu_us;
        let (publisher, broker) = (self.publisher_cpu_us, broker.unwrap_or(f64::NAN));
        let cores = (client + broker + receiver + publisher) * per_second as f64 / 1e6;
        write!(
            f,
            "| {client:.1}, {broker:.1}, {receiver:.1}, {publisher:.1} | {cores:.2} | "
        )?;
        match self.memory_max_mib {
            Some([second, last]) => write!(f, "{second:.1}, {last:.1} |"),
            None => write!(f, "|"),
        }
    }
}
