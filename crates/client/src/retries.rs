//! Whether and when a request is sent again.

use std::time::Duration;

use crate::{error::Error, operation::Repeats};

/// The wait before the second try, before it is shortened at random. It doubles with each further try.
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// The maximum wait, unless the API asks for a longer one.
const WAIT_MAX: Duration = Duration::from_secs(8);
/// No try begins with less time than this, because it would most likely end with a timeout.
const TRY_MIN: Duration = Duration::from_secs(1);
/// The same for an operation that is repeated only if it was not carried out. After a timeout, that would no
/// longer be certain.
const TRY_UNDONE_MIN: Duration = Duration::from_secs(10);

/// How often, and for how long, a request is sent again after a failure that may pass: no connection (unless
/// the certificate is not valid), no complete answer, and the statuses 429 and 503, and 502 and 504 from a
/// proxy.
///
/// The waits between the tries grow from half a second to 8 s. Each is shortened by a random share of up to
/// half, so that clients do not send at the same time. The seconds in the answer's `Retry-After` are added to
/// the wait. If they exceed the remaining time, the request is not sent again.
///
/// Not everything is sent again. Reading, publishing, deleting endpoints and revoking keys are safe to
/// repeat. Any other operation is repeated only if it was certainly not carried out (there was no connection,
/// or the API refused the request before it began to work on it: `rate-limited` or `overloaded`), and only
/// while at least 10 s of the time remain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// The maximum number of tries, including the first one. With 1, nothing is sent again.
    pub tries_max: u32,
    /// The maximum time for all tries together. Only the first try may take longer, up to the timeout of one
    /// request.
    pub total_max: Duration,
}

impl Default for Retries {
    /// Five tries within a minute.
    fn default() -> Self {
        Self {
            tries_max: 5,
            total_max: Duration::from_mins(1),
        }
    }
}

impl Retries {
    /// Returns the value that sends nothing again.
    pub const fn none() -> Self {
        Self {
            tries_max: 1,
            total_max: Duration::ZERO,
        }
    }

    /// Returns how long to wait before the next try; `None` if there is to be none. `elapsed` is the time
    /// since the first try began, and `random` is from 0 to 1.
    pub(crate) fn wait(&self, error: &Error, elapsed: Duration, random: f64) -> Option<Duration> {
        let call = error.call();
        let (is_safe, try_min) = match call.operation.repeats() {
            Repeats::Always => (true, TRY_MIN),
            Repeats::Undone => (!call.maybe_done, TRY_UNDONE_MIN),
        };
        if !is_safe || !error.is_transient() || call.tries >= self.tries_max {
            return None;
        }
        let wait = backoff(call.tries, random).saturating_add(error.retry_after().unwrap_or_default());
        let begins = elapsed.saturating_add(wait);
        (begins.saturating_add(try_min) <= self.total_max).then_some(wait)
    }
}

fn backoff(tries: u32, random: f64) -> Duration {
    let doubled = 2_u32.saturating_pow(tries.saturating_sub(1));
    let full = WAIT_FIRST.saturating_mul(doubled).min(WAIT_MAX);
    full.mul_f64(1.0 - random / 2.0)
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::CertificateError;
    use wire::Problem;

    use super::*;
    use crate::{error::Call, operation::Operation};

    const PUBLISH: Call = Call::first(Operation::PUBLISH_EVENT);
    const CREATE: Call = Call::first(Operation::CREATE_ENDPOINT);

    fn connect(call: Call) -> Error {
        let (server, source) = (String::new(), "refused".into());
        Error::Connect { call, server, source }
    }

    /// Returns the error for a certificate that is not valid, wrapped as the HTTP client wraps it.
    fn untrusted(call: Call) -> Error {
        let cause = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let source = Box::new(io::Error::other(io::Error::other(cause)));
        let server = String::new();
        Error::Connect { call, server, source }
    }

    fn timeout(call: Call) -> Error {
        Error::Timeout {
            call: call.unsure(),
            server: String::new(),
            after: Duration::from_secs(30),
        }
    }

    fn answered(call: Call, status: u16, retry_after_s: Option<u64>) -> Error {
        let problem = Problem {
            kind: String::new(),
            title: String::new(),
            status,
            detail: String::new(),
            instance: String::new(),
            errors: Vec::new(),
        };
        Error::Api {
            call,
            problem: Box::new(problem),
            retry_after: retry_after_s.map(Duration::from_secs),
        }
    }

    fn is_repeated(error: &Error) -> bool {
        let wait = Retries::default().wait(error, Duration::ZERO, 0.5);
        wait.is_some()
    }

    #[test]
    fn only_what_may_pass_is_repeated() {
        for (error, repeated) in [
            (connect(PUBLISH), true),
            (untrusted(PUBLISH), false),
            (timeout(PUBLISH), true),
            (answered(PUBLISH, 429, None), true),
            (answered(PUBLISH, 503, None), true),
            (answered(PUBLISH, 400, None), false),
            (answered(PUBLISH, 401, None), false),
            (answered(PUBLISH, 422, None), false),
            (answered(PUBLISH, 500, None), false),
            (Error::invalid(PUBLISH.operation, "bad"), false),
        ] {
            assert_eq!(is_repeated(&error), repeated, "{error}");
        }
        for (status, repeated) in [(200, false), (404, false), (429, true), (502, true), (504, true)] {
            let (excerpt, retry_after) = (String::new(), None);
            let error = Error::Unexpected {
                call: PUBLISH,
                status,
                excerpt,
                retry_after,
            };
            assert_eq!(is_repeated(&error), repeated, "{error}");
        }
    }

    #[test]
    fn what_is_not_safe_to_repeat_is_repeated_only_if_it_was_not_done() {
        for (error, repeated) in [
            (connect(CREATE), true),
            (answered(CREATE, 429, None), true),
            (answered(CREATE, 503, None), true),
            (answered(CREATE.unsure(), 503, None), false),
            (timeout(CREATE), false),
            // An earlier try may have been carried out.
            (connect(CREATE.unsure()), false),
        ] {
            assert_eq!(is_repeated(&error), repeated, "{error}");
        }
    }

    #[test]
    fn waits_double_are_shortened_at_random_and_have_a_bound() {
        let of = |tries, random| backoff(tries, random).as_millis();
        assert_eq!([of(1, 0.0), of(2, 0.0), of(3, 0.0)], [500, 1000, 2000]);
        assert_eq!([of(1, 1.0), of(2, 1.0), of(3, 1.0)], [250, 500, 1000]);
        assert_eq!([of(5, 0.0), of(6, 0.0), of(u32::MAX, 0.0)], [8000; 3]);
    }

    #[test]
    fn retry_after_lengthens_the_wait_and_may_exceed_the_time() {
        let retries = Retries::default();
        let wait = |retry_after_s, elapsed_s| {
            let error = answered(PUBLISH, 503, retry_after_s);
            retries.wait(&error, Duration::from_secs(elapsed_s), 0.0)
        };
        assert_eq!(wait(None, 0), Some(Duration::from_millis(500)));
        assert_eq!(wait(Some(30), 0), Some(Duration::from_millis(30_500)));
        assert_eq!(wait(Some(30), 29), None);
        assert_eq!(wait(Some(60), 0), None);
        assert_eq!(wait(Some(u64::MAX), 0), None);
        assert_eq!(wait(None, 58), Some(Duration::from_millis(500)));
        assert_eq!(wait(None, 59), None);
    }

    #[test]
    fn the_last_try_of_what_is_not_safe_to_repeat_has_enough_time() {
        for (call, elapsed_s, repeated) in [
            (CREATE, 49, true),
            (CREATE, 50, false),
            (PUBLISH, 58, true),
            (PUBLISH, 59, false),
        ] {
            let wait = Retries::default().wait(&connect(call), Duration::from_secs(elapsed_s), 0.0);
            assert_eq!(wait.is_some(), repeated, "{call}: {elapsed_s} s");
        }
    }

    #[test]
    fn the_number_of_tries_has_a_bound() {
        let mut error = connect(PUBLISH);
        let mut tries = 1;
        while is_repeated(&error) {
            error = connect(error.call().again());
            tries += 1;
        }
        assert_eq!(tries, 5);
        let wait = Retries::none().wait(&connect(PUBLISH), Duration::ZERO, 0.0);
        assert_eq!(wait, None);
    }
}
