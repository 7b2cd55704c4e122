//! The results: a JSON document for programs, and a table that says which targets are met.

use std::{fs, path::Path};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    cases::Shows,
    drain::Drained,
    machine,
    options::Options,
    paced::Steady,
    publish::{Published, SINGLE_OVER_HTTP},
};

#[derive(Serialize)]
pub(crate) struct Report {
    machine: Value,
    versions: Value,
    options: Value,
    pub(crate) cases: Vec<Drained>,
    pub(crate) latency: Vec<Steady>,
    pub(crate) retry_lateness: Option<Steady>,
    pub(crate) steady: Option<Steady>,
    pub(crate) publish: Vec<Published>,
}

/// A target, and how to find the value that has to meet it.
struct Bar {
    text: &'static str,
    limit: Limit,
    found: fn(&Report) -> Option<f64>,
}

#[derive(Clone, Copy)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

const BARS: [Bar; 9] = [
    Bar {
        text: "base: the worker's deliveries/s, of the raw loop's",
        limit: Limit::AtLeast(0.8),
        found: |report| Some(report.drained("base")?.ratio("worker", "raw")?.per_second),
    },
    Bar {
        text: "base: the worker's CPU/delivery, of the raw loop's",
        limit: Limit::AtMost(1.35),
        found: |report| Some(report.drained("base")?.ratio("worker", "raw")?.cpu),
    },
    Bar {
        text: "base: the raw loop's CPU µs/delivery",
        limit: Limit::AtMost(45.0),
        found: |report| report.drained("base")?.cpu_us("raw"),
    },
    Bar {
        text: "fan-out 4: the worker's deliveries/s, of the raw loop's",
        limit: Limit::AtLeast(0.75),
        found: |report| Some(report.drained("fan-out-4")?.ratio("worker", "raw")?.per_second),
    },
    Bar {
        text: "10,000 endpoints: the worker's CPU/delivery, of that with one",
        limit: Limit::AtMost(1.2),
        found: |report| {
            Some(
                report
                    .drained("endpoints")?
                    .ratio("10000-endpoints", "worker")?
                    .cpu,
            )
        },
    },
    Bar {
        text: "latency at 1,000/s: p99 ms",
        limit: Limit::AtMost(10.0),
        found: |report| {
            let at = report.latency.iter().find(|steady| steady.per_second == 1000)?;
            Some(at.latency_ms.as_ref()?.p99)
        },
    },
    Bar {
        text: "lateness of retries at 1,000 failures/s: p99 ms",
        limit: Limit::AtMost(25.0),
        found: |report| Some(report.retry_lateness.as_ref()?.lateness_ms.as_ref()?.p99),
    },
    Bar {
        text: "memory at a steady pace: most in the last tenth, of that in the second",
        limit: Limit::AtMost(1.05),
        found: |report| report.steady.as_ref()?.memory_growth(),
    },
    Bar {
        text: "one by one over HTTP: events/s published",
        limit: Limit::AtLeast(2000.0),
        found: |report| {
            let mut ways = report.publish.iter();
            Some(
                ways.find(|published| published.way == SINGLE_OVER_HTTP)?
                    .per_second,
            )
        },
    },
];

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            machine: machine::machine(),
            versions: machine::versions(options.broker.as_deref()),
            options: options.json(),
            cases: Vec::new(),
            latency: Vec::new(),
            retry_lateness: None,
            steady: None,
            publish: Vec::new(),
        }
    }

    fn drained(&self, name: &str) -> Option<&Drained> {
        self.cases.iter().find(|drained| drained.name == name)
    }

    /// Returns the worker's maximum rate in deliveries per second, if it was measured.
    pub(crate) fn peak(&self) -> Option<usize> {
        let per_second = self.drained("base")?.per_second("worker")?;
        Some(per_second as usize)
    }

    pub(crate) fn keep(&mut self, shows: Shows, steady: Steady) {
        match shows {
            Shows::Latency => self.latency.push(steady),
            Shows::Lateness => self.retry_lateness = Some(steady),
            Shows::Memory => self.steady = Some(steady),
        }
    }

    /// Writes the current results to `file`. Later results are added by writing it again.
    pub(crate) fn write(&self, file: &Path) {
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory).unwrap();
        }
        let json = serde_json::to_string_pretty(&rounded(json!(self))).unwrap();
        fs::write(file, json + "\n")
            .unwrap_or_else(|error| panic!("{}: {error}; choose another --json", file.display()));
    }

    /// Prints a table of the targets for which values were measured.
    pub(crate) fn print_bars(&self) {
        println!("\n| bar | found | met |\n|---|---|---|");
        for bar in &BARS {
            let Some(found) = (bar.found)(self) else { continue };
            let (limit, is_met) = match bar.limit {
                Limit::AtLeast(limit) => (format!("at least {limit}"), found >= limit),
                Limit::AtMost(limit) => (format!("at most {limit}"), found <= limit),
            };
            println!(
                "| {}: {limit} | {found:.2} | {} |",
                bar.text,
                if is_met { "yes" } else { "no" }
            );
        }
    }
}

/// Rounds all numbers to three decimal places.
fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            json!((number.as_f64().expect("it is one") * 1000.0).round() / 1000.0)
        }
        Value::Array(values) => values.into_iter().map(rounded).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| (key, rounded(value)))
            .collect(),
        other => other,
    }
}
