//! What is right, what is wrong, and what to do about it: a pure function of the books and the queues.

mod finding;

use std::time::Duration;

use api::view::States;
use serde_json::{Value, json};
use store::{Audit, StateCounts};

use crate::{command::rejected, moment, output::printable};

use finding::{Finding, incomplete, late_ones, nowhere, unbalanced, unrecorded};

/// How many messages are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queues {
    /// Not in the books yet.
    pub(super) journal: u64,
    /// Not in the books yet.
    pub(super) dead: u64,
    pub(super) due: u64,
    /// In all delay queues.
    pub(super) delayed: u64,
}

/// The books, the queues, and what was found.
pub(super) struct Verdict {
    audit: Audit,
    /// Messages in quarantine, by reason.
    rejected: Vec<(String, u64)>,
    queues: Queues,
    window_ms: (u64, u64),
    findings: Vec<Finding>,
}

impl Queues {
    /// Of each the greater.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            journal: self.journal.max(other.journal),
            dead: self.dead.max(other.dead),
            due: self.due.max(other.due),
            delayed: self.delayed.max(other.delayed),
        }
    }

    fn unrecorded(self) -> u64 {
        self.journal + self.dead
    }

    fn waiting(self) -> u64 {
        self.due + self.delayed
    }
}

impl Verdict {
    /// `window_ms` is what was asked for; a delivery has ended after `late`.
    pub(super) fn new(
        audit: Audit,
        rejected: Vec<(String, u64)>,
        queues: Queues,
        window_ms: (u64, u64),
        late: Duration,
    ) -> Self {
        let findings = [
            incomplete(queues),
            unbalanced(&audit.unbalanced),
            unrecorded(&audit.unrecorded),
            late_ones(&audit.late, late),
            nowhere(&audit, queues, late),
        ];
        Self {
            findings: findings.into_iter().flatten().collect(),
            audit,
            rejected,
            queues,
            window_ms,
        }
    }

    /// How many findings are against the books.
    pub(super) fn failures(&self) -> usize {
        self.findings.iter().filter(|finding| finding.fails()).count()
    }

    /// Whether asking again in a moment may find less.
    pub(super) fn may_settle(&self) -> bool {
        let moving = ["incomplete", "in_no_queue"];
        self.findings.iter().any(|finding| moving.contains(&finding.name))
    }

    /// For people.
    pub(super) fn text(&self) -> Vec<String> {
        let (since_ms, until_ms) = self.window_ms;
        let Audit {
            events,
            matched,
            first_runs,
            resends,
            unsent,
            gaps,
            ..
        } = &self.audit;
        let sign = if *matched == all(first_runs) { "=" } else { "!=" };
        let Queues {
            journal,
            dead,
            due,
            delayed,
        } = self.queues;
        let mut lines = vec![
            format!(
                "from     {} to {}",
                moment::second(since_ms),
                moment::second(until_ms)
            ),
            format!("events   {events}"),
            format!("matched  {matched} {sign} {}", sum(first_runs)),
            format!("resends  {} = {}", all(resends), sum(resends)),
            format!("queues   journal {journal}, dead {dead}, due {due}, delayed {delayed}"),
        ];
        if !self.rejected.is_empty() {
            lines.push(format!(
                "rejected {}: no valid events, delivered to no endpoint; `magnetite rejected list` says why",
                rejected::by_reason(&self.rejected)
            ));
        }
        if *unsent > 0 {
            lines.push(format!(
                "unsent   {unsent} were asked for again and not sent yet: to go on, run the same `magnetite endpoint recover` or \
                 `magnetite delivery resend` once more"
            ));
        }
        lines.extend(gaps.iter().map(|gap| {
            let (from, until) = (moment::millisecond(gap.from_ms), moment::millisecond(gap.until_ms));
            let worker = printable(&gap.worker);
            format!(
                "gap      worker {worker} dropped up to {} records from {from} to {until}: the broker took none",
                gap.count
            )
        }));
        for finding in &self.findings {
            lines.extend(finding.text());
        }
        if self.failures() == 0 {
            lines.push("ok       the books balance".to_owned());
        }
        lines
    }

    /// One object a line: the balance, the queues, each gap, each finding.
    pub(super) fn json(&self) -> Vec<Value> {
        let (since_ms, until_ms) = self.window_ms;
        let audit = &self.audit;
        let mut objects = vec![
            json!({
                "kind": "balance",
                "since_ms": since_ms,
                "until_ms": until_ms,
                "events": audit.events,
                "matched": audit.matched,
                "deliveries": States::from(&audit.first_runs),
                "resends": States::from(&audit.resends),
                "unsent": audit.unsent,
                "rejected": self.rejected.iter().map(|(_, count)| count).sum::<u64>(),
                "balances": self.failures() == 0,
            }),
            json!({
                "kind": "queues",
                "journal": self.queues.journal,
                "dead": self.queues.dead,
                "due": self.queues.due,
                "delayed": self.queues.delayed,
            }),
        ];
        objects.extend(audit.gaps.iter().map(|gap| {
            json!({
                "kind": "gap",
                "worker": gap.worker,
                "from_ms": gap.from_ms,
                "until_ms": gap.until_ms,
                "count": gap.count,
            })
        }));
        objects.extend(self.findings.iter().map(Finding::json));
        objects
    }
}

fn all(counts: &StateCounts) -> u64 {
    counts.delivered + counts.dead + counts.cancelled + counts.pending
}

fn sum(counts: &StateCounts) -> String {
    let StateCounts {
        pending,
        cancelled,
        dead,
        delivered,
    } = counts;
    format!("delivered {delivered} + dead {dead} + cancelled {cancelled} + pending {pending}")
}

#[cfg(test)]
mod tests;
