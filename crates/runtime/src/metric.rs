//! What a process counts and measures, as `/metrics` serves it.
//!
//! Each crate lists its metrics as constants, and uses them through these, so that none is missing from the
//! list. A role registers its crates' lists before it begins: what has not happened yet is 0 and not absent.

use std::fmt;

use metrics::{Counter, Gauge, Histogram, Label as Series, Unit};

/// A name of `/metrics`, with all that is known of it before it is used.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Such as `magnetite_dead_total`.
    pub name: &'static str,
    /// What is done with it.
    pub kind: MetricKind,
    /// One sentence without a full stop at its end.
    pub help: &'static str,
    /// In the order in which their values are given.
    pub labels: &'static [MetricLabel],
}

/// What is done with a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows. What it counts stands in its name, before `_total`.
    Counter,
    /// A number of this moment, in this unit if it has one.
    Gauge(Option<Unit>),
    /// Durations in seconds, in buckets.
    Seconds,
}

/// A label of a metric, of which there are few values.
#[derive(Clone, Copy, Debug)]
pub struct MetricLabel {
    /// Such as `reason`.
    pub key: &'static str,
    /// What it may be.
    pub values: MetricValues,
}

/// What a label may be.
#[derive(Clone, Copy, Debug)]
pub enum MetricValues {
    /// One of these. Each is there from the start.
    Known(fn() -> Vec<&'static str>),
    /// As the configuration or the code that uses it has it, in words. It is there when its user begins.
    Told(&'static str),
}

impl Metric {
    /// A counter without labels.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self::of(name, MetricKind::Counter, help)
    }

    /// A gauge without labels.
    pub const fn gauge(name: &'static str, unit: Option<Unit>, help: &'static str) -> Self {
        Self::of(name, MetricKind::Gauge(unit), help)
    }

    /// A histogram without labels.
    pub const fn seconds(name: &'static str, help: &'static str) -> Self {
        Self::of(name, MetricKind::Seconds, help)
    }

    const fn of(name: &'static str, kind: MetricKind, help: &'static str) -> Self {
        Self {
            name,
            kind,
            help,
            labels: &[],
        }
    }

    /// The same with labels.
    #[must_use]
    pub const fn by(self, labels: &'static [MetricLabel]) -> Self {
        Self { labels, ..self }
    }

    /// The counter of these label values, one for each label.
    pub fn count<const N: usize>(&self, values: [&str; N]) -> Counter {
        debug_assert_eq!(self.kind, MetricKind::Counter, "{self} is no counter");
        metrics::counter!(self.name, self.series(&values))
    }

    /// The gauge of these label values, one for each label.
    pub fn level<const N: usize>(&self, values: [&str; N]) -> Gauge {
        debug_assert!(matches!(self.kind, MetricKind::Gauge(_)), "{self} is no gauge");
        metrics::gauge!(self.name, self.series(&values))
    }

    /// The histogram of these label values, one for each label.
    pub fn durations<const N: usize>(&self, values: [&str; N]) -> Histogram {
        debug_assert_eq!(self.kind, MetricKind::Seconds, "{self} is no histogram");
        metrics::histogram!(self.name, self.series(&values))
    }

    fn series(&self, values: &[&str]) -> Vec<Series> {
        debug_assert_eq!(values.len(), self.labels.len(), "values of {self}'s labels");
        let labels = self.labels.iter().zip(values);
        let series = labels.map(|(label, value)| {
            debug_assert!(label.may_be(value), "{self} may not have {}={value:?}", label.key);
            Series::new(label.key, (*value).to_owned())
        });
        series.collect()
    }

    /// Describes it, and begins every series of which all labels are known. What a gauge is at first only its
    /// owner knows.
    pub fn register(&self) {
        let (name, help) = (self.name, self.help);
        match self.kind {
            MetricKind::Counter => metrics::describe_counter!(name, help),
            MetricKind::Gauge(Some(unit)) => metrics::describe_gauge!(name, unit, help),
            MetricKind::Gauge(None) => metrics::describe_gauge!(name, help),
            MetricKind::Seconds => metrics::describe_histogram!(name, Unit::Seconds, help),
        }
        for values in self.known() {
            let series = self.series(&values);
            match self.kind {
                MetricKind::Counter => metrics::counter!(name, series).increment(0),
                MetricKind::Gauge(_) => {}
                MetricKind::Seconds => drop(metrics::histogram!(name, series)),
            }
        }
    }

    /// Every combination of the labels' values; none if one of them is only told later.
    fn known(&self) -> Vec<Vec<&'static str>> {
        let mut all = vec![Vec::new()];
        for label in self.labels {
            let values = match label.values {
                MetricValues::Known(values) => values(),
                MetricValues::Told(_) => Vec::new(),
            };
            let longer = all
                .iter()
                .flat_map(|before| values.iter().map(move |value| [&before[..], &[*value]].concat()));
            all = longer.collect();
        }
        all
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl MetricLabel {
    /// A label whose values are known.
    pub const fn known(key: &'static str, values: fn() -> Vec<&'static str>) -> Self {
        Self {
            key,
            values: MetricValues::Known(values),
        }
    }

    /// A label whose values are told in words.
    pub const fn told(key: &'static str, values: &'static str) -> Self {
        Self {
            key,
            values: MetricValues::Told(values),
        }
    }

    fn may_be(&self, value: &str) -> bool {
        match self.values {
            MetricValues::Known(values) => values().contains(&value),
            MetricValues::Told(_) => true,
        }
    }
}
