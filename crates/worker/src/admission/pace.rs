//! Measures how fast an endpoint or an organization gives slots back.

use std::time::{Duration, Instant};

/// The inverse of the newest attempt's weight in the average latency: the weight is an eighth.
const LATENCY_WEIGHT: u32 = 8;

/// The limit below which an average latency is fast: half of what makes an attempt slow.
const FAST: Duration = Duration::from_millis(500);

/// An estimate of how long a new delivery would wait.
pub(super) struct Promise {
    pub(super) within: Duration,
    /// Whether a latency has been measured. Otherwise `within` is based only on the time for which nothing
    /// has been given back.
    pub(super) is_founded: bool,
}

/// How fast slots or places are given back.
#[derive(Clone, Copy, Default)]
pub(super) struct Pace {
    /// The average time for which each was held; zero before the first measurement.
    latency: Duration,
    /// Since when at least one has been held without interruption; `None` before the first.
    busy_since: Option<Instant>,
    returned: Option<Instant>,
}

impl Pace {
    /// Notes that one more is taken, in addition to `held`.
    pub(super) fn taken(&mut self, held: usize, now: Instant) {
        if held == 0 {
            self.busy_since = Some(now);
        }
    }

    /// Notes that one is given back. `took` is how long it was held; `None` if that time is not meaningful.
    pub(super) fn returned(&mut self, took: Option<Duration>, now: Instant) {
        self.returned = Some(now);
        if let Some(took) = took {
            self.latency = match self.latency {
                Duration::ZERO => took,
                latency => (latency * (LATENCY_WEIGHT - 1) + took) / LATENCY_WEIGHT,
            };
        }
    }

    /// Returns for how long nothing has been given back although something is held.
    pub(super) fn quiet(&self, now: Instant) -> Duration {
        let since = self.returned.max(self.busy_since);
        since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// Returns whether slots are given back quickly, as far as is known.
    pub(super) fn is_fast(&self, now: Instant) -> bool {
        !self.is_unknown() && self.latency.max(self.quiet(now)) < FAST
    }

    /// Returns whether no latency has been measured yet.
    pub(super) fn is_unknown(&self) -> bool {
        self.latency == Duration::ZERO
    }

    /// Returns the same pace, with the latency of `other` if no latency of its own has been measured.
    pub(super) fn or_latency_of(self, other: Option<&Self>) -> Self {
        match other {
            Some(other) if self.is_unknown() => Self {
                latency: other.latency,
                ..self
            },
            _ => self,
        }
    }

    /// Estimates how long a new delivery would wait behind those already waiting. Returns `None` if nothing
    /// is held, because then nothing will be given back.
    pub(super) fn promise(&self, held: usize, waiting: usize, now: Instant) -> Option<Promise> {
        let latency = self.latency.max(self.quiet(now));
        let ahead = waiting as u32 + 1;
        (held > 0).then(|| Promise {
            within: latency.saturating_mul(ahead) / held as u32,
            is_founded: !self.is_unknown(),
        })
    }
}
