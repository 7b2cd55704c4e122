//! Decides what needs attention. A pure function of the collected state.

use std::{borrow::Cow, time::Duration};

use broker::BLOCKED;
use runtime::time;
use serde::Serialize;
use service::status::OVERDUE;
use store::RunningRole;

use crate::command::{claim, rejected, topology, troubles};

use super::look::{Depth, InDatabase, LOST_SHOWN, OnBroker, Seen};

/// The maximum number of batches that may wait for a recorder. A busy system produces that many within
/// minutes.
const JOURNAL_MAX: u32 = 500;
/// The maximum number of events, or of due deliveries, that may wait while their number grows.
const BACKLOG_MAX: u32 = 10_000;
/// The number of roles that ended without announcing it within [`LOST_SHOWN`] from which on they are probably
/// one role that crashes repeatedly.
const LOST_MANY: usize = 3;
/// The time without an announcement after which a role is considered ended, unless it is only cut off from
/// the database.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// A problem that needs attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Trouble {
    /// An identifier for scripts.
    pub(super) name: Cow<'static, str>,
    /// What is wrong.
    pub(super) what: String,
    /// What to do.
    pub(super) next: Cow<'static, str>,
}

pub(super) fn trouble(
    name: impl Into<Cow<'static, str>>,
    what: impl Into<String>,
    next: impl Into<Cow<'static, str>>,
) -> Trouble {
    Trouble {
        name: name.into(),
        what: what.into(),
        next: next.into(),
    }
}

/// Returns everything that needs attention.
pub(super) fn found(seen: &Seen) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    match &seen.database {
        Ok(database) => {
            troubles.extend(absent(&database.roles));
            troubles.extend(lost(database, seen.broker.as_ref().ok()));
            of_roles(&database.roles, &mut troubles);
            of_the_journal(database, &mut troubles);
        }
        Err(error) => troubles.push(trouble(
            "database",
            format!("database: {error}"),
            "start it, or run `magnetite doctor`; deliveries continue without it",
        )),
    }
    match &seen.broker {
        Ok(broker) => of_the_broker(broker, &mut troubles),
        Err(error) => troubles.push(trouble(
            "broker",
            format!("broker: {error}"),
            "start it, or run `magnetite doctor`; nothing is delivered without it",
        )),
    }
    if let (Ok(database), Ok(broker)) = (&seen.database, &seen.broker) {
        troubles.extend(missing(database, broker));
    }
    troubles
}

/// Returns a trouble if batches of records are missing that wait neither in the journal's queue nor at a
/// recorder that is not ready.
fn missing(database: &InDatabase, broker: &OnBroker) -> Option<Trouble> {
    let records =
        |role: &RunningRole| role.role == "recorder" && role.is_heard() && role.report.waits_for.is_none();
    let is_empty = |queue: &Depth| queue.name == "journal" && queue.ready == 0;
    let batches = database.overview.missing_batches;
    (batches > 0 && database.roles.iter().any(records) && broker.queues.iter().any(is_empty)).then(|| {
        trouble(
            "gaps",
            format!("batches of records that did not arrive: {batches}"),
            "`magnetite audit` says from which workers, and when; deliveries were made",
        )
    })
}

/// Returns a trouble for each role that is needed and does not run. An API is needed if one ran within
/// [`LOST_SHOWN`].
fn absent(roles: &[RunningRole]) -> Vec<Trouble> {
    let runs = |name: &str| roles.iter().any(|role| role.role == name && role.is_heard());
    let ended = |name: &str| roles.iter().any(|role| role.role == name);
    let mut absent = Vec::new();
    for (role, is_needed, next) in [
        (
            "worker",
            true,
            "start one: `magnetite worker`; nothing is delivered without it",
        ),
        (
            "recorder",
            true,
            "start one: `magnetite recorder`; records wait in the journal's queue",
        ),
        (
            "api",
            ended("api"),
            "start one: `magnetite api`; the last one ended without a proper shutdown",
        ),
    ] {
        if is_needed && !runs(role) {
            absent.push(trouble("no_role", format!("no {role} is running"), next));
        }
    }
    absent
}

/// Returns a trouble if many roles ended without announcing it. [`absent`] does not notice a role that is
/// restarted after each crash.
fn lost(database: &InDatabase, broker: Option<&OnBroker>) -> Option<Trouble> {
    let is_lost = |role: &&RunningRole| {
        let is_cut_off = broker.is_some_and(|broker| broker.cut_off.contains(&role.process));
        role.unseen() > LOST_AFTER && !is_cut_off
    };
    let lost = database.roles.iter().filter(is_lost).count();
    let within = time::span(LOST_SHOWN.as_millis() as u64);
    (lost >= LOST_MANY).then(|| {
        trouble(
            "lost",
            format!("roles that ended within {within} without a proper shutdown: {lost}"),
            "see their logs, and those of their service manager: one may be crashing repeatedly",
        )
    })
}

fn of_roles(roles: &[RunningRole], troubles: &mut Vec<Trouble>) {
    for role in roles.iter().filter(|role| role.is_heard()) {
        if let Some((kind, what)) = troubles::reported(role) {
            troubles.push(trouble(kind, what, troubles::REPORTED_FIX));
        }
        if let Some(ahead) = troubles::clock_ahead(role) {
            troubles.push(trouble("clock", ahead, troubles::CLOCK_FIX));
        }
    }
    for (role, told) in troubles::noticed_by(roles) {
        let what = format!(
            "{} on {}, {}: {}",
            role.role, role.host, told.subject, told.detail
        );
        let next = troubles::advice(&told.kind);
        troubles.push(trouble(told.kind, what, next));
    }
}

/// Returns a trouble if deliveries are overdue.
pub(super) fn overdue(count: u64, next: &'static str) -> Option<Trouble> {
    let after = time::span(OVERDUE.as_millis() as u64);
    let what = format!("deliveries due for over {after}: {count}");
    (count > 0).then(|| trouble("overdue", what, next))
}

fn of_the_journal(database: &InDatabase, troubles: &mut Vec<Trouble>) {
    let overview = &database.overview;
    troubles.extend(overdue(
        overview.activity.overdue,
        "`magnetite audit` says whether they are lost",
    ));
    if overview.gaps > 0 {
        troubles.push(trouble(
            "gaps",
            format!("gaps in the journal: {}", overview.gaps),
            "`magnetite audit` lists them; deliveries were made",
        ));
    }
    if !database.rejected.is_empty() {
        troubles.push(trouble(
            "rejected",
            format!("rejected messages: {}", rejected::by_reason(&database.rejected)),
            "`magnetite rejected list` says why; correct the publisher, or redrive them",
        ));
    }
    for stop in &database.retention_stops {
        troubles.push(trouble(
            "retention",
            format!("retention stopped on {}: {}", stop.host, stop.reason),
            "set the clock that is wrong; if all are right, run `magnetite retention confirm`",
        ));
    }
}

fn of_the_broker(broker: &OnBroker, troubles: &mut Vec<Trouble>) {
    if broker.is_blocked {
        troubles.push(trouble(
            "alarm",
            BLOCKED,
            "free memory or disk space on the broker's nodes",
        ));
    }
    for problem in &broker.problems {
        let what = format!("{}: {}", problem.name, topology::words(problem));
        troubles.push(trouble("topology", what, topology::fix(problem)));
    }
    if let Some(theirs) = &broker.other_installation {
        let what = format!("the queues belong to the installation {theirs}, not to that of this database");
        troubles.push(trouble("installation", what, claim::FIX));
    }
    for process in &broker.cut_off {
        troubles.push(trouble(
            "cut_off",
            format!("worker {process} delivers without the database"),
            "see its log, and check its connection to the database",
        ));
    }
    if let Ok(inspection) = &broker.inspection {
        for harm in &inspection.harms {
            let what = format!("{}: {harm}", harm.queue);
            troubles.push(trouble("policy", what, harm.fix()));
        }
        for binding in &inspection.unbound {
            let what = format!("binding missing: {binding}");
            troubles.push(trouble("binding", what, topology::BIND));
        }
    }
    troubles.extend(broker.queues.iter().filter_map(of_a_queue));
}

fn of_a_queue(queue: &Depth) -> Option<Trouble> {
    let (name, ready) = (queue.name.as_str(), queue.ready);
    let reader = match name {
        "events" | "due" => "worker",
        "journal" | "dead" | "rejected" => "recorder",
        _ => return None,
    };
    if queue.consumers == 0 {
        return Some(trouble(
            "no_consumer",
            format!("no {reader} consumes the queue {name}; ready messages: {ready}"),
            "start one, or see its /readyz",
        ));
    }
    if name == "journal" && ready > JOURNAL_MAX {
        return Some(trouble(
            "journal_lag",
            format!("batches of the journal waiting: {ready}"),
            troubles::advice("journal_lag"),
        ));
    }
    (reader == "worker" && ready > BACKLOG_MAX && queue.rate > 0.0).then(|| {
        trouble(
            "backlog",
            format!("messages waiting in {name}: {ready}, and growing"),
            "start more workers",
        )
    })
}
