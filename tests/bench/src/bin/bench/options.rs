//! The command line, which `tests/bench.sh --help` describes.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::cases::{CASES, Case, Drain, Shows};

pub(crate) struct Options {
    pub(crate) cases: Vec<&'static Case>,
    rounds: Option<usize>,
    pub(crate) deliveries: usize,
    /// For how many seconds events are published at a steady pace.
    seconds: usize,
    steady_seconds: usize,
    /// The number of events that are published in each way.
    pub(crate) publish: usize,
    /// The worker's deliveries per second if the base case is not measured. Half of it is one of the rates of
    /// the latency case.
    pub(crate) peak: usize,
    pub(crate) json: PathBuf,
    /// The directory for the profiles of the clients' processor time, which `perf` writes, and for the
    /// workers' logs; `None` for no profiles.
    pub(crate) profile: Option<PathBuf>,
    /// The worker's settings that differ from the default.
    pub(crate) settings: Vec<(String, String)>,
    /// The directory of a private broker; `None` if the broker is not private.
    pub(crate) broker: Option<PathBuf>,
}

impl Options {
    /// Parses the command line.
    ///
    /// # Errors
    /// Returns a message for the user that says what is wrong.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Self, String> {
        let mut options = Self {
            cases: Vec::new(),
            rounds: None,
            deliveries: 200_000,
            seconds: 60,
            steady_seconds: 600,
            publish: 50_000,
            peak: 30_000,
            json: "tests/.cache/bench.json".into(),
            profile: None,
            settings: Vec::new(),
            broker: None,
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            if !argument.starts_with('-') {
                options.cases.push(case(argument)?);
                continue;
            }
            let value = arguments
                .next()
                .ok_or_else(|| format!("{argument} needs a value, or is not known: see --help"))?;
            let count = || match value.parse() {
                Ok(0) | Err(_) => Err(format!("{argument} {value}: give a whole number above 0")),
                Ok(count) => Ok(count),
            };
            match *argument {
                "--rounds" => options.rounds = Some(count()?),
                "--deliveries" => options.deliveries = count()?.max(DELIVERIES_MIN),
                "--seconds" => options.seconds = count()?,
                "--steady-seconds" => options.steady_seconds = count()?,
                "--publish" => options.publish = count()?,
                "--peak" => options.peak = count()?,
                "--json" => options.json = value.into(),
                "--profile" => {
                    let made = fs::create_dir_all(value);
                    made.map_err(|error| format!("--profile {value}: {error}: choose another directory"))?;
                    options.profile = Some(value.into());
                }
                "--broker" => options.broker = Some(value.into()),
                "--set" => {
                    let setting = value
                        .split_once('=')
                        .map(|(key, value)| (key.into(), value.into()));
                    let wrong = || format!("--set {value}: give VARIABLE=VALUE");
                    options.settings.push(setting.ok_or_else(wrong)?);
                }
                _ => return Err(format!("{argument} is not known: see --help")),
            }
        }
        if options.cases.is_empty() {
            options.cases = CASES.iter().collect();
        }
        Ok(options)
    }

    /// Returns the options as JSON, for the readers of the report.
    pub(crate) fn json(&self) -> Value {
        let names: Vec<_> = self.cases.iter().map(|case| case.name).collect();
        json!({
            "cases": names,
            "rounds": self.rounds,
            "deliveries": self.deliveries,
            "seconds": self.seconds,
            "steady_seconds": self.steady_seconds,
            "publish": self.publish,
            "settings": self.settings,
        })
    }

    pub(crate) fn seconds_of(&self, shows: Shows) -> usize {
        match shows {
            Shows::Latency | Shows::Lateness => self.seconds,
            Shows::Memory => self.steady_seconds,
        }
    }

    pub(crate) fn rounds(&self, drain: &Drain) -> usize {
        self.rounds.unwrap_or(drain.rounds)
    }

    /// Returns the number of events that result in the deliveries of a drain.
    pub(crate) fn events(&self, drain: &Drain) -> usize {
        self.deliveries.min(drain.deliveries_max) / drain.load.fan_out
    }
}

/// The minimum number of deliveries: two events with the largest fan-out, so that time passes between
/// receipts.
const DELIVERIES_MIN: usize = 64;

fn case(name: &str) -> Result<&'static Case, String> {
    let found = CASES.iter().find(|case| case.name == name);
    found.ok_or_else(|| format!("there is no case {name}: --list names those there are"))
}
