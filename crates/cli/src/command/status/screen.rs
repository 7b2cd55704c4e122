//! Formats the collected state as a screen of 80 columns, or as a JSON object.

use std::collections::BTreeMap;

use runtime::time;
use serde_json::{Value, json};
use service::{
    status::{FAILING_MAX, urgency},
    view,
};
use store::{Failing, RunningRole};
use wire::{Activity, Endpoint};

use crate::{command::endpoint, output::printable};

use super::{
    look::{Depth, InDatabase, OnBroker, Seen},
    trouble::Trouble,
};

const WIDTH: usize = 80;
/// The maximum number of failing endpoints to show.
const FAILING_SHOWN: usize = 5;
/// The maximum number of roles to show.
const ROLES_SHOWN: usize = 8;
/// The maximum number of troubles to show.
const TROUBLES_SHOWN: usize = 24;

/// Returns the lines of the screen.
pub(super) fn lines(seen: &Seen, troubles: &[Trouble]) -> Vec<String> {
    let mut lines = vec![heading(seen.now_ms)];
    if let Ok(database) = &seen.database {
        lines.push(String::new());
        lines.extend(roles(&database.roles));
        lines.push(String::new());
        let now = view::activity(&database.overview.activity);
        lines.extend(activity(&now, seen.now_ms, seen.since_ms));
        let window = ago(seen.now_ms, seen.since_ms);
        let gaps = database.overview.gaps;
        lines.push(format!("GAPS       {gaps} in the journal in the last {window}"));
        lines.extend(failing(
            database.failing.len() as u64,
            &most_urgent(&database.failing),
            seen.now_ms,
        ));
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
    lines.extend(verdict(troubles));
    lines
}

/// Returns the line with the time of the screen.
pub(super) fn heading(now_ms: u64) -> String {
    format!(
        "MAGNETITE  {:>69}",
        time::second(now_ms).replace('T', " ").replace('Z', " UTC")
    )
}

/// Returns an empty line, and then what needs attention.
pub(super) fn verdict(troubles: &[Trouble]) -> Vec<String> {
    let mut lines = vec![String::new()];
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

/// Returns the lines about events, attempts and deliveries, of one organization or of all.
pub(super) fn activity(activity: &Activity, now_ms: u64, since_ms: u64) -> Vec<String> {
    let rate = |count: u64| format!("{:.1}/s", count as f64 / 60.0);
    let attempts = &activity.attempts_last_minute;
    let outcomes = [
        ("delivered", attempts.delivered),
        ("retry", attempts.retry),
        ("deferred", attempts.deferred),
        ("dead", attempts.dead),
        ("cancelled", attempts.cancelled),
    ];
    let outcomes: Vec<_> = outcomes
        .into_iter()
        .filter(|(outcome, count)| *count > 0 || *outcome == "delivered")
        .map(|(outcome, count)| format!("{outcome} {}", rate(count)))
        .collect();
    let oldest = activity
        .oldest_pending_ms
        .map(|at_ms| format!(", the oldest for {}", ago(now_ms, at_ms)));
    let last = activity.last_attempt_ms.map_or_else(
        || "none recorded".to_owned(),
        |at_ms| format!("{} ago", ago(now_ms, at_ms)),
    );
    vec![
        format!(
            "EVENTS     {} in the last minute",
            rate(activity.events_last_minute)
        ),
        cut(&format!("ATTEMPTS   {}", outcomes.join(", "))),
        format!("           the last one recorded: {last}"),
        format!("PENDING    {}{}", activity.pending, oldest.unwrap_or_default()),
        format!(
            "DEAD       {} of the deliveries created in the last {}",
            activity.dead,
            ago(now_ms, since_ms)
        ),
    ]
}

/// Returns how long ago a time was, in whole seconds.
fn ago(now_ms: u64, at_ms: u64) -> String {
    time::span(now_ms.saturating_sub(at_ms) / 1_000 * 1_000)
}

/// Returns the failing endpoints that are shown.
fn most_urgent(failing: &[Failing]) -> Vec<Endpoint> {
    let mut sorted: Vec<_> = failing.iter().collect();
    sorted.sort_by_key(|found| urgency(found));
    sorted.truncate(FAILING_SHOWN);
    sorted.into_iter().map(view::failing_endpoint).collect()
}

/// Returns the lines about failing endpoints: their number, and the most urgent ones.
pub(super) fn failing(count: u64, most_urgent: &[Endpoint], now_ms: u64) -> Vec<String> {
    let more = if count < u64::from(FAILING_MAX) {
        ""
    } else {
        " or more"
    };
    let mut lines = vec![format!("FAILING    endpoints {count}{more}")];
    for endpoint in most_urgent.iter().take(FAILING_SHOWN) {
        let Some(found) = &endpoint.failing else { continue };
        let line = format!(
            "  {} for {}, {} ok, {} pending",
            printable(&endpoint.id),
            ago(now_ms, found.since_ms),
            endpoint::success_rate(found),
            found.pending,
        );
        lines.push(cut(&line));
        lines.push(cut(&format!("    {}", printable(&found.last_error))));
    }
    if count > FAILING_SHOWN as u64 {
        lines.push("  `magnetite endpoint list --failing` lists all".to_owned());
    }
    lines
}

/// Returns the lines about queues. They show the names on the broker, because `dead` alone would be coloured as
/// a state.
fn queues(queues: &[Depth]) -> Vec<String> {
    let heading = format!(
        "{:<37} {:>10} {:>14} {:>15}",
        "QUEUES", "READY", "PER SECOND", "CONSUMERS"
    );
    let rows = queues.iter().map(|queue| {
        format!(
            "  {:<35} {:>10} {:>+14.1} {:>15}",
            queue.full_name, queue.ready, queue.rate, queue.consumers
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
    let activity = &overview.activity;
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
        "events_last_minute": activity.events_minute,
        "attempts_last_minute": activity.attempts_minute.iter().cloned().collect::<BTreeMap<_, _>>(),
        "last_attempt_ms": activity.last_attempt_ms,
        "pending": activity.pending,
        "oldest_pending_ms": activity.oldest_pending_ms,
        "overdue": activity.overdue,
        "dead": activity.dead,
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
