//! Tests `Retry-After` in every form.

use std::time::{Duration, SystemTime};

use e2e::{Answer, Certificates, Receiver, Request, event, has_passed, now_ms, wait_until};

use super::{installation, register};

/// The delays between attempts, which are also the tiers, in milliseconds.
const TIERS_MS: [u64; 3] = [200, 1000, 3000];

/// The answer of a receiver to the first two attempts, and the tiers of the delays that follow them. Without
/// the header, the schedule results in 200 and 1000.
struct Asked {
    status: u16,
    retry_after: Wish,
    tiers_ms: [u64; 2],
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    Text(&'static str),
    /// The HTTP date this many seconds from now, in the preferred format of RFC 9110.
    Imf(i64),
    /// The same date in the format of RFC 850.
    Rfc850(i64),
    /// The same date in the format of C's asctime.
    Asctime(i64),
}

const fn asked(status: u16, retry_after: Wish, tiers_ms: [u64; 2]) -> Asked {
    Asked {
        status,
        retry_after,
        tiers_ms,
    }
}

const ASKED: [Asked; 26] = {
    use Wish::{Asctime, Imf, Rfc850, Text};
    // For a header that is invalid, or asks for less than the schedule.
    const SCHEDULE: [u64; 2] = [200, 1000];
    const LONGEST: [u64; 2] = [3000, 3000];
    [
        asked(503, Text("0"), SCHEDULE),
        asked(503, Text("1"), [1000, 1000]),
        asked(429, Text("1"), [1000, 1000]),
        asked(503, Text("2"), LONGEST),
        asked(429, Text("3"), LONGEST),
        asked(429, Text("3600"), LONGEST),
        asked(503, Text("99999999999999999999999999"), LONGEST),
        asked(503, Text("  2\t"), LONGEST),
        asked(503, Imf(3), LONGEST),
        asked(429, Rfc850(3), LONGEST),
        asked(503, Asctime(3), LONGEST),
        asked(503, Imf(86_400 * 365), LONGEST),
        asked(503, Imf(-3600), SCHEDULE),
        asked(429, Rfc850(-3600), SCHEDULE),
        asked(503, Asctime(-3600), SCHEDULE),
        asked(503, Text("Thu, 01 Jan 1970 00:00:00 GMT"), SCHEDULE),
        asked(503, Text(""), SCHEDULE),
        asked(503, Text("-1"), SCHEDULE),
        asked(429, Text("+2"), SCHEDULE),
        asked(503, Text("1.5"), SCHEDULE),
        asked(503, Text("2 seconds"), SCHEDULE),
        asked(503, Text("2026-11-23T10:00:09Z"), SCHEDULE),
        asked(429, Text("später"), SCHEDULE),
        // The header has no meaning with any other status.
        asked(500, Text("2"), SCHEDULE),
        asked(404, Imf(3), SCHEDULE),
        asked(302, Text("2"), SCHEDULE),
    ]
};

impl Wish {
    fn header(self) -> String {
        let from_now = |seconds: i64| {
            let date = SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms());
            let date = match u64::try_from(seconds) {
                Ok(seconds) => date + Duration::from_secs(seconds),
                Err(_) => date - Duration::from_secs(seconds.unsigned_abs()),
            };
            httpdate::fmt_http_date(date)
        };
        match self {
            Self::Text(text) => text.to_owned(),
            Self::Imf(seconds) => from_now(seconds),
            Self::Rfc850(seconds) => {
                in_other_form(&from_now(seconds), |[weekday, day, month, year, time]| {
                    let long = [
                        "Sunday",
                        "Monday",
                        "Tuesday",
                        "Wednesday",
                        "Thursday",
                        "Friday",
                        "Saturday",
                    ]
                    .into_iter()
                    .find(|long| long.starts_with(weekday))
                    .unwrap();
                    format!("{long}, {day}-{month}-{} {time} GMT", &year[2..])
                })
            }
            Self::Asctime(seconds) => {
                in_other_form(&from_now(seconds), |[weekday, day, month, year, time]| {
                    let day: u8 = day.parse().unwrap();
                    format!("{weekday} {month} {day:2} {time} {year}")
                })
            }
        }
    }
}

/// Splits a date such as `Tue, 24 Nov 2026 18:31:05 GMT`, and formats its parts with `put_together`.
fn in_other_form(imf: &str, put_together: impl Fn([&str; 5]) -> String) -> String {
    let parts: Vec<_> = imf.split([' ', ',']).filter(|part| !part.is_empty()).collect();
    put_together(parts[..5].try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_in_every_form_gives_the_smallest_tier_that_honours_it_and_the_schedule() {
    let installation = installation("retry-after-forms", &TIERS_MS, &Certificates::new()).await;
    let mut receivers = Vec::new();
    for asked in &ASKED {
        let receiver = Receiver::new(|_, before| {
            if before < 2 {
                Answer::Status(asked.status, vec![("retry-after", asked.retry_after.header())])
            } else {
                Answer::status(200)
            }
        });
        receivers.push(receiver.await);
    }
    register(&installation, receivers.iter().map(Receiver::url).collect()).await;
    let worker = installation.worker().await;
    let events: Vec<_> = (0..ASKED.len())
        .map(|number| event(&format!("org_{number}"), "lead_1"))
        .collect();
    installation.amqp().publish(&events).await;
    wait_until("three attempts each", Duration::from_secs(20), || {
        receivers.iter().all(|receiver| receiver.count() == 3)
    })
    .await;
    for (asked, receiver) in ASKED.iter().zip(&receivers) {
        let Asked {
            status, retry_after, ..
        } = asked;
        let requests = receiver.requests();
        let taken = requests.windows(2).map(|pair| tier(pair[1].at - pair[0].at));
        assert_eq!(
            taken.collect::<Vec<_>>(),
            asked.tiers_ms,
            "{status} {retry_after:?}"
        );
        let attempts: Vec<_> = requests.iter().map(Request::attempt).collect();
        assert_eq!(attempts, [1, 2, 3], "{status} {retry_after:?}");
    }
    installation.wait_until_drained(Duration::from_secs(5)).await;
    assert_eq!(installation.amqp().ready("dead").await, 0);
    assert!(worker.terminate().await);
    installation.delete().await;
}

/// Returns the longest tier that fits into `gap`. This is the tier that was used, because no attempt is made
/// early.
fn tier(gap: Duration) -> u64 {
    assert!(gap < Duration::from_secs(5), "{gap:?}");
    let passed = TIERS_MS
        .into_iter()
        .rfind(|tier_ms| has_passed(Duration::from_millis(*tier_ms), gap));
    passed.unwrap_or_else(|| panic!("an attempt came after {gap:?}, before any tier"))
}
