//! The metrics of a process, depending on the roles that it runs. The table in docs/operations.md lists them,
//! and a test compares the two.

use runtime::{Metric, MetricLabel};

pub(crate) const LOG_LINES_LOST: Metric = Metric::counter(
    "magnetite_log_lines_lost_total",
    "Log lines that could not be written to standard error",
);
const BUILD_INFO: Metric = Metric::gauge(
    "magnetite_build_info",
    None,
    "Always 1; the label has the version that is running",
)
.by(&[MetricLabel::told("version", "as `magnetite --version` prints it")]);

const OF_THE_PROCESS: &[Metric] = &[BUILD_INFO, LOG_LINES_LOST];

/// All metrics, with the roles that export them.
const EACH: [(&[&str], &[Metric]); 7] = [
    (&["worker", "recorder", "api"], OF_THE_PROCESS),
    (&["worker", "recorder", "api"], broker::CONNECTION_METRICS),
    (&["worker", "recorder"], broker::CONSUMER_METRICS),
    (&["worker"], broker::BINDING_METRICS),
    (&["worker"], worker::METRICS),
    (&["recorder"], recorder::METRICS),
    (&["api"], api::METRICS),
];

/// Makes `/metrics` serve all metrics of these roles, starting at 0.
pub(crate) fn register(roles: &[&str]) {
    for (of, metrics) in EACH {
        if of.iter().any(|role| roles.contains(role)) {
            metrics.iter().for_each(Metric::register);
        }
    }
    BUILD_INFO.level([env!("CARGO_PKG_VERSION")]).set(1.0);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use runtime::{MetricKind, MetricValues};

    use super::*;

    const BEGIN: &str = "<!-- The table of metrics is compared by a test, which prints the right one. -->\n";

    fn table() -> String {
        let rows = EACH
            .iter()
            .flat_map(|(roles, metrics)| metrics.iter().map(|metric| row(roles, metric)));
        ["| metric | roles | type | labels | value |\n|---|---|---|---|---|\n".to_owned()]
            .into_iter()
            .chain(rows)
            .collect()
    }

    fn row(roles: &[&str], metric: &Metric) -> String {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge(_) => "gauge",
            MetricKind::Seconds => "histogram",
        };
        let labels: Vec<_> = metric.labels.iter().map(label).collect();
        let (name, roles) = (metric.name, roles.join(", "));
        let (labels, help) = (labels.join("; "), metric.help);
        format!("| `{name}` | {roles} | {kind} | {labels} | {help} |\n")
    }

    fn label(label: &MetricLabel) -> String {
        let values = match label.values {
            MetricValues::Known(values) => {
                let values: Vec<_> = values().iter().map(|value| format!("`{value}`")).collect();
                values.join(", ")
            }
            MetricValues::Told(values) => values.to_owned(),
        };
        format!("`{}`: {values}", label.key)
    }

    #[test]
    fn the_documentation_has_the_table_of_all_metrics() {
        let docs = include_str!("../../../docs/operations.md");
        let (_, after) = docs.split_once(BEGIN).expect("where the table begins");
        let end = after.find("\n\n").map_or(after, |end| &after[..=end]);
        assert_eq!(
            end,
            table(),
            "the table of docs/operations.md is to be:\n{}",
            table()
        );
    }

    #[test]
    fn names_are_unique_and_end_in_what_they_count() {
        let mut names = BTreeSet::new();
        for metric in EACH.iter().flat_map(|(_, metrics)| *metrics) {
            assert!(names.insert(metric.name), "{metric} stands there twice");
            assert!(!metric.help.ends_with('.'), "{metric}: {}", metric.help);
            let is_seconds = match metric.kind {
                MetricKind::Seconds => true,
                MetricKind::Gauge(unit) => unit.is_some(),
                MetricKind::Counter => false,
            };
            assert_eq!(metric.name.ends_with("_seconds"), is_seconds, "{metric}");
            let is_total = metric.kind == MetricKind::Counter;
            assert_eq!(metric.name.ends_with("_total"), is_total, "{metric}");
        }
    }
}
