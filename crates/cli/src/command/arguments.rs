//! Arguments that several commands share, and their parsers.

use std::{
    fs,
    io::{self, IsTerminal as _},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use egress::Egress;
use ipnet::IpNet;
use runtime::time::Moment;
use service::{api_keys::LIFETIME, manage::OVERLAP};
use signature::Secret;
use webhook::valid_id;
use wire::Credential;

use crate::{Usage, output};

/// The maximum rate, per second. It is more than one process can publish.
const RATE_MAX: f64 = 100_000.0;

/// The arguments of a command that has several actions.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(super) struct Actions<A: Subcommand> {
    /// Print one JSON object per line
    #[arg(long, global = true)]
    pub(super) json: bool,

    #[command(subcommand)]
    pub(super) action: A,
}

/// A range of time.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Window {
    /// Only from this time on: how long ago, such as 1h or 7d, or a time in UTC such as 2026-11-25T01:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Only before this time, in the same format
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
}

impl Window {
    /// Returns both ends in Unix milliseconds.
    pub(super) fn at(self, now_ms: u64) -> (Option<u64>, Option<u64>) {
        let at = |moment: Option<Moment>| moment.map(|moment| moment.before(now_ms));
        (at(self.since), at(self.until))
    }
}

/// The default rate of resends, per second: a little more than the regular traffic of a busy endpoint.
pub(super) const DEFAULT_RATE: f64 = 100.0;

/// The permitted duration of a command's wait.
const WAIT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(30 * 24);

/// Parses an organization's, project's or lead's id, or a name for people. Ids are compared with those in
/// events, so every text is accepted that has no control characters and is not too long.
pub(super) fn id(text: &str) -> Result<String, Usage> {
    let id = valid_id(text).map_err(|error| Usage(error.to_string()))?;
    Ok(id.to_owned())
}

/// Parses a rate per second: `100/s`, `0.5/s`, or `100` for short.
pub(super) fn rate(text: &str) -> Result<f64, Usage> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    // The minimum is one per hour, because a lower rate would take longer than a user is willing to wait.
    let in_bounds = number.filter(|rate| (1.0 / 3600.0..=RATE_MAX).contains(rate));
    in_bounds.ok_or_else(|| {
        Usage(format!(
            "expected a rate per second, such as 100/s; at most {RATE_MAX}/s"
        ))
    })
}

/// Parses how long a rotated secret stays valid.
pub(super) fn overlap(text: &str) -> Result<Duration, Usage> {
    duration(text, &OVERLAP, "from 1s to 30d, such as 24h")
}

/// Parses how long a command waits.
pub(super) fn wait(text: &str) -> Result<Duration, Usage> {
    duration(text, &WAIT, "from 1s to 30d, such as 5m")
}

/// Parses how long an API key is valid.
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
    /// The endpoint's secret, whsec_...; - reads it from standard input, which keeps it out of process lists
    #[arg(long, env = "WEBHOOK_SECRET", hide_env_values = true)]
    secret: String,
}

impl SecretArgument {
    pub(super) fn read(&self) -> anyhow::Result<Secret> {
        secret(&self.secret)
    }
}

/// Which certificates to trust over https, for an application on a developer's machine. The options have the
/// same names as curl's.
#[derive(Debug, Args)]
pub(super) struct Trust {
    /// Trust the authorities in this PEM file as well
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Accept any certificate, even an invalid one
    #[arg(long)]
    insecure: bool,
}

impl Trust {
    pub(super) fn is_given(&self) -> bool {
        self.insecure || self.cacert.is_some()
    }
}

/// Returns an HTTP client that may reach every address. It is used for requests that the user of this machine
/// sends to a URL of their choice.
pub(super) fn unrestricted_egress(trust: &Trust) -> anyhow::Result<Egress> {
    let everywhere = ["0.0.0.0/0", "::/0"].map(|network| {
        network
            .parse::<IpNet>()
            .expect("both constants are valid networks")
    });
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
            "--cacert: {} contains no usable certificate: {source}",
            file.display()
        )),
        (egress, _) => Ok(egress?),
    }
}

/// Asks the user at a terminal for agreement. Without a terminal, as in a script, asks nothing and agrees.
///
/// # Errors
/// Returns an error if the answer is not yes.
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
            "nothing was done: the answer was not yes (--yes skips the question)"
        )),
    }
}

/// Returns the text of a new secret or key, which the result that created it contains.
pub(super) fn shown_once(credential: Option<&Credential>) -> anyhow::Result<&str> {
    let credential = credential.context("the answer lacks the new secret or key")?;
    Ok(&credential.0)
}

/// Parses an endpoint's secret, or for `-` the first line of standard input. clap does not parse it, because
/// clap's errors quote the value.
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
