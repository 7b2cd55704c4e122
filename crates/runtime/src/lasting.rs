//! Decides how often a lasting condition is logged: when it begins, then once a minute, and when it ends.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// The minimum time between two log lines about a condition that persists.
const REPEAT_EVERY: Duration = Duration::from_mins(1);

/// The maximum number of beginnings logged per minute. A condition that comes and goes more often counts as
/// one that persists.
const BEGINNINGS_MAX: u32 = 3;

/// A condition that lasts, such as an unavailable database. It decides which repetitions are logged; the
/// caller logs them.
///
/// The condition begins with the first call of [`again`](Self::again) and lasts until [`end`](Self::end). At
/// most seven lines per minute are logged, regardless of how often the condition repeats, begins and ends.
///
/// ```
/// # fn ask() -> Result<(), std::io::Error> { Ok(()) }
/// let away = runtime::Lasting::new();
/// match ask() {
///     Ok(()) => {
///         if let Some(ended) = away.end() {
///             println!("it answers again after {} failures", ended.times);
///         }
///     }
///     Err(error) => {
///         if let Some(report) = away.again() {
///             println!("no answer: {error}; {} failures since it began", report.times);
///         }
///     }
/// }
/// ```
#[derive(Debug, Default)]
pub struct Lasting {
    /// Whether the condition holds. It lets most calls of `end` return without locking `state`.
    holds: AtomicBool,
    state: Mutex<State>,
}

/// The details to log about a lasting condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// How often the condition has occurred since it began.
    pub times: u64,
    /// How many occurrences were not logged since the last line.
    pub unlogged: u64,
    /// How long the condition has lasted.
    pub lasted: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// When the condition began; `None` while it does not hold.
    since: Option<Instant>,
    times: u64,
    unlogged: u64,
    /// When an occurrence was last logged; `None` before the first.
    logged: Option<Instant>,
    /// Whether this episode was logged. Only then its end is logged too.
    is_known: bool,
    /// When the current minute of counting beginnings started; `None` before the first beginning.
    counted_from: Option<Instant>,
    /// How many beginnings were counted since then.
    beginnings: u32,
}

impl Lasting {
    /// Creates a condition that does not hold.
    pub const fn new() -> Self {
        let state = State {
            since: None,
            times: 0,
            unlogged: 0,
            logged: None,
            is_known: false,
            counted_from: None,
            beginnings: 0,
        };
        Self {
            holds: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// Notes that the condition occurred, for the first time or again. Returns what to log, or `None` if this
    /// occurrence is not to be logged.
    pub fn again(&self) -> Option<Report> {
        self.again_at(Instant::now())
    }

    /// Notes that the condition does not hold any more. Returns what to log, or `None` if it did not hold or
    /// none of it was logged.
    pub fn end(&self) -> Option<Report> {
        self.end_at(Instant::now())
    }

    /// Returns whether the condition holds.
    pub fn holds(&self) -> bool {
        self.holds.load(Ordering::Acquire)
    }

    fn again_at(&self, now: Instant) -> Option<Report> {
        let mut state = self.lock();
        self.holds.store(true, Ordering::Release);
        let begins = state.since.is_none();
        let since = *state.since.get_or_insert(now);
        if begins {
            (state.times, state.is_known) = (0, false);
        }
        state.times += 1;
        if !(state.is_repeated_at(now) || begins && state.takes_beginning_at(now)) {
            state.unlogged += 1;
            return None;
        }
        (state.logged, state.is_known) = (Some(now), true);
        Some(Report {
            times: state.times,
            unlogged: std::mem::take(&mut state.unlogged),
            lasted: now.saturating_duration_since(since),
        })
    }

    fn end_at(&self, now: Instant) -> Option<Report> {
        if !self.holds() {
            return None;
        }
        let mut state = self.lock();
        self.holds.store(false, Ordering::Release);
        let since = state.since.take()?;
        state.is_known.then(|| Report {
            times: state.times,
            unlogged: std::mem::take(&mut state.unlogged),
            lasted: now.saturating_duration_since(since),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns whether the last logged occurrence is a minute old.
    fn is_repeated_at(&self, now: Instant) -> bool {
        self.logged
            .is_some_and(|logged| now.saturating_duration_since(logged) >= REPEAT_EVERY)
    }

    /// Counts a beginning. Returns whether it is among the first [`BEGINNINGS_MAX`] within a minute.
    fn takes_beginning_at(&mut self, now: Instant) -> bool {
        let is_over = |from: Instant| now.saturating_duration_since(from) >= REPEAT_EVERY;
        if self.counted_from.is_none_or(is_over) {
            (self.counted_from, self.beginnings) = (Some(now), 0);
        }
        self.beginnings += 1;
        self.beginnings <= BEGINNINGS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_condition_is_logged_when_it_begins_once_a_minute_and_when_it_ends() {
        let (away, began) = (Lasting::new(), Instant::now());
        let logged: Vec<_> = (0..150)
            .filter_map(|second| Some((second, away.again_at(began + SECOND * second)?)))
            .map(|(second, report)| (second, report.times, report.unlogged))
            .collect();
        assert_eq!(logged, [(0, 1, 0), (60, 61, 59), (120, 121, 59)]);
        let ended = away.end_at(began + SECOND * 150).unwrap();
        assert_eq!(
            (ended.times, ended.unlogged, ended.lasted),
            (150, 29, SECOND * 150)
        );
        assert!(!away.holds());
        assert_eq!(away.end_at(began + SECOND * 151), None);
    }

    #[test]
    fn a_condition_that_comes_and_goes_is_logged_no_more_often_than_one_that_stays() {
        let (away, began) = (Lasting::new(), Instant::now());
        let mut lines = 0;
        for step in 0..6_000 {
            let now = began + Duration::from_millis(100) * step;
            lines += usize::from(away.again_at(now).is_some());
            lines += usize::from(away.end_at(now).is_some());
        }
        assert!((20..=70).contains(&lines), "{lines} lines in ten minutes");
    }

    #[test]
    fn one_that_begins_unlogged_is_logged_within_a_minute() {
        let (away, began) = (Lasting::new(), Instant::now());
        for step in 0..4 {
            away.again_at(began + SECOND * step);
            away.end_at(began + SECOND * step);
        }
        let second = (5..100).find(|second| away.again_at(began + SECOND * *second).is_some());
        assert!(second.unwrap() <= 65, "{second:?}");
        assert!(away.end_at(began + SECOND * 70).is_some());
    }

    #[test]
    fn an_end_without_a_beginning_is_nothing() {
        assert_eq!(Lasting::new().end(), None);
    }
}
