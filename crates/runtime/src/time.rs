//! Parsing of times in arguments, and formatting of times for output.

use std::{
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A time as it was given: relative to now, or absolute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// This long ago.
    Ago(Duration),
    /// A time in Unix milliseconds.
    At(u64),
}

/// The error for a text that is not a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a duration before now such as 30m, 1h or 7d, or a time in UTC such as 2026-11-25T01:00:00Z or 2026-11-25"
)]
pub struct BadMoment;

impl Moment {
    /// Returns the time in Unix milliseconds. Times before 1970 become 0.
    pub fn before(self, now_ms: u64) -> u64 {
        match self {
            Self::Ago(duration) => now_ms.saturating_sub(duration.as_millis().try_into().unwrap_or(u64::MAX)),
            Self::At(ms) => ms,
        }
    }
}

impl FromStr for Moment {
    type Err = BadMoment;

    fn from_str(text: &str) -> Result<Self, BadMoment> {
        if let Ok(ago) = humantime::parse_duration(text) {
            return Ok(Self::Ago(ago));
        }
        let midnight = format!("{text}T00:00:00Z");
        let time = humantime::parse_rfc3339(text).or_else(|_| humantime::parse_rfc3339(&midnight));
        time.ok().and_then(unix_ms).map(Self::At).ok_or(BadMoment)
    }
}

fn unix_ms(time: SystemTime) -> Option<u64> {
    let since_epoch = time.duration_since(UNIX_EPOCH).ok()?;
    since_epoch.as_millis().try_into().ok()
}

/// Formats a time as RFC 3339 in UTC, to the second.
pub fn second(unix_ms: u64) -> String {
    humantime::format_rfc3339_seconds(time(unix_ms)).to_string()
}

/// Formats a time as RFC 3339 in UTC, to the millisecond.
pub fn millisecond(unix_ms: u64) -> String {
    humantime::format_rfc3339_millis(time(unix_ms)).to_string()
}

/// Formats a duration for people: `340 ms`, `1.2 s`, and from one minute on its two largest units, such as
/// `2h 5m`.
pub fn span(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let seconds = ms / 1_000;
    match ms {
        0..1_000 => return format!("{ms} ms"),
        1_000..60_000 if ms.is_multiple_of(1_000) => return format!("{seconds} s"),
        1_000..60_000 => return format!("{seconds}.{} s", ms % 1_000 / 100),
        _ => {}
    }
    let first = UNITS
        .iter()
        .position(|(unit, _)| seconds >= *unit)
        .unwrap_or(UNITS.len() - 1);
    let mut rest = seconds;
    let mut words = Vec::new();
    for (unit, name) in UNITS.iter().skip(first).take(2) {
        if rest >= *unit {
            words.push(format!("{}{name}", rest / unit));
        }
        rest %= unit;
    }
    words.join(" ")
}

/// Converts Unix milliseconds, up to the last time whose year has four digits.
fn time(unix_ms: u64) -> SystemTime {
    const LAST_MS: u64 = 253_402_300_799_999;
    UNIX_EPOCH + Duration::from_millis(unix_ms.min(LAST_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_so_long_ago_or_a_time() {
        const NOW_MS: u64 = 1_700_000_000_000;
        for (text, ms) in [
            ("30m", NOW_MS - 1_800_000),
            ("1h", NOW_MS - 3_600_000),
            ("7d", NOW_MS - 604_800_000),
            ("1h 30m", NOW_MS - 5_400_000),
            ("0s", NOW_MS),
            ("900y", 0),
            ("2026-11-25T01:00:00Z", 1_795_568_400_000),
            ("2026-11-25T01:00:00.250Z", 1_795_568_400_250),
            ("2026-11-25", 1_795_564_800_000),
        ] {
            assert_eq!(
                text.parse::<Moment>().map(|at| at.before(NOW_MS)),
                Ok(ms),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_moment() {
        for text in [
            "",
            "1",
            "-1h",
            "yesterday",
            "2026-11-25T01:00:00",
            "2026-11-25T01:00:00+01:00",
            "2026-13-01",
            "1969-12-31T23:59:59Z",
            "1795571999000",
        ] {
            assert_eq!(text.parse::<Moment>(), Err(BadMoment), "{text}");
        }
    }

    #[test]
    fn times_are_printed_in_utc() {
        assert_eq!(second(1_703_123_456_789), "2023-12-21T01:50:56Z");
        assert_eq!(millisecond(1_703_123_456_789), "2023-12-21T01:50:56.789Z");
        assert_eq!(second(u64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn spans_have_at_most_two_units() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1 s"),
            (1_250, "1.2 s"),
            (59_999, "59.9 s"),
            (60_000, "1m"),
            (3_600_000, "1h"),
            (7_530_000, "2h 5m"),
            (86_400_000 * 3 + 60_000, "3d"),
            (86_400_000 * 5 + 7_200_000, "5d 2h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }
}
