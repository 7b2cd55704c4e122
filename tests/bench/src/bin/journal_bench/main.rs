//! The benchmark that `tests/journal-bench.sh` runs. It measures how far the journal lags behind, how fast a
//! full journal answers, and what deleting old rows costs.
//!
//! The worker and the recorder are the built `magnetite`, the receiver is this program with a different
//! argument, and PostgreSQL and RabbitMQ are separate servers. The kernel therefore accounts for the
//! processor time of each of them. The stored rows are created with SQL, in the tables that
//! `magnetite migrate` has created.
//!
//! The benchmark does not cover failures, several workers or recorders, or SQLite. `docs/performance.md`
//! explains the results.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement ends at the first surprise, and prints"
)]

mod servers;
mod roles;
mod lag;
mod seed;
mod questions;
mod retention;

use std::path::Path;

use bench::{process, receiver};
use e2e::Installation;
use servers::Servers;

/// The size of the measurement.
struct Options {
    /// The number of attempts that are stored before the journal is queried; 0 to skip the queries and the
    /// retention.
    attempts: i64,
    /// For how many seconds events are published while the lag is measured; 0 to skip this.
    seconds: usize,
    /// The number of events per second that are published meanwhile.
    per_second: usize,
    /// RabbitMQ's process id, if it runs on this machine and is used only by this benchmark.
    broker_pid: Option<u32>,
}

const USAGE: &str = "journal-bench.sh [--attempts N] [--seconds N] [--per-second N]";

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["receiver", expected] = arguments[..] {
        return receiver::run(serde_json::from_str(expected).unwrap()).await;
    }
    let Some(options) = Options::parse(&arguments) else {
        eprintln!("usage: {USAGE}");
        std::process::exit(2);
    };
    let cores = std::thread::available_parallelism().unwrap();
    println!("{cores} cores for worker, recorder, publisher, receiver, RabbitMQ and PostgreSQL together");
    let servers = Servers::find(options.broker_pid).await;
    if options.seconds > 0 {
        println!("\n{}", lag::run(&options, &servers).await);
    }
    if options.attempts > 0 {
        let url = servers.database("stored").await;
        let installation = servers.installation("journal-stored", &url).await;
        stored(&options, &installation, &url).await;
        installation.delete().await;
    }
}

/// Measures queries of, and deletions from, a full journal.
async fn stored(options: &Options, installation: &Installation, url: &str) {
    let stored = seed::run(installation, url, options.attempts).await;
    println!("\n{stored}");
    println!("\n{}", questions::run(installation, url).await);
    println!(
        "\n{}",
        retention::run(installation, url, options.attempts / 5).await
    );
}

impl Options {
    fn parse(arguments: &[&str]) -> Option<Self> {
        let mut options = Self {
            attempts: 5_000_000,
            seconds: 60,
            per_second: 2000,
            broker_pid: None,
        };
        for argument in arguments.chunks(2) {
            match argument {
                ["--attempts", count] => options.attempts = count.parse().ok()?,
                ["--seconds", count] => options.seconds = count.parse().ok()?,
                ["--per-second", count] => {
                    options.per_second = count.parse().ok().filter(|count| (1..=100_000).contains(count))?;
                }
                ["--broker", directory] => options.broker_pid = process::broker_pid(Path::new(directory)),
                _ => return None,
            }
        }
        // Fewer attempts would not cover every kind of endpoint and lead.
        (options.attempts == 0 || options.attempts >= 10_000).then_some(options)
    }
}
