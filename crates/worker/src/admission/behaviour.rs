//! What is known of an endpoint.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use webhook::OrganizationId;

use super::pace::Pace;

/// The recent behaviour of an endpoint on this worker, and what it holds.
pub(super) struct Behaviour {
    pub(super) organization: OrganizationId,
    /// The slots held, oldest first, with the time each was taken.
    pub(super) held: VecDeque<(u64, Instant)>,
    /// The number of slow slots held.
    pub(super) slow: usize,
    pub(super) waiting: usize,
    pub(super) pace: Pace,
    /// Whether an attempt has succeeded or failed.
    pub(super) tried: bool,
    /// Whether the last attempt failed or was slow.
    pub(super) suspect: bool,
    /// Whether the last attempt ended within [`QUICK`](super::shares).
    pub(super) quick: bool,
}

impl Behaviour {
    pub(super) fn new(organization: OrganizationId) -> Self {
        Self {
            organization,
            held: VecDeque::new(),
            slow: 0,
            waiting: 0,
            pace: Pace::default(),
            tried: false,
            suspect: false,
            quick: false,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.held.is_empty() && self.slow == 0 && self.waiting == 0
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspect || self.slow > 0
    }

    /// Returns how many of its slots count as unwell.
    pub(super) fn unwell(&self) -> usize {
        if self.is_well() {
            0
        } else {
            self.held.len().saturating_sub(self.trusted())
        }
    }

    /// Returns whether one more slot would count as unwell.
    pub(super) fn next_is_unwell(&self) -> bool {
        !self.is_well() && self.held.len() >= self.trusted()
    }

    pub(super) fn is_well(&self) -> bool {
        self.tried && !self.is_suspect()
    }

    /// Returns how many slots an unwell endpoint may hold without counting as unwell: one, if it was never
    /// tried or has just failed quickly.
    ///
    /// Otherwise a healthy endpoint that responds to one request with 500 would wait for endpoints that hang.
    pub(super) fn trusted(&self) -> usize {
        usize::from(self.slow == 0 && (!self.tried || self.quick))
    }

    /// Removes a slot from those held, and returns how long it was held.
    pub(super) fn release(&mut self, id: u64, now: Instant) -> Option<Duration> {
        let at = self.held.iter().position(|(held, _)| *held == id)?;
        let (_, since) = self.held.remove(at)?;
        Some(now.duration_since(since))
    }
}
