//! Receivers that mean harm: each attempt ends within its deadline, for a reason that a person understands, and none of them
//! is another endpoint's trouble.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test ends at the first surprise"
)]

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use e2e::{
    Answer, Certificates, Found, Hostile, Hostility, Installation, Receiver, Request, Role, Visit, event,
    percentile, report, scaled, wait_for, wait_until,
};
use tokio::sync::Semaphore;

/// How many commands run at once.
const COMMANDS_MAX: usize = 4;

/// The contract's deadline in the long form.
fn deadline() -> Duration {
    scaled(Duration::from_secs(2), Duration::from_secs(30))
}

/// How the attempts against a receiver end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// At once: far from the deadline.
    Soon,
    /// At the deadline.
    AtDeadline,
    /// Unseen by the receiver, which never gets to see a client.
    Unseen,
}

/// What the dead letter says in the end.
struct Row {
    hostility: Hostility,
    end: End,
    /// `None` if the delivery succeeds.
    error: Option<&'static str>,
}

const fn row(hostility: Hostility, end: End, error: &'static str) -> Row {
    let error = Some(error);
    Row {
        hostility,
        end,
        error,
    }
}

/// A 2xx counts as soon as 16 KiB of the body are read, or as much as was announced.
const fn delivered(hostility: Hostility) -> Row {
    Row {
        hostility,
        end: End::Soon,
        error: None,
    }
}

/// `{s}` is the deadline in seconds.
const ROWS: [Row; 34] = {
    use End::{AtDeadline, Soon, Unseen};
    use Hostility as H;
    [
        row(
            H::NeverAnswers,
            AtDeadline,
            "timeout in response: 127.0.0.1 did not answer within {s} s",
        ),
        row(
            H::HeadByTheSecond,
            AtDeadline,
            "timeout in response: 127.0.0.1 did not answer within {s} s",
        ),
        row(
            H::BodyByTheSecond,
            AtDeadline,
            "timeout in response: 127.0.0.1 answered with status 200, but its response was not complete within {s} s",
        ),
        row(H::EndlessBody(500), Soon, "status 500"),
        delivered(H::EndlessBody(200)),
        row(
            H::EndlessHeaders,
            Soon,
            "protocol in response: the headers of 127.0.0.1's response are too many or too large",
        ),
        row(
            H::EndlessHeader,
            Soon,
            "protocol in response: the headers of 127.0.0.1's response are too many or too large",
        ),
        row(
            H::EndlessContinue,
            AtDeadline,
            "timeout in response: 127.0.0.1 did not answer within {s} s",
        ),
        row(
            H::LengthTooLong,
            Soon,
            "connection_reset in response: 127.0.0.1 answered with status 200, but closed the connection before its \
             response was complete",
        ),
        row(
            H::LengthTooLongAndStays,
            AtDeadline,
            "timeout in response: 127.0.0.1 answered with status 200, but its response was not complete within {s} s",
        ),
        row(H::LengthTooShort(500), Soon, "status 500"),
        delivered(H::LengthTooShort(200)),
        row(
            H::LengthsDiffer,
            Soon,
            "protocol in response: 127.0.0.1 did not answer in HTTP: invalid content-length parsed",
        ),
        row(
            H::LengthNegative,
            Soon,
            "protocol in response: 127.0.0.1 did not answer in HTTP: invalid content-length parsed",
        ),
        row(
            H::Closes,
            Soon,
            "connection_reset in response: 127.0.0.1 closed the connection before it answered",
        ),
        row(
            H::ResetBefore,
            Soon,
            "connection_reset in response: 127.0.0.1 broke the connection off before it answered: Connection reset by peer",
        ),
        row(H::ResetWithin, Soon, "Connection reset by peer"),
        row(H::RedirectLoop, Soon, "status 302: redirects are not followed"),
        row(H::RedirectInward, Soon, "status 302: redirects are not followed"),
        row(H::GzipBomb(500), Soon, "status 500"),
        delivered(H::GzipBomb(200)),
        row(
            H::NotHttp,
            Soon,
            "protocol in response: 127.0.0.1 did not answer in HTTP: invalid HTTP version parsed",
        ),
        row(H::SwitchesProtocols, Soon, "status 101"),
        row(
            H::NeverAccepts,
            Unseen,
            "timeout in connect: 127.0.0.1 did not accept the connection within {s} s",
        ),
        row(
            H::NotListening,
            Unseen,
            "connection_refused in connect: 127.0.0.1 refused the connection",
        ),
        row(
            H::SelfSigned,
            Soon,
            "tls in tls: the certificate of 127.0.0.1 is self-signed",
        ),
        row(
            H::UnknownAuthority,
            Soon,
            "tls in tls: the certificate of 127.0.0.1 is self-signed, or its issuer is unknown",
        ),
        row(
            H::Expired,
            Soon,
            "tls in tls: the certificate of 127.0.0.1 has expired",
        ),
        row(
            H::NotYetValid,
            Soon,
            "tls in tls: the certificate of 127.0.0.1 is not valid yet",
        ),
        row(
            H::WrongHost,
            Soon,
            "tls in tls: the certificate is not valid for 127.0.0.1, only for",
        ),
        row(
            H::HandshakeStalls,
            AtDeadline,
            "timeout in tls: 127.0.0.1 did not complete the TLS handshake within {s} s",
        ),
        row(
            H::HandshakeCut,
            Soon,
            "connection_reset in tls: 127.0.0.1 closed the connection during the TLS handshake",
        ),
        row(
            H::NotTls,
            Soon,
            "tls in tls: 127.0.0.1 does not speak TLS at this port",
        ),
        row(
            H::SilentHttp2,
            AtDeadline,
            "timeout in response: 127.0.0.1 did not answer within {s} s",
        ),
    ]
};

impl Row {
    /// What of the dead letter is not as it should be.
    fn misses_in(&self, letter: &Found) -> Vec<String> {
        let expected = self
            .error
            .unwrap_or("no dead letter")
            .replace("{s}", &deadline().as_secs().to_string());
        let status = expected
            .strip_prefix("status ")
            .map_or("", |rest| rest.split(':').next().unwrap_or_default());
        let error = letter.header("magnetite-last-error");
        let mut misses = Vec::new();
        if !error.contains(&expected) {
            misses.push(format!("{}: {error:?} lacks {expected:?}", self.hostility));
        }
        for (name, value) in [
            ("magnetite-reason", "exhausted"),
            ("magnetite-attempts", "2"),
            ("magnetite-last-status", status),
        ] {
            if letter.header(name) != value {
                let found = letter.header(name);
                misses.push(format!("{}: {name} is {found:?}, not {value:?}", self.hostility));
            }
        }
        misses
    }

    /// What is not as it should be with one attempt as the receiver saw it.
    fn misses_of(&self, visit: &Visit) -> Vec<String> {
        let (took, received) = (visit.took(), visit.received.to_lowercase());
        // The receiver's clock starts when it accepts, the deadline's before.
        let in_time = match self.end {
            End::AtDeadline => deadline().saturating_sub(SLACK)..=deadline() + SLACK,
            End::Soon | End::Unseen => Duration::ZERO..=SLACK,
        };
        let is_untrusted = matches!(
            self.hostility,
            Hostility::SelfSigned
                | Hostility::UnknownAuthority
                | Hostility::Expired
                | Hostility::NotYetValid
                | Hostility::WrongHost
        );
        let misses = [
            (!in_time.contains(&took), format!("took {took:?}")),
            (
                received.contains("accept-encoding"),
                "asks for compression".to_owned(),
            ),
            (
                is_untrusted && !received.is_empty(),
                "sends to whom it does not trust".to_owned(),
            ),
            (
                visit.sent_bytes >= TAKEN_BYTES_MAX,
                format!("takes {} bytes", visit.sent_bytes),
            ),
        ];
        let misses = misses.into_iter().filter(|(is_missed, _)| *is_missed);
        misses
            .map(|(_, what)| format!("{}: an attempt {what}", self.hostility))
            .collect()
    }
}

/// What a busy machine may add to an attempt.
const SLACK: Duration = Duration::from_millis(800);
/// What a worker does not read stays in the buffers of two sockets, which Linux lets grow to some MiB.
const TAKEN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Its attempts end at the tests' deadline, and it trusts the tests' authority.
async fn installation(name: &str, delays_ms: &[u64], certificates: &Certificates) -> Arc<Installation> {
    let mut installation = Installation::with_delays(name, delays_ms).await;
    let pem = installation.directory().join("authority.pem");
    certificates.write_pem(&pem);
    installation.set("MAGNETITE_EGRESS__ROOT_CERTIFICATES", pem.to_str().unwrap());
    installation.set(
        "MAGNETITE_EGRESS__ATTEMPT_TIMEOUT",
        &format!("{}s", deadline().as_secs()),
    );
    Arc::new(installation)
}

/// Registers each URL as the only endpoint of an organization `org_0`, `org_1` and so on; gives the endpoints' ids.
async fn register(installation: &Arc<Installation>, urls: Vec<String>) -> Vec<String> {
    let slots = Arc::new(Semaphore::new(COMMANDS_MAX));
    let creating = urls.into_iter().enumerate().map(|(number, url)| {
        let (installation, slots) = (Arc::clone(installation), Arc::clone(&slots));
        tokio::spawn(async move {
            let _slot = slots.acquire().await.unwrap();
            installation.endpoint(&format!("org_{number}"), &url).await.id
        })
    });
    let mut ids = Vec::new();
    for created in creating.collect::<Vec<_>>() {
        ids.push(created.await.unwrap());
    }
    ids
}

async fn delete(installation: Arc<Installation>) {
    Arc::into_inner(installation).unwrap().delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_receiver_fails_within_the_deadline_for_a_reason_that_a_person_understands() {
    let certificates = Certificates::new();
    let installation = installation("hostile", &[200], &certificates).await;
    let mut receivers = Vec::new();
    for row in &ROWS {
        receivers.push(Hostile::start(row.hostility, &certificates).await);
    }
    let ids = register(&installation, receivers.iter().map(Hostile::url).collect()).await;
    let worker = installation.worker().await;
    let events: Vec<_> = (0..ROWS.len())
        .map(|number| event(&format!("org_{number}"), "lead_1"))
        .collect();
    installation.amqp().publish(&events).await;
    let fail = ROWS.iter().filter(|row| row.error.is_some()).count();
    let limit = 2 * deadline() + Duration::from_secs(20);
    installation
        .amqp()
        .wait_for_ready("dead", fail as u32, limit)
        .await;
    let letters: HashMap<_, _> = installation
        .amqp()
        .drain("dead")
        .await
        .into_iter()
        .map(|letter| (letter.header("magnetite-endpoint"), letter))
        .collect();
    let mut misses = Vec::new();
    for ((row, receiver), id) in ROWS.iter().zip(&receivers).zip(&ids) {
        if let Some(letter) = letters.get(id) {
            misses.extend(row.misses_in(letter));
        }
        let visits = match (row.end, row.error) {
            (End::Unseen, _) => 0,
            (_, None) => 1,
            (_, Some(_)) => 2,
        };
        assert_eq!(receiver.visits().len(), visits, "{}", row.hostility);
        wait_until(&format!("{}: the clients are gone", row.hostility), SLACK, || {
            receiver.visits().iter().all(|visit| visit.ended.is_some())
        })
        .await;
        let seen = receiver.visits();
        misses.extend(seen.iter().flat_map(|visit| row.misses_of(visit)));
    }
    assert!(misses.is_empty(), "{misses:#?}");
    assert_eq!(letters.len(), fail, "a dead letter for each that fails");
    let delivered = worker
        .metric("magnetite_attempts_total", "outcome=\"delivered\"")
        .await;
    assert_eq!(delivered as usize, ROWS.len() - fail);
    assert!(worker.terminate().await);
    delete(installation).await;
}

/// The delays between attempts of the test below, and so its tiers.
const TIERS_MS: [u64; 3] = [200, 1000, 3000];

/// What a receiver answers to the first two attempts, and which tiers are taken then. The schedule says 200 and 1000.
struct Asked {
    status: u16,
    retry_after: Wish,
    tiers_ms: [u64; 2],
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    Text(&'static str),
    /// The HTTP date of so many seconds from now, as RFC 9110 wants it.
    Imf(i64),
    /// The same in the form of RFC 850.
    Rfc850(i64),
    /// The same in the form of C's asctime.
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
    // A header that says nothing, or less than the schedule.
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
        // It means nothing with any other status.
        asked(500, Text("2"), SCHEDULE),
        asked(404, Imf(3), SCHEDULE),
        asked(302, Text("2"), SCHEDULE),
    ]
};

impl Wish {
    fn header(self) -> String {
        let from_now = |seconds: i64| {
            let date = SystemTime::now();
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

/// Takes `Tue, 24 Nov 2026 18:31:05 GMT` apart.
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
    delete(installation).await;
}

/// The longest tier that has passed: nothing comes before its time.
fn tier(gap: Duration) -> u64 {
    assert!(gap < Duration::from_secs(5), "{gap:?}");
    let passed = TIERS_MS
        .into_iter()
        .rfind(|tier_ms| gap >= Duration::from_millis(*tier_ms));
    passed.unwrap_or_else(|| panic!("an attempt came after {gap:?}, before any tier"))
}

/// Measures time and memory: nothing else runs beside it.
mod alone {
    use super::*;

    const HOSTILE: usize = 100;
    const HEALTHY_PER_SECOND: u64 = 50;
    /// How much more memory the second half of a run may take than the first. What it takes at once is decided by the
    /// attempts in flight, of which there are as many in both halves; a response that was kept whole, or 1 KiB that was
    /// lost at every attempt, would show.
    const GROWTH_MAX_KIB: u64 = 8 * 1024;
    /// From publishing to the complete request at the receiver, confirm and fan-out included.
    const P99_MAX_MS: f64 = 100.0;

    /// How long it lasts, and how often each hostile endpoint gets an event: about four attempts are in flight at each
    /// one that lets them run to the deadline.
    fn duration() -> Duration {
        scaled(Duration::from_secs(10), Duration::from_mins(1))
    }

    fn hostile_interval() -> Duration {
        deadline() / 2
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_hundred_hostile_endpoints_leave_memory_flat_and_healthy_ones_fast() {
        let certificates = Certificates::new();
        let installation = installation("hostile-crowd", &[200], &certificates).await;
        let mut receivers = Vec::new();
        for number in 0..HOSTILE {
            receivers.push(Hostile::start(ROWS[number % ROWS.len()].hostility, &certificates).await);
        }
        let healthy = Arc::new(Receiver::ok().await);
        let urls = receivers.iter().map(Hostile::url).chain([healthy.url()]);
        let ids = register(&installation, urls.collect()).await;
        let worker = installation.worker().await;

        let (until, pid) = (Instant::now() + duration(), worker.pid());
        let memory = tokio::spawn(watch_memory(pid, until));
        let hostile = tokio::spawn(publish_in_turn(Arc::clone(&installation), until));
        let published = publish_to_healthy(&installation, until).await;
        let (hostile, memory) = (hostile.await.unwrap(), memory.await.unwrap());

        wait_until("every healthy event arrives", Duration::from_secs(10), || {
            healthy.distinct() == published.len()
        })
        .await;
        assert_latency(&healthy, &published);
        assert_flat(&memory);
        assert_books(&installation, &worker, &ids, &hostile, published.len()).await;
        assert_eq!(healthy.count(), published.len(), "nothing was delivered twice");
        assert!(worker.terminate().await);
        delete(installation).await;
    }

    /// Gives each hostile endpoint an event in turn; returns how many each got.
    async fn publish_in_turn(installation: Arc<Installation>, until: Instant) -> Vec<usize> {
        let amqp = installation.connect().await;
        let mut counts = vec![0; HOSTILE];
        let mut pace = tokio::time::interval(hostile_interval() / HOSTILE as u32);
        for number in (0..HOSTILE).cycle() {
            pace.tick().await;
            if Instant::now() >= until {
                break;
            }
            let lead = counts[number].to_string();
            amqp.publish(&[event(&format!("org_{number}"), &lead)]).await;
            counts[number] += 1;
        }
        counts
    }

    async fn publish_to_healthy(installation: &Installation, until: Instant) -> HashMap<String, Instant> {
        let mut published = HashMap::new();
        let mut pace = tokio::time::interval(Duration::from_secs(1) / HEALTHY_PER_SECOND as u32);
        while Instant::now() < until {
            pace.tick().await;
            let lead = published.len().to_string();
            let event = event(&format!("org_{HOSTILE}"), &lead);
            published.insert(lead, Instant::now());
            installation.amqp().publish(&[event]).await;
        }
        published
    }

    /// The process's resident memory in KiB, ten times a second.
    async fn watch_memory(pid: u32, until: Instant) -> Vec<u64> {
        let (mut samples, mut pace) = (Vec::new(), tokio::time::interval(Duration::from_millis(100)));
        while Instant::now() < until {
            pace.tick().await;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))
                .unwrap();
            samples.push(line.trim().trim_end_matches(" kB").parse().unwrap());
        }
        samples
    }

    fn assert_flat(samples: &[u64]) {
        let (first, second) = samples.split_at(samples.len() / 2);
        let [first, second] = [first, second].map(|half| *half.iter().max().unwrap());
        report(
            "100 hostile endpoints: the worker's memory",
            format!(
                "at most {:.1} MiB in the first half, {:.1} MiB in the second",
                first as f64 / 1024.0,
                second as f64 / 1024.0
            ),
        );
        assert!(
            second <= first + GROWTH_MAX_KIB,
            "{first} KiB grew to {second} KiB"
        );
    }

    fn assert_latency(healthy: &Receiver, published: &HashMap<String, Instant>) {
        let mut took_ms: Vec<_> = healthy
            .requests()
            .iter()
            .map(|request| (request.at - published[&request.lead]).as_secs_f64() * 1000.0)
            .collect();
        let [p50, p99, most] = [50.0, 99.0, 100.0].map(|p| percentile(&mut took_ms, p));
        report(
            "100 hostile endpoints: a healthy one, publish to receipt",
            format!(
                "{} events, p50 {p50:.1} ms, p99 {p99:.1} ms, max {most:.1} ms",
                published.len()
            ),
        );
        assert!(p99 <= P99_MAX_MS, "p99 {p99:.1} ms");
    }

    /// Every hostile delivery is dead after two attempts for its endpoint's own reason, or was delivered where that is
    /// how it ends; nothing was taken for our own fault.
    async fn assert_books(
        installation: &Installation,
        worker: &Role,
        ids: &[String],
        hostile: &[usize],
        healthy: usize,
    ) {
        let row = |number: usize| &ROWS[number % ROWS.len()];
        let fails = |number: &usize| row(*number).error.is_some();
        let dead: usize = (0..HOSTILE).filter(fails).map(|number| hostile[number]).sum();
        let limit = 2 * deadline() + Duration::from_secs(30);
        installation
            .amqp()
            .wait_for_ready("dead", dead as u32, limit)
            .await;
        let letters = installation.amqp().drain("dead").await;
        let misses: Vec<_> = letters
            .iter()
            .flat_map(|letter| {
                let id = letter.header("magnetite-endpoint");
                row(ids.iter().position(|known| *known == id).unwrap()).misses_in(letter)
            })
            .collect();
        assert!(misses.is_empty(), "{misses:#?}");
        let delivered = healthy + hostile.iter().sum::<usize>() - dead;
        wait_for("the rest is delivered", limit, || async {
            let counted = worker
                .metric("magnetite_attempts_total", "outcome=\"delivered\"")
                .await as usize;
            if counted == delivered {
                Ok(())
            } else {
                Err(format!("{counted} of {delivered}"))
            }
        })
        .await;
        let put_off = async |reason| worker.metric("magnetite_deferrals_total", reason).await as u64;
        let (faults, no_slot) = (put_off("fault").await, put_off("no_slot").await);
        report(
            "100 hostile endpoints: the books",
            format!(
                "{dead} dead after 2 attempts each, {delivered} delivered, {no_slot} deferrals, {faults} faults"
            ),
        );
        assert_eq!(faults, 0, "attempts were put off for faults of ours");
    }
}
