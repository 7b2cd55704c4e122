//! The requests that a program has been sent and has not answered yet.

use std::collections::BTreeMap;

use broker::ReplyTo;
use tokio::time::Instant;

/// The requests of one connection. They have numbers, by which the program answers them. A number is only looked up
/// among these requests.
#[derive(Debug, Default)]
pub(super) struct Outstanding {
    last: u64,
    requests: BTreeMap<u64, Request>,
}

#[derive(Debug)]
struct Request {
    reply_to: ReplyTo,
    /// When the worker stops waiting for the answer.
    until: Instant,
}

impl Outstanding {
    /// Adds a request, and returns its number as text.
    pub(super) fn add(&mut self, reply_to: ReplyTo, until: Instant) -> String {
        self.last += 1;
        self.requests.insert(self.last, Request { reply_to, until });
        self.last.to_string()
    }

    /// Removes the request with this number. Returns `None` if there is none: the text is no number, or the request was
    /// answered before, or is too old.
    pub(super) fn take(&mut self, number: &str, now: Instant) -> Option<ReplyTo> {
        let request = self.requests.remove(&number.parse().ok()?)?;
        (now < request.until).then_some(request.reply_to)
    }

    /// Removes the requests for whose answers no worker waits any more. Returns their number.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let before = self.requests.len();
        self.requests.retain(|_, request| now < request.until);
        before - self.requests.len()
    }

    /// Returns when the next request is removed by [`expire`](Self::expire); `None` if there is none.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.requests.values().map(|request| request.until).min()
    }

    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Returns all requests.
    pub(super) fn into_all(self) -> impl Iterator<Item = ReplyTo> {
        self.requests.into_values().map(|request| request.reply_to)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn reply_to(request: u128) -> ReplyTo {
        ReplyTo { answers: 1, request }
    }

    #[test]
    fn a_request_is_answered_once_by_its_number() {
        let (now, mut outstanding) = (Instant::now(), Outstanding::default());
        let first = outstanding.add(reply_to(1), now + SECOND);
        let second = outstanding.add(reply_to(2), now + SECOND);
        assert_ne!(first, second);
        for unknown in ["", "0", "3", "-1", "1.0", "x", "99999999999999999999999"] {
            assert_eq!(outstanding.take(unknown, now), None, "{unknown}");
        }
        assert_eq!(outstanding.take(&second, now), Some(reply_to(2)));
        assert_eq!(outstanding.take(&second, now), None, "it was answered");
        assert_eq!(outstanding.len(), 1);
        let third = outstanding.add(reply_to(3), now + SECOND);
        assert_ne!(third, second, "a number is used once");
        let left: Vec<_> = outstanding.into_all().collect();
        assert_eq!(left, [reply_to(1), reply_to(3)]);
    }

    #[test]
    fn a_request_that_is_too_old_makes_room_and_is_not_answered() {
        let (now, mut outstanding) = (Instant::now(), Outstanding::default());
        assert_eq!(outstanding.next_expiry(), None);
        let late = outstanding.add(reply_to(1), now + 2 * SECOND);
        let soon = outstanding.add(reply_to(2), now + SECOND);
        assert_eq!(outstanding.next_expiry(), Some(now + SECOND));
        assert_eq!(outstanding.expire(now), 0);
        assert_eq!(outstanding.expire(now + SECOND), 1);
        assert_eq!(outstanding.take(&soon, now + SECOND), None);
        assert_eq!(
            outstanding.take(&late, now + 2 * SECOND),
            None,
            "it was not removed yet"
        );
        assert_eq!(outstanding.len(), 0);
    }
}
