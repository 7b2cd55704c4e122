//! Warns about certificates that expire within 14 days: with a log line, two gauges, and an operational event
//! for each endpoint.
//!
//! The expiry dates come from TLS handshakes and are kept in memory, so nothing is added to the hot path. An
//! unavailable database delays only the operational events.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use egress::{Certificates, EXPIRES_SOON, tls_host};
use runtime::Lasting;
use store::Store;
use tokio::time::{sleep, timeout};
use webhook::EndpointId;

use crate::{
    display_chain, meters, now_ms,
    registry::{Registered, Registry},
};

/// The interval between two checks if no new certificate is seen. It bounds how late an endpoint that is new
/// at a known host is announced, which is short compared with 14 days.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// The minimum pause between two checks, regardless of the number of handshakes. One check of 100,000
/// endpoints takes tens of milliseconds.
const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// The minimum time between two log lines about the same host, in seconds.
const LOG_EVERY_S: i64 = 24 * 60 * 60;
/// The number of endpoints to check before yielding to other tasks.
const TURN: usize = 1000;

/// The warnings that were already given, so that they are not repeated at every check.
#[derive(Default)]
struct Warned {
    /// For each host, when it was last logged, in Unix seconds.
    logged_s: HashMap<String, i64>,
    /// The endpoints whose event is in the database, each with the expiry date that the event reports, in
    /// Unix seconds.
    announced: HashMap<EndpointId, i64>,
    /// Tracks failures to write such an event to the database.
    unwritten: Lasting,
}

/// The result of one check.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// The hosts whose certificate expires soon, with the expiry date in Unix seconds.
    soon: HashMap<String, i64>,
    /// The earliest expiry of all certificates, in Unix seconds; `None` if there are none.
    first_s: Option<i64>,
}

/// Watches the certificates. Never returns.
pub(crate) async fn watch(certificates: &Certificates, registry: &Registry, store: &Store) {
    report(&Found::default(), 0);
    let (mut warned, mut wait) = (Warned::default(), LOOK_EVERY);
    loop {
        let _ = timeout(wait, certificates.changed()).await;
        let is_done = look(certificates, registry, store, &mut warned).await;
        wait = if is_done { LOOK_EVERY } else { Duration::ZERO };
        sleep(LOOK_PAUSE).await;
    }
}

/// Checks all certificates once. Returns `false` if the database did not accept all events.
async fn look(certificates: &Certificates, registry: &Registry, store: &Store, warned: &mut Warned) -> bool {
    let expiries = certificates.expiries();
    if expiries.is_empty() {
        return true;
    }
    let (endpoints, now_s) = (by_host(registry.all(), &expiries).await, now_ms() as i64 / 1000);
    certificates.retain(|host| endpoints.contains_key(host) || !expiries.contains_key(host));
    let of_endpoints = expiries
        .into_iter()
        .filter(|(host, _)| endpoints.contains_key(host));
    let found = find(of_endpoints, now_s);
    report(&found, now_s);
    log(&found.soon, now_s, &mut warned.logged_s);
    let told = found
        .soon
        .iter()
        .flat_map(|(host, expires_s)| endpoints[host].iter().map(|id| (id.clone(), *expires_s)));
    announce(told.collect(), store, warned).await
}

/// Returns the endpoints at each of these hosts.
async fn by_host(
    all: Vec<Arc<Registered>>,
    hosts: &HashMap<String, i64>,
) -> HashMap<String, Vec<EndpointId>> {
    let mut found = HashMap::<_, Vec<_>>::new();
    for some in all.chunks(TURN) {
        for registered in some {
            let host = tls_host(&registered.endpoint.url).filter(|host| hosts.contains_key(host));
            if let Some(host) = host {
                found
                    .entry(host)
                    .or_default()
                    .push(registered.endpoint.id.clone());
            }
        }
        tokio::task::yield_now().await;
    }
    found
}

fn find(expiries: impl Iterator<Item = (String, i64)>, now_s: i64) -> Found {
    let mut found = Found::default();
    for (host, expires_s) in expiries {
        found.first_s = Some(found.first_s.map_or(expires_s, |first_s| first_s.min(expires_s)));
        if expires_s < now_s + EXPIRES_SOON.as_secs() as i64 {
            found.soon.insert(host, expires_s);
        }
    }
    found
}

fn report(found: &Found, now_s: i64) {
    meters::CERTIFICATES_EXPIRING
        .level([])
        .set(found.soon.len() as f64);
    // Without certificates there is no earliest expiry.
    let least_s = found
        .first_s
        .map_or(f64::INFINITY, |first_s| (first_s - now_s) as f64);
    meters::CERTIFICATE_EXPIRY_MIN.level([]).set(least_s);
}

fn log(soon: &HashMap<String, i64>, now_s: i64, logged_s: &mut HashMap<String, i64>) {
    logged_s.retain(|host, _| soon.contains_key(host));
    for (host, expires_s) in soon {
        let last_s = logged_s.get(host);
        if last_s.is_none_or(|last_s| now_s - last_s >= LOG_EVERY_S) {
            tracing::warn!(
                host,
                expires = date(*expires_s),
                days_left = (expires_s - now_s).div_euclid(LOG_EVERY_S),
                "the certificate of an endpoint's host expires soon; deliveries to it will fail unless it is renewed"
            );
            logged_s.insert(host.clone(), now_s);
        }
    }
}

/// Writes the events that are not in the database yet. Returns `false` if that fails; the next check tries
/// again.
async fn announce(told: HashMap<EndpointId, i64>, store: &Store, warned: &mut Warned) -> bool {
    let announced = &mut warned.announced;
    announced.retain(|id, expires_s| told.get(id) == Some(expires_s));
    for (id, expires_s) in told {
        if announced.contains_key(&id) {
            continue;
        }
        match store
            .announce_expiring(&id, &date(expires_s), now_ms() as i64)
            .await
        {
            Ok(()) => {
                warned.unwritten.end();
                announced.insert(id, expires_s);
            }
            Err(error) => {
                if warned.unwritten.again().is_some() {
                    tracing::warn!(
                        error = display_chain(&error),
                        "cannot record that a certificate expires soon; trying again"
                    );
                }
                return false;
            }
        }
    }
    true
}

/// Formats a time as RFC 3339 with a resolution of one second. A time before 1970 becomes the beginning of
/// 1970.
fn date(unix_s: i64) -> String {
    /// 9999-12-31T23:59:59Z, the last time that RFC 3339 can express.
    const LAST_S: u64 = 253_402_300_799;
    let since_epoch = Duration::from_secs(unix_s.try_into().unwrap_or(0).min(LAST_S));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since_epoch).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_S: i64 = 24 * 60 * 60;

    fn hosts(expiries: &[(&str, i64)]) -> HashMap<String, i64> {
        expiries
            .iter()
            .map(|(host, at_s)| ((*host).to_owned(), *at_s))
            .collect()
    }

    #[test]
    fn fourteen_days_before_its_end_a_certificate_expires_soon() {
        let all = [("gone", -DAY_S), ("soon", 14 * DAY_S - 1), ("later", 14 * DAY_S)];
        let found = find(hosts(&all).into_iter(), 0);
        let soon = hosts(&all[..2]);
        assert_eq!(
            found,
            Found {
                soon,
                first_s: Some(-DAY_S)
            }
        );
        assert_eq!(find([].into_iter(), 0), Found::default());
    }

    #[test]
    fn a_host_is_logged_once_a_day_and_again_after_it_was_well() {
        let (soon, mut logged) = (hosts(&[("a", 5 * DAY_S)]), HashMap::new());
        for (now_s, last_s) in [(0, 0), (1, 0), (DAY_S - 1, 0), (DAY_S, DAY_S)] {
            log(&soon, now_s, &mut logged);
            assert_eq!(logged, hosts(&[("a", last_s)]), "{now_s}");
        }
        log(&HashMap::new(), DAY_S, &mut logged);
        assert!(logged.is_empty());
    }

    #[test]
    fn a_date_is_a_date_whatever_the_certificate_says() {
        for (unix_s, text) in [
            (1_795_568_400, "2026-11-25T01:00:00Z"),
            (-1, "1970-01-01T00:00:00Z"),
            (i64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(date(unix_s), text);
        }
    }
}
