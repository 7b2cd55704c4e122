//! What `tests/bench.sh` runs: the worker beside a raw loop, and how long an event is on its way.
//!
//! Every process that is measured, or that a measured one talks to, is a process of its own: the receiver and the raw loop
//! are this same program under another argument, and the worker is the built `magnetite`. So each one's processor time and
//! memory are what the kernel says about it.
//!
//! Not measured: TLS, name lookup, several endpoints, failures. `docs/performance.md` says what the figures mean.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement ends at the first surprise, and prints"
)]

mod event;
mod receiver;
mod raw;
mod process;
mod client;
mod drain;
mod latency;

use std::path::PathBuf;

use client::Side;
use drain::Drained;

/// How much is measured.
struct Options {
    /// Events of each drain.
    events: usize,
    /// Drains of each side.
    pairs: usize,
    /// How long events are published at a steady pace; 0 leaves that out.
    seconds: usize,
    /// Where `perf` writes what each client's processor time went into, and the worker its log.
    profile: Option<PathBuf>,
    /// The worker's settings that are not the default.
    settings: Vec<(String, String)>,
}

const USAGE: &str =
    "bench.sh [--events N] [--pairs N] [--seconds N] [--profile DIRECTORY] [--set VARIABLE=VALUE]";

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["receiver", events] => receiver::run(events.parse().unwrap()).await,
        ["raw", broker, queue, url, secret, events] => {
            raw::run(broker, queue, url, secret, events.parse().unwrap()).await;
        }
        _ => {
            let Some(options) = Options::parse(&arguments) else {
                eprintln!("usage: {USAGE}");
                std::process::exit(2);
            };
            measure(&options).await;
        }
    }
}

async fn measure(options: &Options) {
    let cores = std::thread::available_parallelism().unwrap();
    println!(
        "{} events of {} bytes a drain; {cores} cores for client, broker and receiver together\n",
        options.events,
        event::body(0).len()
    );
    println!("| pair | client | deliveries/s | CPU µs/delivery | peak memory MiB | connections |");
    println!("|---|---|---|---|---|---|");
    let mut pairs = Vec::new();
    for pair in 1..=options.pairs {
        let [first, second] = order(pair);
        let (first, second) = (
            drain::run(first, options, pair).await,
            drain::run(second, options, pair).await,
        );
        for drained in [&first, &second] {
            println!("| {pair} | {drained} |");
        }
        pairs.push(match first.side {
            Side::Raw => (first, second),
            Side::Worker => (second, first),
        });
    }
    summarize(&pairs);
    if options.seconds > 0 {
        println!("\n{}", latency::run(options).await);
    }
}

/// Whoever goes first finds a cooler machine, so they take turns.
fn order(pair: usize) -> [Side; 2] {
    if pair % 2 == 1 {
        [Side::Raw, Side::Worker]
    } else {
        [Side::Worker, Side::Raw]
    }
}

fn summarize(pairs: &[(Drained, Drained)]) {
    let ratio = |of: fn(&Drained) -> f64| {
        let mut ratios: Vec<_> = pairs.iter().map(|(raw, worker)| of(worker) / of(raw)).collect();
        e2e::percentile(&mut ratios, 50.0)
    };
    println!(
        "| median | worker / raw | {:.2} | {:.2} | {:.2} | |",
        ratio(|drained| drained.per_second),
        ratio(|drained| drained.cpu_us),
        ratio(|drained| drained.peak_mib),
    );
}

impl Options {
    fn parse(arguments: &[&str]) -> Option<Self> {
        let mut options = Self {
            events: 200_000,
            pairs: 5,
            seconds: 60,
            profile: None,
            settings: Vec::new(),
        };
        for argument in arguments.chunks(2) {
            match argument {
                ["--events", count] => options.events = count.parse().ok().filter(|count| *count > 1)?,
                ["--pairs", count] => options.pairs = count.parse().ok().filter(|count| *count > 0)?,
                ["--seconds", count] => options.seconds = count.parse().ok()?,
                ["--profile", directory] => options.profile = Some(directory.into()),
                ["--set", setting] => {
                    let (variable, value) = setting.split_once('=')?;
                    options.settings.push((variable.to_owned(), value.to_owned()));
                }
                _ => return None,
            }
        }
        Some(options)
    }
}
