//! What `tests/bench.sh` runs: the worker beside a raw loop, with and without its journal, how long an event is on its
//! way, and how fast events are published.
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
mod pace;
mod latency;
mod publish;

use std::path::PathBuf;

use client::Side;
use drain::Drained;

/// How much is measured.
struct Options {
    /// Events of each drain.
    events: usize,
    /// Drains of each side; 0 leaves them out.
    rounds: usize,
    /// How long events are published at a steady pace; 0 leaves that out.
    seconds: usize,
    /// Events that are published in each way; 0 leaves that out.
    publish: usize,
    /// Where `perf` writes what each client's processor time went into, and the worker its log.
    profile: Option<PathBuf>,
    /// The worker's settings that are not the default.
    settings: Vec<(String, String)>,
}

const USAGE: &str = "bench.sh [--events N] [--rounds N] [--seconds N] [--publish N] [--profile DIRECTORY] [--set VARIABLE=VALUE]";

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
    if options.rounds > 0 {
        measure_drains(options).await;
    }
    if options.seconds > 0 {
        println!("\n{}", latency::run(options).await);
    }
    if options.publish > 0 {
        println!("\n{}", publish::run(options.publish).await);
    }
}

async fn measure_drains(options: &Options) {
    let cores = std::thread::available_parallelism().unwrap();
    println!(
        "{} events of {} bytes a drain; {cores} cores for client, broker and receiver together\n",
        options.events,
        event::body(0).len()
    );
    println!("| round | client | deliveries/s | CPU µs/delivery | peak memory MiB | connections |");
    println!("|---|---|---|---|---|---|");
    let mut rounds = Vec::new();
    for round in 1..=options.rounds {
        let mut drained = Vec::new();
        for side in order(round) {
            let done = drain::run(side, options, round).await;
            println!("| {round} | {done} |");
            drained.push(done);
        }
        rounds.push(drained);
    }
    for (one, other) in [
        (Side::Worker, Side::Raw),
        (Side::Unrecorded, Side::Raw),
        (Side::Worker, Side::Unrecorded),
    ] {
        summarize(&rounds, one, other);
    }
}

/// Whoever goes first finds a cooler machine, so they take turns.
fn order(round: usize) -> [Side; 3] {
    let sides = [Side::Raw, Side::Worker, Side::Unrecorded];
    [0, 1, 2].map(|place| sides[(round + place) % sides.len()])
}

/// The median of what one side had of the other's in each round.
fn summarize(rounds: &[Vec<Drained>], one: Side, other: Side) {
    let ratio = |of: fn(&Drained) -> f64| {
        let found = |round: &[Drained], side| {
            let drained = round.iter().find(|drained| drained.side == side);
            of(drained.expect("every round has every side"))
        };
        let mut ratios: Vec<_> = rounds
            .iter()
            .map(|round| found(round, one) / found(round, other))
            .collect();
        e2e::percentile(&mut ratios, 50.0)
    };
    println!(
        "| median | {one} / {other} | {:.2} | {:.2} | {:.2} | |",
        ratio(|drained| drained.per_second),
        ratio(|drained| drained.cpu_us),
        ratio(|drained| drained.peak_mib),
    );
}

impl Options {
    fn parse(arguments: &[&str]) -> Option<Self> {
        let mut options = Self {
            events: 200_000,
            rounds: 5,
            seconds: 60,
            publish: 50_000,
            profile: None,
            settings: Vec::new(),
        };
        for argument in arguments.chunks(2) {
            match argument {
                ["--events", count] => options.events = count.parse().ok().filter(|count| *count > 1)?,
                ["--rounds", count] => options.rounds = count.parse().ok()?,
                ["--seconds", count] => options.seconds = count.parse().ok()?,
                ["--publish", count] => options.publish = count.parse().ok()?,
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
