//! The time that is audited, and the statements about it.

use webhook::AttemptId;

use super::{
    super::totals::{self, MINUTE_MS, Minutes},
    AuditLimits, FINDINGS_MAX, GAPS_MAX,
    statements::{
        COUNT_DELIVERIES_OF_EVENTS, COUNT_PENDING, FIND_LATE, FIND_UNBALANCED, FIND_UNRECORDED, SELECT_GAPS,
    },
};
use crate::statement::Statement;

/// What belongs together is recorded at about the same time, in milliseconds. What is found missing within
/// that is looked for everywhere before it is reported.
const NEAR_MS: u64 = 60_000;

/// So far may the clocks of two hosts be apart, in milliseconds, that recorded an event and its deliveries.
const SKEW_MS: u64 = 3_600_000;

/// A delivery that is due within this time, in milliseconds, may have left its queue already.
const LEAVING_MS: u64 = 2_000;

/// Whole minutes, with what counts as late and as missing in them.
pub(super) struct Window {
    pub(super) since_ms: u64,
    pub(super) until_ms: u64,
    pub(super) limits: AuditLimits,
    first_attempt: AttemptId,
    end_of_attempts: AttemptId,
}

impl Window {
    /// Whole minutes, as there are totals of them.
    pub(super) fn new(since_ms: u64, until_ms: u64, limits: AuditLimits) -> Self {
        let since_ms = since_ms / MINUTE_MS * MINUTE_MS;
        // The last whole minute that an attempt's id can hold.
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

    /// All minutes in which attempts of the window's deliveries may have begun: those before the first that
    /// there are totals of, and the others.
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

    /// From when until when gaps explain what was recorded from `since_ms` until the window's end: also
    /// shortly before, and after.
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
        let mut statement = self.of(FIND_UNBALANCED);
        statement.arguments.extend(near.map(Into::into));
        statement.arguments.push(FINDINGS_MAX.into());
        statement.arguments.push(self.limits.late_ms.into());
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
