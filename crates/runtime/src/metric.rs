//! Definitions of the metrics that `/metrics` serves.
//!
//! Each crate lists its metrics as constants of these types and updates them through these constants, so that
//! the list is complete. A role registers the lists of its crates before it starts. Therefore a counter
//! exists with value 0 before it is first incremented.

use std::fmt;

use metrics::{Counter, Gauge, Histogram, Label as Series, Unit};

/// The definition of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name, such as `magnetite_dead_total`.
    pub name: &'static str,
    /// The kind of metric.
    pub kind: MetricKind,
    /// The help text: one sentence without a full stop at its end.
    pub help: &'static str,
    /// The labels, in the order in which their values are given.
    pub labels: &'static [MetricLabel],
}

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// A counter. Its name says what it counts, before `_total`.
    Counter,
    /// A gauge, with its unit if it has one.
    Gauge(Option<Unit>),
    /// A histogram of durations in seconds.
    Seconds,
}

/// A label of a metric. It has few values.
#[derive(Clone, Copy, Debug)]
pub struct MetricLabel {
    /// The key, such as `reason`.
    pub key: &'static str,
    /// The possible values.
    pub values: MetricValues,
}

/// The possible values of a label.
#[derive(Clone, Copy, Debug)]
pub enum MetricValues {
    /// One of these values. The series of each value exists from the start.
    Known(fn() -> Vec<&'static str>),
    /// Values from the configuration or from the code that uses the metric; the text describes them. A series
    /// exists from its first use.
    Told(&'static str),
}

impl Metric {
    /// Creates a counter without labels.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self::of(name, MetricKind::Counter, help)
    }

    /// Creates a gauge without labels.
    pub const fn gauge(name: &'static str, unit: Option<Unit>, help: &'static str) -> Self {
        Self::of(name, MetricKind::Gauge(unit), help)
    }

    /// Creates a histogram of durations without labels.
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

    /// Returns the metric with labels.
    #[must_use]
    pub const fn by(self, labels: &'static [MetricLabel]) -> Self {
        Self { labels, ..self }
    }

    /// Returns the counter for these label values, one for each label.
    pub fn count<const N: usize>(&self, values: [&str; N]) -> Counter {
        debug_assert_eq!(self.kind, MetricKind::Counter, "{self} is not a counter");
        metrics::counter!(self.name, self.series(&values))
    }

    /// Returns the gauge for these label values, one for each label.
    pub fn level<const N: usize>(&self, values: [&str; N]) -> Gauge {
        debug_assert!(matches!(self.kind, MetricKind::Gauge(_)), "{self} is not a gauge");
        metrics::gauge!(self.name, self.series(&values))
    }

    /// Returns the histogram for these label values, one for each label.
    pub fn durations<const N: usize>(&self, values: [&str; N]) -> Histogram {
        debug_assert_eq!(self.kind, MetricKind::Seconds, "{self} is not a histogram");
        metrics::histogram!(self.name, self.series(&values))
    }

    fn series(&self, values: &[&str]) -> Vec<Series> {
        debug_assert_eq!(
            values.len(),
            self.labels.len(),
            "{self} needs one value for each label"
        );
        let labels = self.labels.iter().zip(values);
        let series = labels.map(|(label, value)| {
            debug_assert!(
                label.may_be(value),
                "{self}: label {} cannot have the value {value:?}",
                label.key
            );
            Series::new(label.key, (*value).to_owned())
        });
        series.collect()
    }

    /// Describes the metric, and creates every series whose label values are all known. A gauge gets no
    /// initial value, because only its owner knows it.
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

    /// Returns every combination of the labels' values; none if the values of a label are not known in
    /// advance.
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
    /// Creates a label whose values are known.
    pub const fn known(key: &'static str, values: fn() -> Vec<&'static str>) -> Self {
        Self {
            key,
            values: MetricValues::Known(values),
        }
    }

    /// Creates a label whose values are not known in advance. `values` describes them.
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
