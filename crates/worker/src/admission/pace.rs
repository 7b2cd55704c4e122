//! Measures how fast an endpoint or an organization gives slots back.

use std::time::{Duration, Instant};

/// Weight of the newest attempt in the average latency: an eighth.
const LATENCY_WEIGHT: u32 = 8;

/// What is held for less than this on average is given back quickly: half of what makes an attempt slow.
const FAST: Duration = Duration::from_millis(500);

/// How long a newcomer would wait.
pub(super) struct Promise {
    pub(super) within: Duration,
    /// Whether a latency was measured. If not, `within` is only how long nothing has come back.
    pub(super) is_founded: bool,
}

/// How fast what is held is given back.
#[derive(Clone, Copy, Default)]
pub(super) struct Pace {
    /// The average of how long each was held.
    latency: Duration,
    /// Since when something has been held without a break.
    busy_since: Option<Instant>,
    returned: Option<Instant>,
}

impl Pace {
    /// One more is taken, beside `held`.
    pub(super) fn taken(&mut self, held: usize, now: Instant) {
        if held == 0 {
            self.busy_since = Some(now);
        }
    }

    /// One is given back; `took` is how long it was held, if that says anything.
    pub(super) fn returned(&mut self, took: Option<Duration>, now: Instant) {
        self.returned = Some(now);
        if let Some(took) = took {
            self.latency = match self.latency {
                Duration::ZERO => took,
                latency => (latency * (LATENCY_WEIGHT - 1) + took) / LATENCY_WEIGHT,
            };
        }
    }

    /// How long nothing has been given back although something is held.
    pub(super) fn quiet(&self, now: Instant) -> Duration {
        let since = self.returned.max(self.busy_since);
        since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// Whether what is held comes back quickly, as far as is known.
    pub(super) fn is_fast(&self, now: Instant) -> bool {
        !self.is_unknown() && self.latency.max(self.quiet(now)) < FAST
    }

    /// Whether no latency was measured yet.
    pub(super) fn is_unknown(&self) -> bool {
        self.latency == Duration::ZERO
    }

    /// The same, with another's latency if there is none of its own.
    pub(super) fn or_latency_of(self, other: Option<&Self>) -> Self {
        match other {
            Some(other) if self.is_unknown() => Self {
                latency: other.latency,
                ..self
            },
            _ => self,
        }
    }

    /// How long a newcomer would wait behind those that wait already; `None` when nothing is held, so that
    /// nothing will come back.
    pub(super) fn promise(&self, held: usize, waiting: usize, now: Instant) -> Option<Promise> {
        let latency = self.latency.max(self.quiet(now));
        let ahead = waiting as u32 + 1;
        (held > 0).then(|| Promise {
            within: latency.saturating_mul(ahead) / held as u32,
            is_founded: !self.is_unknown(),
        })
    }
}
