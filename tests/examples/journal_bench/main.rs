//! What `tests/journal-bench.sh` runs: how far the journal is behind, how soon it answers when it is full,
//! and what deleting costs.
//!
//! Worker and recorder are the built `magnetite`, the receiver is this program under another argument,
//! PostgreSQL and RabbitMQ are servers of their own: each one's processor time is what the kernel says about
//! it. What is stored is made by SQL, in the tables that `magnetite migrate` made.
//!
//! Not measured: failures, several workers or recorders, SQLite. `docs/performance.md` says what the figures
//! mean.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement ends at the first surprise, and prints"
)]

#[path = "../bench/event.rs"]
#[allow(dead_code, reason = "the other benchmark fills queues before it measures")]
mod event;
#[path = "../bench/pace.rs"]
mod pace;
#[path = "../bench/process.rs"]
#[allow(
    dead_code,
    reason = "the other benchmark profiles processes, and looks at their memory"
)]
mod process;
#[path = "../bench/receiver.rs"]
#[allow(dead_code, reason = "the other benchmark counts connections")]
mod receiver;

mod servers;
mod roles;
mod lag;
mod seed;
mod questions;
mod retention;

use e2e::Installation;
use servers::Servers;

/// How much is measured.
struct Options {
    /// How many attempts are stored before questions are asked; 0 for no questions and no retention.
    attempts: i64,
    /// How long events are published while the lag is measured; 0 leaves that out.
    seconds: usize,
    /// And how many of them.
    per_second: usize,
    /// RabbitMQ's process, if it runs on this machine and costs no one else anything.
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

/// What is asked of, and deleted from, a journal that is full.
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
                ["--broker-pid", pid] => options.broker_pid = Some(pid.parse().ok()?),
                _ => return None,
            }
        }
        // Fewer would not fill every kind of endpoint and lead.
        (options.attempts == 0 || options.attempts >= 10_000).then_some(options)
    }
}
