//! `magnetite doctor`: checks everything that a role needs, and prints one line per check.
//!
//! Checks that follow each other and have the same fix share one line with it, below them.
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

use super::checks::{Check, FIX, Status};

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
        fix: None,
    };
    report.add(&configuration_check(configuration))?;
    report.add(&descriptors_check(configuration.worker.in_flight_max))?;
    let has_broker = broker_checks::run(configuration, &mut report).await?;
    database_checks::run(configuration, has_broker, &mut report).await?;
    report.end_fix()?;
    if report.failed > 0 {
        bail!("checks that failed: {}; the fixes are below them", report.failed);
    }
    Ok(())
}

/// Prints the checks and counts those that failed.
struct Report {
    json: bool,
    failed: u32,
    /// The fix of the checks that were printed last, and their number. It is printed below them, once.
    fix: Option<(String, u32)>,
}

impl Report {
    fn add(&mut self, check: &Check) -> Result<(), output::Closed> {
        self.failed += u32::from(check.outcome == Status::Fail);
        if self.json {
            return output::unless_left(output::line(&output::json(check)));
        }
        let count = match &self.fix {
            Some((fix, count)) if check.fix() == Some(fix.as_str()) => count + 1,
            _ => {
                self.end_fix()?;
                1
            }
        };
        self.fix = check.fix().map(|fix| (fix.to_owned(), count));
        output::unless_left(output::line(&check.without_fix()))
    }

    /// Prints the fix of the last checks.
    fn end_fix(&mut self) -> Result<(), output::Closed> {
        match self.fix.take() {
            Some((fix, count)) => output::unless_left(output::line(&fix_line(&fix, count))),
            None => Ok(()),
        }
    }
}

/// Returns the line below `count` checks that have the same fix.
fn fix_line(fix: &str, count: u32) -> String {
    match count {
        1 => format!("{FIX}{fix}"),
        _ => format!("{FIX}{fix} (for the {count} checks above)"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fix_that_several_checks_share_says_so() {
        assert_eq!(fix_line("run it", 1), "      fix: run it");
        assert_eq!(
            fix_line("run it", 15),
            "      fix: run it (for the 15 checks above)"
        );
    }
}
