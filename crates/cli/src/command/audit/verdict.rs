//! What is right, what is wrong, and what to do about it: a pure function of the books and the queues.

use std::time::Duration;

use serde_json::{Value, json};
use store::{Audit, Findings, Late, StateCounts, Unbalanced, Unrecorded};

use crate::{command::listing::counts, moment, output::printable};

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
    queues: Queues,
    window_ms: (u64, u64),
    findings: Vec<Finding>,
}

/// Something that is not right.
#[derive(Debug)]
struct Finding {
    /// A word for scripts.
    name: &'static str,
    /// How many, and how many of them no gap explains.
    count: u64,
    unexplained: u64,
    detail: String,
    next: String,
    /// As many as are listed.
    ids: Vec<String>,
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
    pub(super) fn new(audit: Audit, queues: Queues, window_ms: (u64, u64), late: Duration) -> Self {
        let findings = [
            incomplete(queues),
            unbalanced(&audit.unbalanced),
            unrecorded(&audit.unrecorded),
            late_ones(&audit.late, late),
            nowhere(audit.pending_settled, queues, late),
        ];
        Self {
            findings: findings.into_iter().flatten().collect(),
            audit,
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
                "deliveries": counts(&audit.first_runs),
                "resends": counts(&audit.resends),
                "unsent": audit.unsent,
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

impl Finding {
    fn fails(&self) -> bool {
        self.unexplained > 0
    }

    fn text(&self) -> Vec<String> {
        let Self {
            count,
            unexplained,
            detail,
            next,
            ..
        } = self;
        let (mark, explained) = match (self.fails(), count - unexplained) {
            (true, 0) => ("WRONG  ", String::new()),
            (true, explained) => ("WRONG  ", format!(" ({explained} of them in a gap)")),
            (false, _) => ("in gap ", String::new()),
        };
        let mut lines = vec![format!(
            "{mark}  {detail}: {count}{explained}\n         -> {next}"
        )];
        lines.extend(self.ids.iter().map(|id| format!("         {}", printable(id))));
        if (self.ids.len() as u64) < *count && !self.ids.is_empty() {
            lines.push(format!("         and {} more", count - self.ids.len() as u64));
        }
        lines
    }

    fn json(&self) -> Value {
        json!({
            "kind": "finding",
            "finding": self.name,
            "fails": self.fails(),
            "count": self.count,
            "in_gaps": self.count - self.unexplained,
            "detail": self.detail,
            "next": self.next,
            "ids": self.ids,
        })
    }
}

fn incomplete(queues: Queues) -> Option<Finding> {
    let count = queues.unrecorded();
    (count > 0).then(|| Finding {
        name: "incomplete",
        count,
        unexplained: count,
        detail: format!(
            "messages that are not in the books yet (in the journal's queue {}, dead letters {})",
            queues.journal, queues.dead
        ),
        next: "is a recorder running, and does it keep up? start one (`magnetite recorder`), and ask again"
            .to_owned(),
        ids: Vec::new(),
    })
}

fn unbalanced(found: &Findings<Unbalanced>) -> Option<Finding> {
    finding(
        "unbalanced",
        found,
        |event| (event.event_id.as_str(), event.in_gap),
        "events with fewer or more deliveries than endpoints that matched, or deliveries without their event".to_owned(),
        "`magnetite event show ID` says which is missing; rows were deleted by hand, or records lost without a gap"
            .to_owned(),
    )
}

fn unrecorded(found: &Findings<Unrecorded>) -> Option<Finding> {
    finding(
        "unrecorded",
        found,
        |delivery| (delivery.delivery_id.as_str(), delivery.in_gap),
        "deliveries that had more attempts than are recorded".to_owned(),
        "`magnetite delivery show ID` prints those there are; rows were deleted by hand, or records lost without a gap"
            .to_owned(),
    )
}

fn late_ones(found: &Findings<Late>, late: Duration) -> Option<Finding> {
    finding(
        "late",
        found,
        |delivery| (delivery.delivery_id.as_str(), delivery.in_gap),
        format!(
            "deliveries unaccounted for, pending for longer than the {} that all attempts take",
            moment::span(late.as_millis() as u64)
        ),
        "is a worker running? if so they are lost, with a queue that was purged or deleted: `magnetite delivery resend \
         ID...` sends them again"
            .to_owned(),
    )
}

fn nowhere(pending_settled: u64, queues: Queues, late: Duration) -> Option<Finding> {
    let count = pending_settled.saturating_sub(queues.waiting());
    (count > 0).then(|| Finding {
        name: "in_no_queue",
        count,
        unexplained: count,
        detail: format!(
            "pending deliveries that stand in no queue ({pending_settled} should, {} do)",
            queues.waiting()
        ),
        next: format!(
            "was a queue purged or deleted, or the schedule changed while delay queues of the old one hold some? Those \
             that are lost are listed here by id {} after they began",
            moment::span(late.as_millis() as u64)
        ),
        ids: Vec::new(),
    })
}

/// What is counted and not listed counts as not explained by a gap: nobody has looked.
fn finding<T>(
    name: &'static str,
    found: &Findings<T>,
    item: impl Fn(&T) -> (&str, bool),
    detail: String,
    next: String,
) -> Option<Finding> {
    let items: Vec<(&str, bool)> = found.items.iter().map(item).collect();
    let in_gaps = items.iter().filter(|(_, in_gap)| *in_gap).count() as u64;
    (found.total > 0).then(|| Finding {
        name,
        count: found.total,
        unexplained: found.total.saturating_sub(in_gaps),
        detail,
        next,
        ids: items.into_iter().map(|(id, _)| id.to_owned()).collect(),
    })
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
