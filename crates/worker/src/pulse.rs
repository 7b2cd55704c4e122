//! Detects stalls: periods in which this process did not run.
//!
//! After a worker was stopped, suspended or starved of CPU time for seconds, its attempts are past their
//! deadline, and endpoints have closed connections, although they may have responded in time. To detect this,
//! a task ticks regularly and does nothing else. It stores when it last ticked, and when the last gap of more
//! than [`STALL_MIN`] ended.
//!
//! - A failed attempt that overlaps a stall is not charged.
//! - After a stall no attempt begins until the worker has checked for changed endpoints, because a process
//!   that changed an endpoint may not have waited for this worker.
//!
//! Two clocks are compared. The monotonic clock continues while the process is stopped (SIGSTOP, a debugger,
//! swapping, a throttled or frozen container), but not while the whole machine is suspended. After a
//! suspension the wall clock has advanced, as soon as it has been set. The wall clock may also have been set
//! for another reason; the only consequence is that a failure is not charged, which costs one more attempt. A
//! stall cannot be detected if a virtual machine was paused and its wall clock was not set afterwards.

use std::{
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};

use crate::{meters, now_ms};

/// The interval between two ticks.
const TICK: Duration = Duration::from_millis(100);
/// The minimum length of a gap that counts as a stall: much longer than a task waits on a busy machine, and
/// much shorter than an attempt's timeout.
const STALL_MIN: Duration = Duration::from_secs(1);

/// Tracks when this process ran.
#[derive(Debug)]
pub(crate) struct Pulse {
    began: Moment,
    /// The last tick by the monotonic clock, here, and by the wall clock, in the next field, in milliseconds
    /// since `began`.
    ticked_ms: AtomicU64,
    ticked_wall_ms: AtomicU64,
    /// When the last stall ended, by the monotonic clock, in milliseconds since `began`; 0 before the first
    /// stall.
    stalled_until_ms: AtomicU64,
    /// Whether a stall has ended and the worker has not checked for changed endpoints yet.
    is_behind: AtomicBool,
    /// Notified at every tick while `is_behind` is false.
    steady: Notify,
}

/// One moment by both clocks. The wall clock is in Unix milliseconds.
type Moment = (Instant, u64);

fn now() -> Moment {
    (Instant::now(), now_ms())
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self::at(now())
    }

    fn at(began: Moment) -> Self {
        Self {
            began,
            ticked_ms: AtomicU64::new(0),
            ticked_wall_ms: AtomicU64::new(0),
            stalled_until_ms: AtomicU64::new(0),
            is_behind: AtomicBool::new(false),
            steady: Notify::new(),
        }
    }

    /// Ticks forever, and calls `ticked` at each tick. After a stall, runs `catch_up`, which has to complete
    /// by itself. Another stall in the meantime starts `catch_up` again.
    pub(crate) async fn run<F: Future<Output = ()>>(&self, catch_up: impl Fn() -> F, ticked: impl Fn()) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut catching_up = pin!(None);
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => {
                    if let Some(gap) = self.tick(now()) {
                        meters::STALLS.count([]).increment(1);
                        tracing::warn!(
                            gap_ms = gap.as_millis() as u64,
                            "this process was stalled: stopped, suspended or starved; attempts that failed meanwhile are not charged, \
                             and the worker checks for changed endpoints before the next attempt"
                        );
                        catching_up.set(Some(catch_up()));
                    }
                    ticked();
                }
                () = finished(catching_up.as_mut().as_pin_mut()) => {
                    catching_up.set(None);
                    self.caught_up(now());
                }
            }
        }
    }

    /// Waits until the worker has caught up after a stall. Returns at once if it has.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub(crate) async fn steady(&self) {
        while self.is_behind(now()) {
            let mut steady = pin!(self.steady.notified());
            steady.as_mut().enable();
            if self.is_behind(now()) {
                steady.await;
            }
        }
    }

    fn is_behind(&self, now: Moment) -> bool {
        self.is_behind.load(Ordering::Acquire) || self.gap(now) >= STALL_MIN
    }

    /// Notes that `catch_up` has completed. It does not count if the process was stalled again meanwhile; the
    /// next tick detects that.
    fn caught_up(&self, now: Moment) {
        if self.gap(now) < STALL_MIN {
            self.is_behind.store(false, Ordering::Release);
            self.steady.notify_waiters();
        }
    }

    /// Returns whether this process was stalled at any time since `began`.
    pub(crate) fn stalled_since(&self, began: Instant) -> bool {
        self.stalled_between(began, now())
    }

    fn stalled_between(&self, began: Instant, now: Moment) -> bool {
        // After a stall, another task may run before the one that ticks.
        self.gap(now) >= STALL_MIN || self.stalled_until_ms.load(Ordering::Acquire) > self.since_began(began)
    }

    /// Records a tick. Returns the gap since the previous tick if it counts as a stall.
    fn tick(&self, now: Moment) -> Option<Duration> {
        let gap = Some(self.gap(now)).filter(|gap| *gap >= STALL_MIN);
        let (at_ms, wall_ms) = (self.since_began(now.0), self.wall_since_began(now.1));
        if gap.is_some() {
            self.is_behind.store(true, Ordering::Release);
            self.stalled_until_ms.store(at_ms.max(1), Ordering::Release);
        }
        self.ticked_ms.store(at_ms, Ordering::Release);
        self.ticked_wall_ms.store(wall_ms, Ordering::Release);
        if !self.is_behind.load(Ordering::Acquire) {
            self.steady.notify_waiters();
        }
        gap
    }

    /// Returns the time since the last tick, by the clock that measures the longer time.
    fn gap(&self, now: Moment) -> Duration {
        let monotonic = self
            .since_began(now.0)
            .saturating_sub(self.ticked_ms.load(Ordering::Acquire));
        let wall = self
            .wall_since_began(now.1)
            .saturating_sub(self.ticked_wall_ms.load(Ordering::Acquire));
        Duration::from_millis(monotonic.max(wall))
    }

    fn since_began(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began.0).as_millis() as u64
    }

    fn wall_since_began(&self, at_ms: u64) -> u64 {
        at_ms.saturating_sub(self.began.1)
    }
}

/// Waits for a future. Never returns if there is none.
async fn finished(future: Option<Pin<&mut impl Future<Output = ()>>>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::yield_now;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after((instant, wall_ms): Moment, monotonic: Duration, by_wall: Duration) -> Moment {
        (instant + monotonic, wall_ms + by_wall.as_millis() as u64)
    }

    /// Returns a pulse that has ticked regularly for this many seconds.
    fn ran_for(began: Moment, seconds: u32) -> Pulse {
        let pulse = Pulse::at(began);
        for tick in 1..=seconds * 10 {
            assert_eq!(pulse.tick(after(began, tick * TICK, tick * TICK)), None);
        }
        pulse
    }

    #[test]
    fn a_process_that_ran_has_not_stalled() {
        let began = now();
        let pulse = ran_for(began, 60);
        let at = after(began, 60 * SECOND, 60 * SECOND);
        assert!(!pulse.stalled_between(began.0, at));
    }

    #[test]
    fn a_stall_is_known_before_the_next_tick_and_after_it() {
        let began = now();
        let pulse = ran_for(began, 10);
        let resumed = after(began, 15 * SECOND, 15 * SECOND);
        for attempt_s in [0, 9, 12] {
            assert!(
                pulse.stalled_between(began.0 + attempt_s * SECOND, resumed),
                "{attempt_s}"
            );
        }
        assert_eq!(pulse.tick(resumed), Some(5 * SECOND));
        let later = after(began, 15 * SECOND + TICK, 15 * SECOND + TICK);
        pulse.tick(later);
        assert!(pulse.stalled_between(began.0 + 9 * SECOND, later));
        assert!(
            !pulse.stalled_between(began.0 + 15 * SECOND, later),
            "the attempt began after the stall"
        );
    }

    #[test]
    fn a_machine_that_was_suspended_shows_it_by_the_wall_clock() {
        let began = now();
        let pulse = ran_for(began, 10);
        let resumed = after(began, 10 * SECOND + TICK, 50 * SECOND);
        assert!(pulse.stalled_between(began.0, resumed));
        assert!(pulse.tick(resumed).is_some());
        assert!(pulse.stalled_between(began.0 + 9 * SECOND, resumed));
    }

    #[test]
    fn a_wall_clock_that_is_set_back_is_no_stall() {
        let began = now();
        let pulse = ran_for(began, 10);
        let back = after(began, 10 * SECOND + TICK, 2 * SECOND);
        assert!(!pulse.stalled_between(began.0, back));
        assert_eq!(pulse.tick(back), None);
        let on = after(began, 10 * SECOND + 2 * TICK, 2 * SECOND + TICK);
        assert_eq!(pulse.tick(on), None);
    }
    #[tokio::test]
    async fn after_a_stall_attempts_wait_until_what_was_missed_was_looked_for() {
        let began = now();
        let pulse = Arc::new(ran_for(began, 10));
        pulse.steady().await;
        let resumed = after(began, 15 * SECOND, 15 * SECOND);
        assert!(pulse.is_behind(resumed), "before the next tick");
        pulse.tick(resumed);
        let waiting = tokio::spawn({
            let pulse = Arc::clone(&pulse);
            async move { pulse.steady().await }
        });
        let later = after(began, 15 * SECOND + TICK, 15 * SECOND + TICK);
        pulse.tick(later);
        yield_now().await;
        assert!(!waiting.is_finished(), "ticking is not enough");
        pulse.caught_up(after(began, 20 * SECOND, 20 * SECOND));
        yield_now().await;
        assert!(!waiting.is_finished(), "the process stalled again meanwhile");
        pulse.caught_up(later);
        waiting.await.unwrap();
    }
}
