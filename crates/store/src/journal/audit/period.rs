//! The audited window of time, and the statements about it.

use webhook::AttemptId;

use super::{
    super::totals::{self, MINUTE_MS, Minutes},
    AuditLimits, FINDINGS_MAX, GAPS_MAX,
    statements::{
        COUNT_DELIVERIES_OF_EVENTS, COUNT_PENDING, FIND_LATE, FIND_UNBALANCED, FIND_UNRECORDED, SELECT_GAPS,
    },
};
use crate::statement::Statement;

/// The margin around the window in which related rows are searched first, in milliseconds. Related rows are
/// recorded at about the same time. A row that is missing within this margin is searched everywhere before it
/// is reported.
const NEAR_MS: u64 = 60_000;

/// The maximum clock skew, in milliseconds, between the hosts that recorded an event and its deliveries.
const SKEW_MS: u64 = 3_600_000;

/// How long before it is due, in milliseconds, a delivery may already have left its queue.
const LEAVING_MS: u64 = 2_000;

/// How long after the first delivery of an event the record of the event may arrive without being missed, in
/// milliseconds. Under load there are always events whose record is a little later than that of a delivery.
const RECORDED_MS: u64 = 10_000;

/// A window of whole minutes, with the limits for what is late and what is missing.
pub(super) struct Period {
    pub(super) since_ms: u64,
    pub(super) until_ms: u64,
    pub(super) limits: AuditLimits,
    first_attempt: AttemptId,
    end_of_attempts: AttemptId,
}

impl Period {
    /// Creates a window of whole minutes, because the totals are by minute.
    pub(super) fn new(since_ms: u64, until_ms: u64, limits: AuditLimits) -> Self {
        let since_ms = since_ms / MINUTE_MS * MINUTE_MS;
        // At most the last whole minute that an attempt's id can represent.
        let until_ms = until_ms
            .min(totals::ATTEMPT_MS_MAX - MINUTE_MS)
            .next_multiple_of(MINUTE_MS);
        let attempts_until_ms = until_ms.saturating_add(limits.late_ms);
        Self {
            since_ms,
            until_ms,
            limits,
            first_attempt: AttemptId::first_at(since_ms.saturating_sub(NEAR_MS)),
            end_of_attempts: AttemptId::first_at(attempts_until_ms.min(totals::ATTEMPT_MS_MAX)),
        }
    }

    /// Returns all minutes in which attempts of the window's deliveries may have begun: those before the
    /// first minute with totals, and the others.
    pub(super) fn attempts(&self, first_ms: Option<u64>) -> [Minutes; 2] {
        Minutes::split(
            self.since_ms.saturating_sub(NEAR_MS),
            totals::ATTEMPT_MS_MAX,
            first_ms,
        )
    }

    pub(super) fn of(&self, sql: &'static str) -> Statement<'_> {
        Statement::with(sql, [self.since_ms.into(), self.until_ms.into()])
    }

    pub(super) fn deliveries_of_events(&self) -> Statement<'_> {
        let mut statement = self.of(COUNT_DELIVERIES_OF_EVENTS);
        let near = [
            self.since_ms.saturating_sub(SKEW_MS),
            self.until_ms.saturating_add(SKEW_MS),
        ];
        statement.arguments.extend(near.map(Into::into));
        statement
    }

    pub(super) fn gaps(since_ms: u64, until_ms: u64) -> Statement<'static> {
        Statement::with(SELECT_GAPS, [since_ms.into(), until_ms.into(), GAPS_MAX.into()])
    }

    /// Returns the period whose gaps explain rows that were recorded from `since_ms` until the window's end.
    /// It begins `late_ms` earlier and ends `late_ms` later.
    pub(super) fn explained_by(&self, since_ms: u64) -> (u64, u64) {
        let late_ms = self.limits.late_ms;
        (
            since_ms.saturating_sub(late_ms),
            self.until_ms.saturating_add(late_ms),
        )
    }

    pub(super) fn pending(&self, gaps: &str) -> Statement<'_> {
        let AuditLimits {
            now_ms,
            in_hand_ms,
            late_ms,
            ..
        } = self.limits;
        let bounds = [
            now_ms.saturating_add(LEAVING_MS),
            now_ms.saturating_sub(in_hand_ms),
            late_ms,
        ];
        Statement::with(COUNT_PENDING, bounds.map(Into::into)).with_gaps(gaps)
    }

    pub(super) fn unbalanced(&self, gaps: &str) -> Statement<'_> {
        let near = [
            self.since_ms.saturating_sub(NEAR_MS),
            self.until_ms.saturating_add(NEAR_MS),
        ];
        let AuditLimits {
            now_ms,
            in_hand_ms,
            late_ms,
            ..
        } = self.limits;
        let mut statement = self.of(FIND_UNBALANCED);
        statement.arguments.extend(near.map(Into::into));
        statement.arguments.push(FINDINGS_MAX.into());
        let times = [
            late_ms,
            now_ms.saturating_sub(RECORDED_MS.min(in_hand_ms)),
            now_ms.saturating_sub(in_hand_ms),
        ];
        statement.arguments.extend(times.map(Into::into));
        statement.with_gaps(gaps)
    }

    pub(super) fn unrecorded(&self, gaps: &str) -> Statement<'_> {
        let mut statement = self.of(FIND_UNRECORDED);
        statement.arguments.push(self.first_attempt.as_str().into());
        statement.arguments.push(self.end_of_attempts.as_str().into());
        statement.arguments.push(FINDINGS_MAX.into());
        statement.arguments.push(self.limits.late_ms.into());
        statement.with_gaps(gaps)
    }

    pub(super) fn late(&self, gaps: &str) -> Statement<'_> {
        let late = self.limits.now_ms.saturating_sub(self.limits.late_ms);
        let mut statement = self.of(FIND_LATE);
        statement.arguments.extend([late.into(), FINDINGS_MAX.into()]);
        statement.arguments.push(self.limits.late_ms.into());
        statement.with_gaps(gaps)
    }
}
