//! What the roles of a process report to the database, for `magnetite status` and `magnetite doctor`.

use std::{collections::BTreeSet, time::Duration};

use runtime::probes::Role;
use runtime::troubles;
use serde::{Deserialize, Serialize};
use store::{RoleReport, RunningRole, Store};
use tokio::time::sleep;

/// The interval at which the process looks for changes to report.
const EVERY: Duration = Duration::from_secs(1);
/// The number of rounds after which a report is written again even if nothing has changed. A database that
/// was restored from a backup has lost the report.
const AGAIN_AFTER: u64 = 10;
/// How far the clock of a role's host may be ahead, in milliseconds. Synchronized clocks agree within
/// milliseconds, and an announcement is up to a second old.
const CLOCK_AHEAD_MAX_MS: i64 = 60_000;

/// What to do about a problem that a role reports.
pub(super) const REPORTED_FIX: &str = "see the role's log; it recovers when the cause has ended";

/// Returns what a running role reports in `/readyz`: `not_ready` or `degraded`, and the reason in words.
/// `None` if the role is fine, or has not announced itself lately.
pub(super) fn reported(role: &RunningRole) -> Option<(&'static str, String)> {
    let report = Some(&role.report).filter(|_| role.is_heard())?;
    let name = format!("{} {} on {}", role.role, role.process, role.host);
    let not_ready = report
        .waits_for
        .as_ref()
        .map(|why| ("not_ready", format!("{name} is not ready: {why}")));
    let degraded = || {
        report
            .degraded
            .as_ref()
            .map(|why| ("degraded", format!("{name} is degraded: {why}")))
    };
    not_ready.or_else(degraded)
}

/// What to do about a clock that is ahead.
pub(super) const CLOCK_FIX: &str = "set the clock that is wrong, and restart the role";

/// One observed problem, as stored in the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) kind: String,
    pub(super) subject: String,
    pub(super) detail: String,
}

/// Stores what each role reports in `/readyz` and the problems that the process `process` has observed,
/// whenever they change. Never returns.
pub(super) async fn report(process: &str, store: &Store, roles: &[Role]) {
    let mut last = vec![None; roles.len()];
    for round in 0_u64.. {
        let troubles = noticed();
        for (role, last) in roles.iter().zip(&mut last) {
            let now = RoleReport {
                waits_for: role.readiness.borrow().clone(),
                degraded: role.degraded.borrow().clone(),
                troubles: troubles.clone(),
            };
            if last.as_ref() == Some(&now) && !round.is_multiple_of(AGAIN_AFTER) {
                continue;
            }
            match store.report_role(process, role.name, &now).await {
                Ok(true) => *last = Some(now),
                // The role has not announced itself yet.
                Ok(false) => {}
                Err(error) => tracing::debug!(role = role.name, %error, "cannot report the role's state"),
            }
        }
        sleep(EVERY).await;
    }
}

fn noticed() -> Option<String> {
    let recent: Vec<_> = troubles::recent()
        .into_iter()
        .map(|(trouble, subject, detail)| Told {
            kind: trouble.as_str().to_owned(),
            subject,
            detail,
        })
        .collect();
    let is_any = !recent.is_empty();
    is_any.then(|| serde_json::to_string(&recent).expect("strings can always be serialized"))
}

/// Returns the problems that the processes of these roles have observed, each with one of the roles of its
/// process.
pub(super) fn noticed_by(roles: &[RunningRole]) -> Vec<(&RunningRole, Told)> {
    let mut processes = BTreeSet::new();
    let each = roles
        .iter()
        .filter(|role| processes.insert(role.process.as_str()));
    each.flat_map(|role| {
        let told = read(role.report.troubles.as_deref()).into_iter();
        told.map(move |told| (role, told))
    })
    .collect()
}

/// Returns what to do about a problem of this kind.
pub(super) fn advice(kind: &str) -> &'static str {
    match kind {
        "poison" => {
            "find out from the roles' logs why they end or lose their connections; after 100 returns the queue rejects the \
             message, and `magnetite rejected list` lists it"
        }
        "unreadable" => "`magnetite rejected list` lists the message; correct its publisher",
        "reconnecting" => "see the role's log; check the network, and the permissions of the broker's user",
        "journal_lag" => "start another recorder, or find out why the database is slow",
        _ => "see the role's log",
    }
}

/// Says by how much the clock of the role's host is ahead of this host's, if by more than a minute. This can
/// only happen with SQLite, where a role announces itself with its own host's clock; with PostgreSQL all use
/// the server's clock.
pub(super) fn clock_ahead(role: &RunningRole) -> Option<String> {
    if role.unseen_ms >= -CLOCK_AHEAD_MAX_MS {
        return None;
    }
    let ahead = Duration::from_secs(role.unseen_ms.unsigned_abs() / 1000);
    Some(format!(
        "the clock of the {} on {} is {} ahead of this host's clock",
        role.role,
        role.host,
        humantime::format_duration(ahead)
    ))
}

/// Parses the problems in the database. Returns none if a later version wrote them in another form.
fn read(troubles: Option<&str>) -> Vec<Told> {
    let read = troubles.and_then(|json| serde_json::from_str(json).ok());
    read.unwrap_or_default()
}
