//! Formats the collected state as a screen of 80 columns, or as a JSON object.

use std::collections::BTreeMap;

use runtime::time;
use serde_json::{Value, json};
use service::view;
use store::{Failing, Overview, RunningRole};

use crate::{command::endpoint, output::printable};

use super::{
    look::{Depth, FAILING_MAX, InDatabase, OnBroker, Seen},
    trouble::Trouble,
};

const WIDTH: usize = 80;
/// The maximum number of failing endpoints to show.
const FAILING_SHOWN: usize = 5;
/// The maximum number of roles to show.
const ROLES_SHOWN: usize = 8;
/// The maximum number of troubles to show.
const TROUBLES_SHOWN: usize = 24;
/// Outcomes of attempts, in the order of the screen.
const OUTCOMES: [&str; 5] = ["delivered", "retry", "deferred", "dead", "cancelled"];

/// Returns the lines of the screen.
pub(super) fn lines(seen: &Seen, troubles: &[Trouble]) -> Vec<String> {
    let mut lines = vec![format!(
        "MAGNETITE  {:>69}",
        time::second(seen.now_ms).replace('T', " ").replace('Z', " UTC")
    )];
    if let Ok(database) = &seen.database {
        lines.push(String::new());
        lines.extend(roles(&database.roles));
        lines.push(String::new());
        lines.extend(overview(&database.overview, seen));
        lines.extend(failing(&database.failing, seen.now_ms));
    }
    if let Ok(broker) = &seen.broker {
        lines.push(String::new());
        lines.extend(queues(&broker.queues));
        if let Err(error) = &broker.inspection {
            lines.extend(wrapped(
                "  not checked: ",
                &format!("policies, bindings: {error}"),
            ));
        }
    }
    lines.push(String::new());
    if troubles.is_empty() {
        lines.push("OK         nothing needs attention".to_owned());
    }
    for trouble in troubles.iter().take(TROUBLES_SHOWN) {
        lines.extend(wrapped("TROUBLE    ", &trouble.what));
        lines.extend(wrapped("        -> ", &trouble.next));
    }
    if troubles.len() > TROUBLES_SHOWN {
        let more = troubles.len() - TROUBLES_SHOWN;
        lines.push(format!(
            "TROUBLE    and {more} more: `magnetite status --json` lists all"
        ));
    }
    lines
}

fn roles(roles: &[RunningRole]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for role in roles.iter().filter(|role| role.is_heard()) {
        *counts.entry(&role.role).or_default() += 1;
    }
    let counts: Vec<_> = counts
        .iter()
        .map(|(role, count)| format!("{role} {count}"))
        .collect();
    let mut lines = vec![format!(
        "ROLES      {}",
        if counts.is_empty() {
            "none is running".to_owned()
        } else {
            counts.join(", ")
        }
    )];
    // Roles that are not ready come first.
    let mut sorted: Vec<_> = roles.iter().collect();
    sorted.sort_by_key(|role| standing(role).0);
    for role in sorted.iter().take(ROLES_SHOWN) {
        let line = format!(
            "  {:<9} {:<16} {:<22.22} {}",
            role.role,
            printable(&role.process),
            printable(&role.host),
            standing(role).1
        );
        lines.push(cut(&line));
    }
    if roles.len() > ROLES_SHOWN {
        lines.push(format!("  and {} more", roles.len() - ROLES_SHOWN));
    }
    lines
}

/// Returns a role's rank in the order of the screen, and its state.
fn standing(role: &RunningRole) -> (u8, String) {
    if !role.is_heard() {
        let unseen = time::span(role.unseen().as_millis() as u64 / 1_000 * 1_000);
        return (1, format!("not seen for {unseen}"));
    }
    match (&role.report.waits_for, &role.report.degraded) {
        (Some(_), _) => (0, "NOT READY".to_owned()),
        (None, Some(_)) => (0, "degraded".to_owned()),
        (None, None) => (2, "ready".to_owned()),
    }
}

fn overview(overview: &Overview, seen: &Seen) -> Vec<String> {
    let rate = |count: u64| format!("{:.1}/s", count as f64 / 60.0);
    let count = |outcome: &str| {
        let mut found = overview.attempts_minute.iter();
        found
            .find(|(name, _)| name == outcome)
            .map_or(0, |(_, count)| *count)
    };
    let outcomes: Vec<_> = OUTCOMES
        .iter()
        .filter(|outcome| count(outcome) > 0 || **outcome == "delivered")
        .map(|outcome| format!("{outcome} {}", rate(count(outcome))))
        .collect();
    let ago = |at_ms: u64| time::span(seen.now_ms.saturating_sub(at_ms) / 1_000 * 1_000);
    let oldest = overview
        .oldest_pending_ms
        .map(|at_ms| format!(", the oldest for {}", ago(at_ms)));
    let last = overview.last_attempt_ms.map_or_else(
        || "none recorded".to_owned(),
        |at_ms| format!("{} ago", ago(at_ms)),
    );
    let window = ago(seen.since_ms);
    vec![
        format!("EVENTS     {} in the last minute", rate(overview.events_minute)),
        cut(&format!("ATTEMPTS   {}", outcomes.join(", "))),
        format!("           the last one recorded: {last}"),
        format!("PENDING    {}{}", overview.pending, oldest.unwrap_or_default()),
        format!(
            "DEAD       {} of the deliveries created in the last {window}",
            overview.dead
        ),
        format!("GAPS       {} in the journal in the last {window}", overview.gaps),
    ]
}

fn failing(failing: &[Failing], now_ms: u64) -> Vec<String> {
    let more = if failing.len() < FAILING_MAX as usize {
        ""
    } else {
        " or more"
    };
    let mut lines = vec![format!("FAILING    endpoints {}{more}", failing.len())];
    let mut sorted: Vec<_> = failing.iter().collect();
    sorted.sort_by_key(|found| (std::cmp::Reverse(found.pending), found.failing_since_ms));
    for found in sorted.iter().take(FAILING_SHOWN) {
        let since = time::span(now_ms.saturating_sub(found.failing_since_ms) / 1_000 * 1_000);
        let line = format!(
            "  {} for {since}, {} ok, {} pending",
            found.endpoint.id,
            endpoint::success_rate(&view::failing(found)),
            found.pending,
        );
        lines.push(cut(&line));
        lines.push(cut(&format!("    {}", printable(&found.last_error))));
    }
    if failing.len() > FAILING_SHOWN {
        lines.push("  `magnetite endpoint list --failing` lists all".to_owned());
    }
    lines
}

fn queues(queues: &[Depth]) -> Vec<String> {
    let heading = format!(
        "{:<37} {:>10} {:>14} {:>15}",
        "QUEUES", "READY", "PER SECOND", "CONSUMERS"
    );
    let rows = queues.iter().map(|queue| {
        format!(
            "  {:<35} {:>10} {:>+14.1} {:>15}",
            queue.name, queue.ready, queue.rate, queue.consumers
        )
    });
    std::iter::once(heading).chain(rows).collect()
}

/// Cuts a line to the width of the screen.
fn cut(line: &str) -> String {
    if line.chars().count() <= WIDTH {
        return line.trim_end().to_owned();
    }
    line.chars().take(WIDTH - 1).chain(['…']).collect()
}

/// Breaks a text into lines, between words if possible.
fn wrapped(first: &str, text: &str) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    let room = WIDTH - first.chars().count();
    for word in printable(text).split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        if !line.is_empty() && line.chars().count() + 1 + word.len() > room {
            lines.push(std::mem::take(&mut line));
        }
        while word.len() > room {
            lines.push(word.drain(..room).collect());
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word);
    }
    lines.push(line);
    let indent = " ".repeat(first.chars().count());
    let prefix = |index: usize| if index == 0 { first } else { &indent };
    let lines = lines.into_iter().enumerate();
    lines
        .map(|(index, line)| format!("{}{line}", prefix(index)))
        .collect()
}

/// Returns the JSON object.
pub(super) fn json(seen: &Seen, troubles: &[Trouble]) -> Value {
    json!({
        "at_ms": seen.now_ms,
        "since_ms": seen.since_ms,
        "ok": troubles.is_empty(),
        "troubles": troubles,
        "database": seen.database.as_ref().ok().map(in_database),
        "broker": seen.broker.as_ref().ok().map(on_broker),
    })
}

fn in_database(found: &InDatabase) -> Value {
    let overview = &found.overview;
    let roles = found.roles.iter().map(|role| {
        json!({
            "role": role.role,
            "process": role.process,
            "host": role.host,
            "alive": role.is_heard(),
            "unseen_ms": role.unseen().as_millis() as u64,
            "waits_for": role.report.waits_for,
            "degraded": role.report.degraded,
        })
    });
    let failing = found.failing.iter().map(view::failing_endpoint);
    json!({
        "roles": roles.collect::<Vec<_>>(),
        "events_last_minute": overview.events_minute,
        "attempts_last_minute": overview.attempts_minute.iter().cloned().collect::<BTreeMap<_, _>>(),
        "last_attempt_ms": overview.last_attempt_ms,
        "pending": overview.pending,
        "oldest_pending_ms": overview.oldest_pending_ms,
        "overdue": overview.overdue,
        "dead": overview.dead,
        "gaps": overview.gaps,
        "rejected": found.rejected.iter().cloned().collect::<BTreeMap<_, _>>(),
        "failing": failing.collect::<Vec<_>>(),
    })
}

fn on_broker(found: &OnBroker) -> Value {
    let queues = found.queues.iter().map(|queue| {
        json!({
            "name": queue.name,
            "ready": queue.ready,
            "per_second": queue.rate,
            "consumers": queue.consumers,
        })
    });
    json!({
        "alarm": found.is_blocked,
        "cut_off": found.cut_off,
        "other_installation": found.other_installation,
        "not_checked": found.inspection.as_ref().err(),
        "queues": queues.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
