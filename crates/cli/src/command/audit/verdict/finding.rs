//! What can be wrong, in words, with what to do about it.

use std::time::Duration;

use serde_json::{Value, json};
use store::{Audit, Findings, Late, Unbalanced, Unrecorded};

use crate::{moment, output::printable};

use super::Queues;

/// Something that is not right.
#[derive(Debug)]
pub(super) struct Finding {
    /// A word for scripts.
    pub(super) name: &'static str,
    /// How many, and how many of them no gap explains.
    count: u64,
    unexplained: u64,
    detail: String,
    next: String,
    /// As many as are listed.
    ids: Vec<String>,
}

impl Finding {
    pub(super) fn fails(&self) -> bool {
        self.unexplained > 0
    }

    pub(super) fn text(&self) -> Vec<String> {
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

    pub(super) fn json(&self) -> Value {
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

pub(super) fn incomplete(queues: Queues) -> Option<Finding> {
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

pub(super) fn unbalanced(found: &Findings<Unbalanced>) -> Option<Finding> {
    finding(
        "unbalanced",
        found,
        |event| event.event_id.as_str(),
        "events with fewer or more deliveries than endpoints that matched, or deliveries without their event".to_owned(),
        "`magnetite event show ID` says which is missing; rows were deleted by hand, or records lost without a gap"
            .to_owned(),
    )
}

pub(super) fn unrecorded(found: &Findings<Unrecorded>) -> Option<Finding> {
    finding(
        "unrecorded",
        found,
        |delivery| delivery.delivery_id.as_str(),
        "deliveries that had more attempts than are recorded".to_owned(),
        "`magnetite delivery show ID` prints those there are; rows were deleted by hand, or records lost without a gap"
            .to_owned(),
    )
}

pub(super) fn late_ones(found: &Findings<Late>, late: Duration) -> Option<Finding> {
    finding(
        "late",
        found,
        |delivery| delivery.delivery_id.as_str(),
        format!(
            "deliveries unaccounted for, pending for longer than the {} that all attempts take",
            moment::span(late.as_millis() as u64)
        ),
        "is a worker running? if so they are lost, with a queue that was purged or deleted: `magnetite delivery resend \
         ID...` sends them again"
            .to_owned(),
    )
}

/// What may have ended in a gap is not looked for in the queues first: which ones stand there nobody can tell.
pub(super) fn nowhere(audit: &Audit, queues: Queues, late: Duration) -> Option<Finding> {
    let pending_settled = audit.pending_settled;
    let count = pending_settled.saturating_sub(queues.waiting());
    (count > 0).then(|| Finding {
        name: "in_no_queue",
        count,
        unexplained: count.saturating_sub(audit.pending_in_gaps),
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

fn finding<T>(
    name: &'static str,
    found: &Findings<T>,
    id: impl Fn(&T) -> &str,
    detail: String,
    next: String,
) -> Option<Finding> {
    (found.total > 0).then(|| Finding {
        name,
        count: found.total,
        unexplained: found.total.saturating_sub(found.in_gaps),
        detail,
        next,
        ids: found.items.iter().map(|item| id(item).to_owned()).collect(),
    })
}
