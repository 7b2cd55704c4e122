//! The benchmark that `tests/bench.sh` runs. It measures the worker compared with a raw loop under many
//! loads, how long an event takes until its receipt, how late failed deliveries are attempted again, whether
//! memory grows, and how fast events are published.
//!
//! `cases.rs` lists what is measured. Each case either drains a queue that was filled beforehand
//! (`drain.rs`), or publishes events at a steady pace (`paced.rs`). Both are based on `setup.rs`, which also
//! checks that no delivery was lost, arrived twice or was left in a queue. `report.rs` collects the results
//! and compares them with the targets.
//!
//! Every process that is measured, and every process that a measured one communicates with, is a separate
//! process: the receiver and the raw loop are this program with a different argument, and the worker is the
//! built `magnetite`. The kernel therefore accounts for the processor time and the memory of each of them.
//!
//! The benchmark does not cover name lookup, a broker on another host, or HTTP/2. `docs/performance.md`
//! explains the results.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement ends at the first surprise, and prints"
)]

mod cases;
mod options;
mod raw;
mod endpoints;
mod setup;
mod drain;
mod paced;
mod publish;
mod machine;
mod report;

use bench::{process, receiver};
use cases::{CASES, Case, Rate, What};
use options::Options;
use report::Report;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["receiver", expected] => receiver::run(serde_json::from_str(expected).unwrap()).await,
        ["raw", job] => raw::run(serde_json::from_str(job).unwrap()).await,
        ["--list"] => list(),
        _ => match Options::parse(&arguments) {
            Ok(options) => measure(&options).await,
            Err(wrong) => {
                eprintln!("bench.sh: {wrong}");
                std::process::exit(2);
            }
        },
    }
}

fn list() {
    for case in CASES {
        println!("{:<12} {}", case.name, case.about);
    }
}

async fn measure(options: &Options) {
    let mut report = Report::new(options);
    let cores = std::thread::available_parallelism().unwrap();
    println!("{cores} cores for clients, broker, receiver and whatever else is measured together");
    if options.broker.as_deref().and_then(process::broker_pid).is_none() {
        println!(
            "The broker's processor time is not known: it is not a process that this script has started."
        );
    }
    for case in &options.cases {
        run(case, options, &mut report).await;
        report.write(&options.json);
    }
    report.print_bars();
}

async fn run(case: &Case, options: &Options, report: &mut Report) {
    match &case.what {
        What::Drain(drain) => report.cases.push(drain::run(case, drain, options).await),
        What::Paced { rates, side, shows } => {
            let seconds = options.seconds_of(*shows);
            println!(
                "\n{}: {}; {seconds} s\n\n{}",
                case.name,
                case.about,
                paced::HEADER
            );
            for rate in *rates {
                let per_second = match rate {
                    Rate::Fixed(per_second) => *per_second,
                    Rate::HalfOfPeak => report.peak().unwrap_or(options.peak) / 2,
                };
                let name = format!("{}-{per_second}", case.name);
                let steady = paced::run(name, side, per_second, seconds, options).await;
                println!("{steady}");
                report.keep(*shows, steady);
            }
        }
        What::Publish => {
            println!("\n{}: {}\n\n{}", case.name, case.about, publish::HEADER);
            report.publish = publish::run(options.publish).await;
            for published in &report.publish {
                println!("{published}");
            }
        }
    }
}
