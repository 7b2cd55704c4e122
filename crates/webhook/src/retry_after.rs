//! The `Retry-After` header.

use std::time::{Duration, UNIX_EPOCH};

/// Parses the value of a `Retry-After` header (RFC 9110, section 10.2.3): a number of seconds, or an HTTP
/// date.
///
/// For a date, returns the time from `now_ms`, in Unix milliseconds, until then, or zero if the date is in the
/// past. Returns `None` for any other value, which is then ignored.
pub fn retry_after(header: &str, now_ms: u64) -> Option<Duration> {
    let header = header.trim_ascii();
    if !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that overflows stands for a time that is longer than any delay of a schedule.
        return Some(Duration::from_secs(header.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(header).ok()?;
    let since_epoch = date.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(since_epoch.saturating_sub(Duration::from_millis(now_ms)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn seconds_and_dates_are_read_and_the_rest_is_ignored() {
        // Mon, 23 Nov 2026 10:00:00 GMT
        let now_ms = 1_795_428_000_000;
        let s = |seconds| Some(Duration::from_secs(seconds));
        for (header, expected) in [
            ("0", s(0)),
            ("120", s(120)),
            (" 7 ", s(7)),
            ("99999999999999999999999", s(u64::MAX)),
            ("Mon, 23 Nov 2026 10:00:09 GMT", s(9)),
            ("Monday, 23-Nov-26 10:00:09 GMT", s(9)),
            ("Mon Nov 23 10:00:09 2026", s(9)),
            ("Mon, 23 Nov 2026 09:00:00 GMT", s(0)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("soon", None),
            ("2026-11-23T10:00:09Z", None),
        ] {
            assert_eq!(retry_after(header, now_ms), expected, "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(header in ".{0,60}") {
            let _ = retry_after(&header, 0);
        }
    }
}
