//! The possible findings of an audit, in words, with what to do about each.

use std::time::Duration;

use runtime::time;
use store::{Audit, Findings, Late, Lost, LostCause, Unbalanced, Unrecorded, Vanished};

use super::{Marked, Queues};

/// The time after which to run the audit again if records are not written yet, in milliseconds.
const ASK_AGAIN_MS: u64 = 10_000;

/// Something that is wrong, or that may be.
#[derive(Debug)]
pub struct Finding {
    /// An identifier for scripts.
    pub name: &'static str,
    /// The number of affected items.
    pub count: u64,
    /// How many of them no gap explains.
    pub unexplained: u64,
    /// When the finding can be known, in Unix milliseconds; `None` if it is known already.
    known_at_ms: Option<u64>,
    /// What is wrong.
    pub detail: String,
    /// What to do about it.
    pub next: String,
    /// The ids of the affected items that are listed.
    pub ids: Vec<String>,
}

impl Finding {
    /// Returns whether any of the items is not explained by a gap.
    pub fn is_unexplained(&self) -> bool {
        self.unexplained > 0
    }

    /// Returns whether this is known to be wrong.
    pub fn fails(&self) -> bool {
        self.is_unexplained() && self.known_at_ms.is_none()
    }

    /// Returns when it can be known whether this is wrong; `None` if it is known already, or if gaps explain
    /// it.
    pub fn known_at_ms(&self) -> Option<u64> {
        self.known_at_ms.filter(|_| self.is_unexplained())
    }

    /// Sets the earliest time at which this can be known, unless that is later already.
    pub(super) fn known_at(mut self, at_ms: u64) -> Self {
        self.known_at_ms = Some(self.known_at_ms.map_or(at_ms, |known_ms| known_ms.max(at_ms)));
        self
    }
}

/// Returns a finding if the recorders have not written everything yet. While they have not, none of the
/// findings that it may explain is certain.
pub(super) fn incomplete(queues: Queues, marked: &Marked, heard: u64, now_ms: u64) -> Option<Finding> {
    let silent = queues.recorders.saturating_sub(heard);
    let (count, detail, next) = match marked {
        Marked::Refused { error } => (
            1,
            format!("the journal's queue does not accept messages ({error}), so workers drop records"),
            "the queue is full, or the broker has an alarm: start a recorder, or run `magnetite doctor`; then run the audit again",
        ),
        Marked::NotYet { since_ms } => (
            queues.unrecorded().max(1),
            format!(
                "messages that are not in the books yet (no recorder has written what was in the journal's queue at {})",
                time::second(*since_ms)
            ),
            "the recorders' database is locked, full or unavailable, or the recorders do not keep up: see their logs, then run the audit again",
        ),
        Marked::Recorded if queues.unrecorded() > 0 => (
            queues.unrecorded(),
            format!(
                "messages that are not in the books yet (in the journal's queue {}, dead letters {})",
                queues.journal, queues.dead
            ),
            "start a recorder (`magnetite recorder`), or another one if one is running; then run the audit again",
        ),
        Marked::Recorded if silent > 0 => (
            silent,
            "connected recorders that have not announced themselves for 3 seconds (their messages are not in the books yet)".to_owned(),
            "the recorder's process is stopped, or cannot reach the database: see its log, or end the process; then run the audit again",
        ),
        Marked::Recorded => return None,
    };
    let finding = Finding {
        name: "incomplete",
        count,
        unexplained: count,
        known_at_ms: None,
        detail,
        next: next.to_owned(),
        ids: Vec::new(),
    };
    Some(finding.known_at(now_ms.saturating_add(ASK_AGAIN_MS)))
}

/// Returns a finding for batches that the broker confirmed and that no recorder has received. Batches that a
/// worker dropped are excluded, because the worker reports them itself. If the loss of some batches is
/// certain, counts only those; otherwise, counts those that may be lost.
pub(super) fn lost_batches(lost: &[Lost], now_ms: u64) -> Option<Finding> {
    let batches = lost.iter().filter_map(|lost| match lost.cause {
        LostCause::Missing { batches } | LostCause::MissingInTheEnd { batches } => {
            Some((batches, lost.certain_in_ms))
        }
        LostCause::Dropping { .. } => None,
    });
    let (certain, others): (Vec<_>, Vec<_>) = batches.partition(|(_, certain_in_ms)| *certain_in_ms == 0);
    let is_certain = !certain.is_empty();
    let shown = if is_certain { &certain } else { &others };
    let count: u64 = shown.iter().map(|(batches, _)| batches).sum();
    let certain_in_ms = shown.iter().map(|(_, certain_in_ms)| *certain_in_ms).max();
    (count > 0).then(|| Finding {
        name: "lost_batches",
        count,
        unexplained: count,
        known_at_ms: certain_in_ms
            .filter(|_| !is_certain)
            .map(|in_ms| now_ms.saturating_add(in_ms)),
        detail: "batches of the journal that no recorder has received, each with an unknown number of records".to_owned(),
        next: "the journal's queue was purged or deleted, a policy drops its messages (`magnetite doctor` names it), or a \
               recorder older than the workers ran: deliveries from that time may be missing from the books"
            .to_owned(),
        ids: Vec::new(),
    })
}

/// Returns a finding if the sums differ although every single event has the right number of deliveries.
pub(super) fn unequal(audit: &Audit) -> Option<Finding> {
    let count = audit.matched.abs_diff(audit.first_runs.total());
    (count > 0 && audit.unbalanced.total == 0).then(|| Finding {
        name: "unequal",
        count,
        unexplained: count,
        known_at_ms: None,
        detail: "the matched deliveries differ from the sum of their outcomes, although every event has its deliveries"
            .to_owned(),
        next: "the clocks of two workers' hosts are probably more than an hour apart: synchronize them".to_owned(),
        ids: Vec::new(),
    })
}

pub(super) fn unbalanced(found: &Findings<Unbalanced>) -> Option<Finding> {
    finding(
        "unbalanced",
        found,
        |event| event.event_id.as_str(),
        "events with fewer or more deliveries than matching endpoints, or deliveries without their event".to_owned(),
        "`magnetite event show ID` shows which are missing; rows were deleted by hand, or records were lost without a gap"
            .to_owned(),
    )
}

/// Returns a finding for missing events whose records may still arrive. After [`IN_HAND`](crate::resend::IN_HAND),
/// [`unbalanced`] reports them.
pub(super) fn awaited(audit: &Audit, in_hand_ms: u64) -> Option<Finding> {
    let finding = finding(
        "awaited",
        &audit.awaited,
        |event| event.event_id.as_str(),
        "deliveries without their event, created more than 10 s ago (the record of the event may still arrive)".to_owned(),
        "repeat the audit when this can be known: it then reports lost records as such".to_owned(),
    )?;
    Some(finding.known_at(audit.awaited_until_ms.saturating_add(in_hand_ms)))
}

pub(super) fn unrecorded(found: &Findings<Unrecorded>) -> Option<Finding> {
    finding(
        "unrecorded",
        found,
        |delivery| delivery.delivery_id.as_str(),
        "deliveries that had more attempts than are recorded".to_owned(),
        "`magnetite delivery show ID` shows the recorded attempts; rows were deleted by hand, or records were lost without a gap"
            .to_owned(),
    )
}

pub(super) fn late_ones(found: &Findings<Late>, late: Duration) -> Option<Finding> {
    finding(
        "late",
        found,
        |delivery| delivery.delivery_id.as_str(),
        format!(
            "deliveries pending for longer than {}, the maximum for all attempts and waits",
            time::span(late.as_millis() as u64)
        ),
        "check that a worker is running and reports no faults; if so, a queue was probably purged or deleted, and `magnetite \
         delivery resend ID...` sends them again"
            .to_owned(),
    )
}

/// Returns a finding for pending deliveries that are in no queue. Those that may have ended in a gap are
/// counted as explained, since it is not known which deliveries the queues contain.
pub(super) fn nowhere(audit: &Audit, queues: Queues, late: Duration) -> Option<Finding> {
    let pending_settled = audit.pending_settled;
    let missing = pending_settled.saturating_sub(queues.waiting());
    let count = missing.min(nowhere_at_all(audit, queues));
    (count > 0).then(|| Finding {
        name: "in_no_queue",
        count,
        unexplained: count.saturating_sub(audit.pending_in_gaps),
        known_at_ms: None,
        detail: format!(
            "pending deliveries that are in no queue (expected in queues {pending_settled}, found {})",
            queues.waiting()
        ),
        next: format!(
            "a queue was probably purged or deleted: the audit lists lost deliveries by id {} after they were created or sent again",
            time::span(late.as_millis() as u64)
        ),
        ids: Vec::new(),
    })
}

/// Returns a finding for rows that were recorded, were not deleted by retention, and are missing.
pub(super) fn vanished(found: &Vanished) -> Option<Finding> {
    let Vanished {
        events,
        matched: _,
        deliveries,
        attempts,
        first_ms,
    } = *found;
    let count = events + deliveries + attempts;
    let since = first_ms.map_or_else(String::new, |at_ms| {
        format!(", the first from {}", time::second(at_ms))
    });
    (!found.is_empty()).then(|| Finding {
        name: "vanished",
        count: count.max(1),
        unexplained: count.max(1),
        known_at_ms: None,
        detail: format!(
            "rows that were recorded and are missing (events {events}, deliveries {deliveries}, attempts {attempts}{since})"
        ),
        next: "rows of the journal were deleted or changed by hand, or by another program: restore them from a backup"
            .to_owned(),
        ids: Vec::new(),
    })
}

/// Returns the number of pending deliveries that are neither in a queue nor reported by a worker as in hand.
fn nowhere_at_all(audit: &Audit, queues: Queues) -> u64 {
    let pending = audit.pending_settled + audit.pending_in_hand;
    pending.saturating_sub(queues.waiting() + audit.held_by_workers)
}

/// Returns a finding for recently due deliveries that are in no queue. Within
/// [`IN_HAND`](crate::resend::IN_HAND) of being due, a delivery may be in the hands of a worker that has
/// not reported it yet. After that, other findings report it.
pub(super) fn in_hand(audit: &Audit, queues: Queues, in_hand_ms: u64) -> Option<Finding> {
    let known_to_miss = audit.pending_settled.saturating_sub(queues.waiting());
    let count = nowhere_at_all(audit, queues).saturating_sub(known_to_miss);
    (count > 0).then(|| {
        let finding = Finding {
            name: "in_hand",
            count,
            unexplained: count,
            known_at_ms: None,
            detail: format!(
                "deliveries that were due recently and are in no queue (workers may hold them; they report that they hold {})",
                audit.held_by_workers
            ),
            next: "repeat the audit when this can be known: it then reports lost deliveries as such".to_owned(),
            ids: Vec::new(),
        };
        finding.known_at(audit.in_hand_until_ms.saturating_add(in_hand_ms))
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
        known_at_ms: None,
        detail,
        next,
        ids: found.items.iter().map(|item| id(item).to_owned()).collect(),
    })
}
