//! `magnetite doctor`: checks everything that a role needs, and prints one line per check.
//!
//! A check that depends on a failed one is left out, because fixing the failed one comes first. The command
//! changes nothing, except that it declares a queue of its own on the broker and deletes it again.
//!
//! Policies and bindings are read from RabbitMQ's management API. If it is unavailable, a warning says that
//! they were not checked.

mod broker_checks;
mod database_checks;
mod role_checks;

use anyhow::bail;
use clap::Args;

use crate::{configuration::Configuration, limits, output};

use super::checks::{Check, Status};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print one JSON object per line, for each check
    #[arg(long)]
    json: bool,
}

/// Prints each check as soon as it is done.
pub(super) async fn run(arguments: Arguments, configuration: &Configuration) -> anyhow::Result<()> {
    let mut report = Report {
        json: arguments.json,
        failed: 0,
    };
    report.add(&configuration_check(configuration))?;
    report.add(&descriptors_check(configuration.worker.in_flight_max))?;
    let has_broker = broker_checks::run(configuration, &mut report).await?;
    database_checks::run(configuration, has_broker, &mut report).await?;
    if report.failed > 0 {
        bail!(
            "checks that failed: {}; each has a line that says how to fix it",
            report.failed
        );
    }
    Ok(())
}

/// Prints the checks and counts those that failed.
struct Report {
    json: bool,
    failed: u32,
}

impl Report {
    fn add(&mut self, check: &Check) -> Result<(), output::Closed> {
        self.failed += u32::from(check.outcome == Status::Fail);
        output::unless_left(output::said_line(self.json, check, &check.to_string()))
    }
}

/// Reports where the configuration was read from. A bad configuration ends every command before it begins, so
/// there is nothing else to report.
fn configuration_check(configuration: &Configuration) -> Check {
    let places = &configuration.read_from;
    let from = if places.is_empty() {
        "the defaults alone".to_owned()
    } else {
        places.join(", ")
    };
    Check::ok("configuration", format!("from {from}"))
}

fn descriptors_check(in_flight_max: usize) -> Check {
    const WHAT: &str = "descriptors";
    const FIX: &str = "raise the hard limit (ulimit -Hn, LimitNOFILE=), or lower worker.in_flight_max";
    let needed = limits::descriptors_needed(in_flight_max);
    match limits::descriptors_max() {
        Ok(limit) if limit >= needed => Check::ok(WHAT, format!("{limit} allowed, {needed} needed")),
        Ok(limit) => Check::warn(WHAT, format!("{limit} allowed, {needed} needed"), FIX),
        Err(error) => Check::warn(WHAT, format!("the limit cannot be read: {error}"), FIX),
    }
}
