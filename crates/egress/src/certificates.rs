//! The expiry of servers' certificates, as last seen in a handshake.
//!
//! Only handshakes record it, so a request over an existing connection costs nothing here. While a connection
//! is kept open, a renewed certificate is not seen. TLS sessions with a host whose certificate expires soon
//! are not resumed, so that the next handshake shows whether the certificate was renewed.
//!
//! Expiries are kept by host, because a handshake does not know the port. If a host has different
//! certificates at different ports, the one that was seen last is reported.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::sync::Notify;
use url::{Host, Url};
use x509_parser::parse_x509_certificate;
use x509_parser::prelude::{GeneralName, X509Certificate};

/// How long before its expiry a certificate counts as expiring soon. Most certificates are renewed 30 days
/// before their expiry, so the renewal of one that has less than 14 days left was probably forgotten.
pub const EXPIRES_SOON: Duration = Duration::from_hours(14 * 24);

/// The maximum number of hosts, as many as there can be endpoints. Further hosts are not recorded.
const HOSTS_MAX: usize = 100_000;
/// The maximum number of a certificate's names that are reported.
const NAMES_TOLD_MAX: usize = 5;

/// The known expiries of all hosts' certificates. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Certificates(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// The expiries in Unix seconds, by host.
    expiries: Mutex<HashMap<String, i64>>,
    changed: Notify,
}

/// One certificate of a chain, as presented by a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The names or addresses that the certificate is for, at most 5; its subject if it has none.
    pub subject: String,
    /// The name of the issuer.
    pub issuer: String,
    /// When the certificate expires, in Unix seconds.
    pub not_after_s: i64,
}

impl Certificates {
    /// Waits until a host presents a certificate with a new expiry. Returns immediately if one has since the
    /// last call.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Returns the expiry of every host's certificate, in Unix seconds.
    pub fn expiries(&self) -> HashMap<String, i64> {
        self.lock().clone()
    }

    /// Forgets the hosts for which `is_wanted` returns `false`.
    pub fn retain(&self, is_wanted: impl Fn(&str) -> bool) {
        self.lock().retain(|host, _| is_wanted(host));
    }

    /// Records a trusted certificate that a server presented in a handshake.
    pub(crate) fn note(&self, server: &ServerName<'_>, leaf: &CertificateDer<'_>) {
        let Ok((_, certificate)) = parse_x509_certificate(leaf) else {
            return;
        };
        let (host, not_after_s) = (server.to_str(), not_after_s(&certificate));
        let mut expiries = self.lock();
        if expiries.get(&*host) == Some(&not_after_s)
            || expiries.len() >= HOSTS_MAX && !expiries.contains_key(&*host)
        {
            return;
        }
        expiries.insert(host.into_owned(), not_after_s);
        drop(expiries);
        self.0.changed.notify_one();
    }

    /// Returns whether the certificate that the host last presented expires soon.
    pub(crate) fn expires_soon(&self, server: &ServerName<'_>) -> bool {
        #[expect(
            clippy::disallowed_methods,
            reason = "rustls asks in a handshake, and does not pass the time"
        )]
        let until_s = UnixTime::now().as_secs() + EXPIRES_SOON.as_secs();
        let not_after_s = self.lock().get(&*server.to_str()).copied();
        not_after_s.is_some_and(|not_after_s| not_after_s < until_s as i64)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, i64>> {
        self.0.expiries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Certificate {
    /// Parses a certificate; returns `None` if it cannot be read.
    pub(crate) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        Some(Self {
            subject: names(&certificate).unwrap_or_else(|| certificate.subject().to_string()),
            issuer: certificate.issuer().to_string(),
            not_after_s: not_after_s(&certificate),
        })
    }
}

/// Returns the host under which a handshake for this URL is recorded; `None` if the URL does not use TLS.
pub fn tls_host(url: &str) -> Option<String> {
    // Avoids parsing URLs without TLS.
    if !url.get(..6)?.eq_ignore_ascii_case("https:") {
        return None;
    }
    match Url::parse(url).ok()?.host()? {
        Host::Domain(name) => Some(name.to_owned()),
        Host::Ipv4(v4) => Some(v4.to_string()),
        Host::Ipv6(v6) => Some(v6.to_string()),
    }
}

fn not_after_s(certificate: &X509Certificate<'_>) -> i64 {
    certificate.validity().not_after.timestamp()
}

fn names(certificate: &X509Certificate<'_>) -> Option<String> {
    let alternatives = certificate.subject_alternative_name().ok()??;
    let names = alternatives
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        });
    let names: Vec<_> = names.take(NAMES_TOLD_MAX).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn address(bytes: &[u8]) -> Option<String> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes)
            .ok()
            .map(|v4| std::net::Ipv4Addr::from(v4).to_string()),
        _ => <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|v6| std::net::Ipv6Addr::from(v6).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(until_year: i32) -> CertificateDer<'static> {
        let mut params =
            CertificateParams::new(vec!["a.example".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        params.not_after = date_time_ymd(until_year, 1, 1);
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .clone()
    }

    fn server(name: &'static str) -> ServerName<'static> {
        ServerName::try_from(name).unwrap()
    }

    const Y2040_S: i64 = 2_208_988_800;

    #[test]
    fn a_host_is_noted_with_what_it_showed_last_until_it_is_forgotten() {
        let seen = Certificates::default();
        for (host, year) in [("a.example", 2030), ("a.example", 2040), ("::1", 2040)] {
            seen.note(&server(host), &certificate(year));
        }
        let expected = [("a.example".to_owned(), Y2040_S), ("::1".to_owned(), Y2040_S)];
        assert_eq!(seen.expiries(), HashMap::from(expected));
        seen.retain(|host| host == "::1");
        assert_eq!(seen.expiries().len(), 1);
        seen.note(&server("b.example"), &CertificateDer::from(vec![1, 2, 3]));
        assert_eq!(seen.expiries().len(), 1, "what cannot be read is not noted");
    }

    #[test]
    fn what_has_expired_does_so_soon_and_what_is_not_known_does_not() {
        let seen = Certificates::default();
        seen.note(&server("a.example"), &certificate(2020));
        seen.note(&server("b.example"), &certificate(4000));
        let soon = ["a.example", "b.example", "c.example"].map(|host| seen.expires_soon(&server(host)));
        assert_eq!(soon, [true, false, false]);
    }

    #[tokio::test]
    async fn whoever_waits_is_told_of_what_is_new_and_not_of_what_is_known() {
        use futures_util::FutureExt as _;
        let (seen, der) = (Certificates::default(), certificate(2040));
        for (host, is_told) in [("a.example", true), ("a.example", false), ("b.example", true)] {
            seen.note(&server(host), &der);
            assert_eq!(seen.changed().now_or_never().is_some(), is_told, "{host}");
        }
    }

    #[test]
    fn a_certificate_is_told_by_its_names() {
        let told = Certificate::read(&certificate(2040)).unwrap();
        assert_eq!(
            (&*told.subject, told.not_after_s),
            ("a.example, 192.0.2.1", Y2040_S)
        );
        assert!(told.issuer.contains("rcgen"), "{told:?}");
    }

    #[test]
    fn the_host_of_a_url_is_spelled_as_in_a_handshake() {
        for (url, host) in [
            ("https://A.example:8443/x?y", Some("a.example")),
            ("HTTPS://[0:0::1]/", Some("::1")),
            ("https://0x7f.1/", Some("127.0.0.1")),
            ("http://a.example/", None),
            ("https:", None),
            ("", None),
        ] {
            assert_eq!(tls_host(url).as_deref(), host, "{url}");
        }
    }
}
