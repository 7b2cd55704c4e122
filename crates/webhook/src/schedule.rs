//! The retry schedule: the delays between attempts.

use std::time::Duration;

/// The maximum delay between two attempts.
pub const DELAY_MAX: Duration = Duration::from_hours(24);
/// The maximum number of attempts of one run.
const ATTEMPTS_MAX: u32 = 100;

/// The delays between the attempts of a run: `delays[0]` is the delay between attempts 1 and 2.
///
/// The default is 1, 2, 4, 8, 16, 30, 30, 30, 30 seconds: 10 attempts over 151 s (public contract, "Retry
/// Behavior").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    delays: Vec<Duration>,
    /// The distinct delays, shortest first. Each of them has a delay queue.
    tiers: Vec<Duration>,
}

/// The reason why a schedule is not valid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// The number of attempts is out of bounds.
    #[error("a schedule must have 2 to {ATTEMPTS_MAX} attempts, not {0}")]
    Attempts(u64),
    /// A delay is out of bounds or not in whole milliseconds.
    #[error("a delay must be 1 ms to 24 h in whole milliseconds, not {0:?}")]
    Delay(Duration),
    /// The factor is not a number, or not within 1.0 to 100.0. A smaller factor would shorten the delays.
    #[error("the factor must be 1.0 to 100.0, not {0}")]
    Factor(f64),
    /// The initial delay is longer than the maximum delay.
    #[error("the initial delay {initial:?} is longer than the maximum {max:?}")]
    InitialOverMax {
        /// The initial delay.
        initial: Duration,
        /// The maximum delay.
        max: Duration,
    },
}

impl Default for Schedule {
    fn default() -> Self {
        Self::exponential(Duration::from_secs(1), 2.0, Duration::from_secs(30), 10)
            .expect("1 s, factor 2, 30 s, 10 attempts are within every bound")
    }
}

impl Schedule {
    /// Creates a schedule with exponential backoff, for `attempts` (2 to 100) attempts in total.
    ///
    /// The delays start at `initial` and are multiplied by `factor` (1.0 to 100.0), up to `max`.
    ///
    /// # Errors
    /// Returns an error if an argument is out of its bounds, or if `initial` is longer than `max`.
    pub fn exponential(
        initial: Duration,
        factor: f64,
        max: Duration,
        attempts: u32,
    ) -> Result<Self, ScheduleError> {
        if !(1.0..=100.0).contains(&factor) {
            return Err(ScheduleError::Factor(factor));
        }
        check_delay(max)?;
        if initial > max {
            return Err(ScheduleError::InitialOverMax { initial, max });
        }
        let retries = attempts.saturating_sub(1).min(ATTEMPTS_MAX);
        let grown = |retry| {
            let ms = initial.as_millis() as f64 * factor.powi(retry as i32);
            Duration::from_millis(ms.min(max.as_millis() as f64).round() as u64)
        };
        Self::list((0..retries).map(grown).collect())
    }

    /// Creates a schedule with exactly these delays: 1 to 99 delays of 1 ms to [`DELAY_MAX`] each. The number
    /// of attempts is one more than that of the delays.
    ///
    /// # Errors
    /// Returns an error if there are no delays or too many, or if one is out of bounds.
    pub fn list(delays: Vec<Duration>) -> Result<Self, ScheduleError> {
        let attempts = delays.len() as u64 + 1;
        if !(2..=u64::from(ATTEMPTS_MAX)).contains(&attempts) {
            return Err(ScheduleError::Attempts(attempts));
        }
        for delay in &delays {
            check_delay(*delay)?;
        }
        let mut tiers = delays.clone();
        tiers.sort_unstable();
        tiers.dedup();
        Ok(Self { delays, tiers })
    }

    /// Returns the maximum number of attempts of a run.
    pub fn attempts(&self) -> u32 {
        self.delays.len() as u32 + 1
    }

    /// Returns the delay after a failed attempt (1-based); `None` after the last attempt.
    pub fn delay_after(&self, attempt: u32) -> Option<Duration> {
        self.delays.get(attempt.saturating_sub(1) as usize).copied()
    }

    /// Returns the maximum total delay of one run.
    ///
    /// Each delay is that of the schedule, or up to the longest tier if the endpoint asks for it by
    /// `Retry-After`.
    pub fn run_max(&self) -> Duration {
        *self.longest() * self.delays.len() as u32
    }

    /// Returns the distinct delays, shortest first.
    pub fn tiers(&self) -> &[Duration] {
        &self.tiers
    }

    /// Returns the shortest tier that is at least `wanted`, or the longest tier if none is.
    pub fn tier_for(&self, wanted: Duration) -> Duration {
        let fitting = self.tiers.iter().find(|tier| **tier >= wanted);
        *fitting.unwrap_or(self.longest())
    }

    /// Returns the delay of the n-th deferral in a row (0-based): each tier in turn, then the longest one.
    pub fn deferral(&self, deferrals: u32) -> Duration {
        *self.tiers.get(deferrals as usize).unwrap_or(self.longest())
    }

    fn longest(&self) -> &Duration {
        self.tiers.last().expect("a schedule has at least one delay")
    }
}

fn check_delay(delay: Duration) -> Result<(), ScheduleError> {
    let whole_ms = delay.subsec_nanos().is_multiple_of(1_000_000);
    let fits = (Duration::from_millis(1)..=DELAY_MAX).contains(&delay);
    if whole_ms && fits {
        Ok(())
    } else {
        Err(ScheduleError::Delay(delay))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(schedule: &Schedule) -> Vec<u64> {
        (1..=schedule.attempts())
            .filter_map(|n| schedule.delay_after(n))
            .map(|d| d.as_secs())
            .collect()
    }

    #[test]
    fn the_default_is_the_contract() {
        let schedule = Schedule::default();
        assert_eq!(seconds(&schedule), [1, 2, 4, 8, 16, 30, 30, 30, 30]);
        assert_eq!(schedule.attempts(), 10);
        assert_eq!(
            schedule.tiers().iter().map(Duration::as_secs).collect::<Vec<_>>(),
            [1, 2, 4, 8, 16, 30]
        );
        assert_eq!(schedule.run_max(), Duration::from_secs(9 * 30));
        assert_eq!(schedule.delay_after(10), None);
        assert_eq!(schedule.delay_after(u32::MAX), None);
    }

    #[test]
    fn a_tier_is_never_shorter_than_asked_unless_none_is_longer() {
        let schedule = Schedule::default();
        for (wanted_ms, tier_s) in [
            (0, 1),
            (1000, 1),
            (1001, 2),
            (9_000, 16),
            (30_000, 30),
            (86_400_000, 30),
        ] {
            assert_eq!(
                schedule.tier_for(Duration::from_millis(wanted_ms)).as_secs(),
                tier_s
            );
        }
    }

    #[test]
    fn deferrals_climb_the_tiers_and_stay_on_the_longest() {
        let schedule = Schedule::default();
        let climbed: Vec<_> = (0..8).map(|n| schedule.deferral(n).as_secs()).collect();
        assert_eq!(climbed, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn schedules_out_of_bounds_are_refused() {
        let s = Duration::from_secs;
        assert_eq!(Schedule::list(vec![]), Err(ScheduleError::Attempts(1)));
        assert_eq!(Schedule::list(vec![s(1); 100]), Err(ScheduleError::Attempts(101)));
        assert!(matches!(Schedule::list(vec![s(0)]), Err(ScheduleError::Delay(_))));
        assert!(matches!(
            Schedule::list(vec![s(86_401)]),
            Err(ScheduleError::Delay(_))
        ));
        assert!(matches!(
            Schedule::list(vec![Duration::from_micros(1500)]),
            Err(ScheduleError::Delay(_))
        ));
        assert_eq!(
            Schedule::exponential(s(1), 0.5, s(30), 10),
            Err(ScheduleError::Factor(0.5))
        );
        assert!(matches!(
            Schedule::exponential(s(1), f64::NAN, s(30), 10),
            Err(ScheduleError::Factor(_))
        ));
        assert!(matches!(
            Schedule::exponential(s(31), 2.0, s(30), 10),
            Err(ScheduleError::InitialOverMax { .. })
        ));
        assert_eq!(
            Schedule::exponential(s(1), 2.0, s(30), 1),
            Err(ScheduleError::Attempts(1))
        );
    }

    proptest! {
        #[test]
        fn exponential_delays_never_shrink_and_never_pass_the_maximum(
            initial in 1_u64..5_000, factor in 1.0_f64..10.0, over in 0_u64..100_000, attempts in 2_u32..=100,
        ) {
            let max = Duration::from_millis(initial + over);
            let schedule = Schedule::exponential(Duration::from_millis(initial), factor, max, attempts).unwrap();
            prop_assert_eq!(schedule.attempts(), attempts);
            let delays: Vec<_> = (1..attempts).map(|n| schedule.delay_after(n).unwrap()).collect();
            prop_assert!(delays.is_sorted());
            prop_assert!(delays.iter().all(|delay| *delay <= max));
        }
    }
}
