//! The verdict of an audit: what is right, what is wrong, and what to do about it. A pure function of the
//! journal and the queues.

mod finding;

use std::time::Duration;

use serde_json::{Value, json};
use service::{resend::IN_HAND, view};
use store::{Audit, Lost, LostCause, SetAside, StateCounts};
use webhook::journal::Gap;

use crate::{command::rejected, output::printable, time};

use super::mark::Marked;
use finding::{
    Finding, in_hand, incomplete, late_ones, lost_batches, nowhere, unbalanced, unequal, unrecorded, vanished,
};

/// The numbers of ready messages in the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queues {
    /// Batches of the journal that are not in the database yet.
    pub(super) journal: u64,
    /// The number of consumers of the journal's queue.
    pub(super) recorders: u64,
    /// Dead letters that are not in the database yet.
    pub(super) dead: u64,
    pub(super) due: u64,
    /// Deliveries in all delay queues of the retry schedule.
    pub(super) delayed: u64,
    /// Deliveries in delay queues of earlier retry schedules.
    pub(super) earlier: u64,
}

/// The overall result of an audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conclusion {
    /// Every delivery is accounted for, except for what gaps hide.
    Balance,
    /// Nothing is known to be wrong, but not everything is known yet.
    NotKnown {
        /// When it can be known, in Unix milliseconds.
        ask_again_ms: u64,
    },
    /// Something is wrong.
    Wrong {
        /// The number of findings.
        failures: usize,
    },
}

/// The journal's sums, the queues, and the findings.
pub(super) struct Verdict {
    audit: Audit,
    /// Messages in quarantine, by reason.
    rejected: Vec<(String, u64)>,
    queues: Queues,
    window_ms: (u64, u64),
    findings: Vec<Finding>,
}

impl Queues {
    /// Returns the greater value of each count.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            journal: self.journal.max(other.journal),
            dead: self.dead.max(other.dead),
            due: self.due.max(other.due),
            delayed: self.delayed.max(other.delayed),
            earlier: self.earlier.max(other.earlier),
            recorders: self.recorders.max(other.recorders),
        }
    }

    fn unrecorded(self) -> u64 {
        self.journal + self.dead
    }

    fn waiting(self) -> u64 {
        self.due + self.delayed + self.earlier
    }
}

impl Verdict {
    /// Creates the verdict. `window_ms` is the audited range of time. `late` is the time after which a
    /// delivery must have ended.
    pub(super) fn new(
        audit: Audit,
        rejected: Vec<(String, u64)>,
        queues: Queues,
        marked: &Marked,
        window_ms: (u64, u64),
        late: Duration,
    ) -> Self {
        let now_ms = window_ms.1;
        let findings = [
            lost_batches(&audit.lost, now_ms),
            unequal(&audit),
            unbalanced(&audit.unbalanced),
            unrecorded(&audit.unrecorded),
            late_ones(&audit.late, late),
            nowhere(&audit, queues, late),
            in_hand(&audit, queues, IN_HAND.as_millis() as u64),
        ];
        let findings = findings.into_iter().flatten();
        let incomplete = incomplete(queues, marked, audit.recorders_heard, now_ms);
        // Records that are not written yet may explain all other findings.
        let known_at_ms = incomplete.as_ref().and_then(Finding::known_at_ms);
        let findings = findings.map(|finding| match known_at_ms {
            Some(at_ms) => finding.known_at(at_ms),
            None => finding,
        });
        Self {
            // Records that are not written yet cannot explain rows that vanished.
            findings: incomplete
                .into_iter()
                .chain(findings)
                .chain(vanished(&audit.vanished))
                .collect(),
            audit,
            rejected,
            queues,
            window_ms,
        }
    }

    /// Returns the overall result.
    pub(super) fn conclusion(&self) -> Conclusion {
        let failures = self.findings.iter().filter(|finding| finding.fails()).count();
        let known_at_ms = self.findings.iter().filter_map(Finding::known_at_ms).max();
        match (failures, known_at_ms) {
            (0, None) => Conclusion::Balance,
            (0, Some(ask_again_ms)) => Conclusion::NotKnown { ask_again_ms },
            (failures, _) => Conclusion::Wrong { failures },
        }
    }

    /// Returns whether a repeated audit a moment later may have fewer findings.
    pub(super) fn may_settle(&self) -> bool {
        let moving = ["incomplete", "in_no_queue", "in_hand", "lost_batches"];
        self.findings.iter().any(|finding| moving.contains(&finding.name))
    }

    /// Returns the verdict as lines of text.
    pub(super) fn text(&self) -> Vec<String> {
        let mut lines = self.sums();
        lines.extend(self.left_over());
        lines.extend(self.audit.gaps.iter().map(gap));
        lines.extend(self.audit.lost.iter().map(gap_of));
        lines.extend(self.audit.set_aside.iter().map(aside));
        lines.extend(self.findings.iter().flat_map(Finding::text));
        lines.extend(self.conclusion_in_words());
        lines
    }

    /// Returns the window, the counts in it, and the queues.
    fn sums(&self) -> Vec<String> {
        let (since_ms, until_ms) = self.window_ms;
        let Audit {
            events,
            matched,
            first_runs,
            resends,
            ..
        } = &self.audit;
        let sign = if *matched == all(first_runs) { "=" } else { "!=" };
        let Queues {
            journal,
            dead,
            due,
            delayed,
            ..
        } = self.queues;
        vec![
            format!(
                "from     {} to {}",
                time::second(since_ms),
                time::second(until_ms)
            ),
            format!("events   {events}"),
            format!("matched  {matched} {sign} {}", sum(first_runs)),
            format!("resends  {} = {}", all(resends), sum(resends)),
            format!("queues   journal {journal}, dead {dead}, due {due}, delayed {delayed}"),
        ]
    }

    /// Returns what no sum contains: messages delayed by earlier schedules, rejected messages, and runs that
    /// were not sent.
    fn left_over(&self) -> Vec<String> {
        let (earlier, unsent) = (self.queues.earlier, self.audit.unsent);
        let mut lines = Vec::new();
        if earlier > 0 {
            lines.push(format!("         and {earlier} delayed by an earlier schedule"));
        }
        if !self.rejected.is_empty() {
            lines.push(format!(
                "rejected {}: no valid events, delivered to no endpoint; `magnetite rejected list` says why",
                rejected::by_reason(&self.rejected)
            ));
        }
        if unsent > 0 {
            lines.push(format!(
                "unsent   {unsent} were asked for again and not sent yet: to go on, run the same `magnetite endpoint recover` or \
                 `magnetite delivery resend` once more"
            ));
        }
        lines
    }

    /// Returns the result in words; `None` if findings have already said that something is wrong.
    fn conclusion_in_words(&self) -> Option<String> {
        let gaps = self.audit.gaps.len() + self.audit.lost.len() + self.audit.set_aside.len();
        match (self.conclusion(), gaps) {
            (Conclusion::Wrong { .. }, _) => None,
            (Conclusion::NotKnown { ask_again_ms }, _) => Some(format!(
                "unknown  it cannot be known yet whether the books balance: ask again at {}",
                time::second(ask_again_ms)
            )),
            (Conclusion::Balance, 0) => Some("ok       the books balance".to_owned()),
            (Conclusion::Balance, 1) => {
                Some("ok       the books balance, but for what the gap hides".to_owned())
            }
            (Conclusion::Balance, gaps) => Some(format!(
                "ok       the books balance, but for what the {gaps} gaps hide"
            )),
        }
    }

    /// Returns one object per line: the balance, the queues, each gap, each finding.
    pub(super) fn json(&self) -> Vec<Value> {
        let (since_ms, until_ms) = self.window_ms;
        let audit = &self.audit;
        let (verdict, ask_again_ms) = match self.conclusion() {
            Conclusion::Balance => ("ok", None),
            Conclusion::NotKnown { ask_again_ms } => ("unknown", Some(ask_again_ms)),
            Conclusion::Wrong { .. } => ("wrong", None),
        };
        let mut objects = vec![
            json!({
                "kind": "balance",
                "since_ms": since_ms,
                "until_ms": until_ms,
                "events": audit.events,
                "matched": audit.matched,
                "deliveries": view::states(&audit.first_runs),
                "resends": view::states(&audit.resends),
                "unsent": audit.unsent,
                "rejected": self.rejected.iter().map(|(_, count)| count).sum::<u64>(),
                "balances": verdict == "ok",
                "verdict": verdict,
                "ask_again_ms": ask_again_ms,
            }),
            json!({
                "kind": "queues",
                "journal": self.queues.journal,
                "dead": self.queues.dead,
                "due": self.queues.due,
                "delayed": self.queues.delayed,
                "delayed_by_earlier_schedules": self.queues.earlier,
                "held_by_workers": audit.held_by_workers,
            }),
        ];
        objects.extend(audit.gaps.iter().map(|gap| {
            json!({
                "kind": "gap",
                "worker": gap.worker,
                "from_ms": gap.from_ms,
                "until_ms": gap.until_ms,
                "count": (gap.count > 0).then_some(gap.count),
                "cause": "refused",
            })
        }));
        objects.extend(audit.lost.iter().map(gap_as_object));
        objects.extend(audit.set_aside.iter().map(aside_as_object));
        objects.extend(self.findings.iter().map(Finding::json));
        objects
    }
}

/// Describes records that a worker dropped.
fn gap(gap: &Gap) -> String {
    let (from, until) = (time::millisecond(gap.from_ms), time::millisecond(gap.until_ms));
    let worker = printable(&gap.worker);
    let count = match gap.count {
        0 => "an unknown number of".to_owned(),
        count => format!("up to {count}"),
    };
    format!("gap      worker {worker} dropped {count} records from {from} to {until}: the broker took none")
}

/// Describes records that are lost.
fn gap_of(lost: &Lost) -> String {
    let Lost {
        worker,
        from_ms,
        until_ms,
        cause,
        certain_in_ms,
    } = lost;
    let (worker, from, until) = (
        printable(worker),
        time::millisecond(*from_ms),
        time::millisecond(*until_ms),
    );
    match cause {
        LostCause::Dropping {
            is_heard: true,
            records_min,
        } => format!(
            "gap      worker {worker} has been dropping records since {from}, {records_min} so far: the broker takes none"
        ),
        LostCause::Dropping {
            is_heard: false,
            records_min,
        } => format!(
            "gap      worker {worker} ended at about {until} while it dropped records, since {from}: an unknown number of records, \
             at least {records_min}"
        ),
        LostCause::Missing { batches } | LostCause::MissingInTheEnd { batches } => {
            let come = if *certain_in_ms == 0 {
                "never came"
            } else {
                "have not come yet"
            };
            format!(
                "gap      batches {batches} of worker {worker}, made from {from} to {until}, {come}: an unknown number of records"
            )
        }
    }
}

fn gap_as_object(lost: &Lost) -> Value {
    let (cause, count_min, batches) = match lost.cause {
        LostCause::Dropping {
            is_heard: true,
            records_min,
        } => ("dropping", records_min, None),
        LostCause::Dropping {
            is_heard: false,
            records_min,
        } => ("ended_dropping", records_min, None),
        LostCause::Missing { batches } | LostCause::MissingInTheEnd { batches } => ("lost", 0, Some(batches)),
    };
    json!({
        "kind": "gap",
        "worker": lost.worker,
        "from_ms": lost.from_ms,
        "until_ms": lost.until_ms,
        "count": null,
        "count_min": count_min,
        "cause": cause,
        "batches": batches,
        "certain_in_ms": lost.certain_in_ms,
    })
}

/// Describes messages that recorders set aside.
fn aside(aside: &SetAside) -> String {
    let what = if aside.source == "dead" {
        "dead letters"
    } else {
        "messages of the journal"
    };
    let records = match aside.records() {
        Some(records) if aside.source == "journal" => format!("with {records} records"),
        Some(_) => "that are not in the books".to_owned(),
        None => "with an unknown number of records".to_owned(),
    };
    format!(
        "gap      {what} {} {records} were set aside from {} to {} ({}): `magnetite rejected list` has them, and once the reason is \
         gone `magnetite rejected redrive ID...` records them",
        aside.messages,
        time::millisecond(aside.from_ms),
        time::millisecond(aside.until_ms),
        printable(&aside.reason),
    )
}

fn aside_as_object(aside: &SetAside) -> Value {
    json!({
        "kind": "gap",
        "cause": "set_aside",
        "source": aside.source,
        "reason": aside.reason,
        "messages": aside.messages,
        "from_ms": aside.from_ms,
        "until_ms": aside.until_ms,
        "count": aside.records(),
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
