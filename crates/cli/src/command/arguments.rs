//! How arguments are read that several commands take.

use std::{
    fs,
    io::{self, IsTerminal as _},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use egress::Egress;
use ipnet::IpNet;
use service::manage::{self, OVERLAP};
use signature::Secret;

use crate::{Usage, output, time::Moment};

/// More a second than one process publishes.
const RATE_MAX: f64 = 100_000.0;

/// From when to when.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Window {
    /// Only from this time on: so long ago, such as 1h or 7d, or a time in UTC such as 2026-11-25T01:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Only before this time, given in the same way
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
}

impl Window {
    /// Both ends in Unix milliseconds.
    pub(super) fn at(self, now_ms: u64) -> (Option<u64>, Option<u64>) {
        let at = |moment: Option<Moment>| moment.map(|moment| moment.before(now_ms));
        (at(self.since), at(self.until))
    }
}

/// How many a second are sent again unless told otherwise: a little more than a busy endpoint gets anyway.
pub(super) const DEFAULT_RATE: f64 = 100.0;

/// How long an API key is valid. Ten years are as good as for good, which is what no expiry is for.
const LIFETIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(10 * 366 * 24);
/// How long a command may wait.
const WAIT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(30 * 24);

/// An organization's, project's or lead's id: compared with what events carry, so anything that is text. Also
/// a name for people.
pub(super) fn id(text: &str) -> Result<String, Usage> {
    let id = manage::id(text).map_err(|error| Usage(error.to_string()))?;
    Ok(id.to_owned())
}

/// How many a second: `100/s`, `0.5/s`, or `100` for short.
pub(super) fn rate(text: &str) -> Result<f64, Usage> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    // One an hour is slower than anyone has patience for.
    let in_bounds = number.filter(|rate| (1.0 / 3600.0..=RATE_MAX).contains(rate));
    in_bounds.ok_or_else(|| {
        Usage(format!(
            "expected how many a second, such as 100/s; at most {RATE_MAX}/s"
        ))
    })
}

/// How long a rotated secret stays valid.
pub(super) fn overlap(text: &str) -> Result<Duration, Usage> {
    duration(text, &OVERLAP, "from 1s to 30d, such as 24h")
}

/// How long a command waits.
pub(super) fn wait(text: &str) -> Result<Duration, Usage> {
    duration(text, &WAIT, "from 1s to 30d, such as 5m")
}

/// How long an API key is valid.
pub(super) fn lifetime(text: &str) -> Result<Duration, Usage> {
    duration(text, &LIFETIME, "from 1s to 10 years, such as 90d")
}

fn duration(text: &str, allowed: &RangeInclusive<Duration>, expected: &str) -> Result<Duration, Usage> {
    let duration = humantime::parse_duration(text).ok();
    duration
        .filter(|duration| allowed.contains(duration))
        .ok_or_else(|| Usage(format!("expected a duration {expected}")))
}

/// The secret that a command signs with.
#[derive(Debug, Args)]
pub(super) struct SecretArgument {
    /// The endpoint's secret, whsec_...; - reads it from standard input, where no list of processes shows it
    #[arg(long, env = "WEBHOOK_SECRET", hide_env_values = true)]
    secret: String,
}

impl SecretArgument {
    pub(super) fn read(&self) -> anyhow::Result<Secret> {
        secret(&self.secret)
    }
}

/// Whom to trust over https, for an application on a developer's machine. The options are called as curl has
/// them.
#[derive(Debug, Args)]
pub(super) struct Trust {
    /// Trust the authorities in this PEM file as well
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Take any certificate, also one that is not valid
    #[arg(long)]
    insecure: bool,
}

impl Trust {
    pub(super) fn is_given(&self) -> bool {
        self.insecure || self.cacert.is_some()
    }
}

/// The way out to every address there is: for what this machine's user asks it to send, wherever to.
pub(super) fn unrestricted_egress(trust: &Trust) -> anyhow::Result<Egress> {
    let everywhere = ["0.0.0.0/0", "::/0"].map(|network| network.parse::<IpNet>().expect("it is a network"));
    let read =
        |file: &PathBuf| fs::read(file).with_context(|| format!("--cacert: cannot read {}", file.display()));
    let root_certificates = trust.cacert.iter().map(read).collect::<Result<_, _>>()?;
    let egress = Egress::new(&egress::Config {
        allow: everywhere.into(),
        root_certificates,
        insecure: trust.insecure,
        ..egress::Config::default()
    });
    match (egress, &trust.cacert) {
        (Err(egress::SetupError::RootCertificate(source)), Some(file)) => Err(anyhow!(
            "--cacert: {} holds no certificate that can be used: {source}",
            file.display()
        )),
        (egress, _) => Ok(egress?),
    }
}

/// Asks a person at a terminal; a script has none to ask.
///
/// # Errors
/// When the answer is not yes.
pub(super) fn agreed(question: &str) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(());
    }
    output::ask(&format!("{} [y/N] ", output::printable(question)));
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(anyhow!(
            "nothing was done: the answer was not yes (--yes does not ask)"
        )),
    }
}

/// An endpoint's secret, or the first line of standard input for `-`. Not parsed by clap, whose errors quote
/// the value.
pub(super) fn secret(text: &str) -> anyhow::Result<Secret> {
    if text != "-" {
        return secret_of(text);
    }
    let mut line = String::new();
    io::stdin()
        .read_line(&mut line)
        .context("--secret -: cannot read standard input")?;
    secret_of(line.trim())
}

fn secret_of(text: &str) -> anyhow::Result<Secret> {
    Secret::parse(text).map_err(|error| {
        anyhow!(Usage(format!(
            "--secret: {error}; `magnetite endpoint create` prints one"
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_so_many_a_second() {
        for (text, number) in [("100/s", "100"), ("0.5/s", "0.5"), ("7", "7")] {
            assert_eq!(rate(text).unwrap().to_string(), number);
        }
        for text in ["", "0/s", "-1/s", "NaN", "inf/s", "10/m", "100001/s"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_bad_secret_is_told_and_not_quoted() {
        let error = secret("whsec_hunter2").unwrap_err();
        assert!(error.is::<Usage>());
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn an_overlap_is_neither_nothing_nor_for_good() {
        assert_eq!(overlap("24h").unwrap(), Duration::from_hours(24));
        for text in ["", "0s", "31d", "24"] {
            assert!(overlap(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_is_valid_for_a_while() {
        assert_eq!(lifetime("90d").unwrap(), Duration::from_hours(90 * 24));
        assert!(lifetime("10y").is_ok());
        for text in ["", "0s", "11y", "90"] {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }
}
