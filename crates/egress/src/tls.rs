//! TLS as a client: trusted certificates, and explanations of failures.

use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption, WebPkiServerVerifier};
use rustls::client::{Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, NamedGroup, RootCertStore};
use tracing::warn;
use webhook::Phase;

use crate::certificates::Certificates;
use crate::config::SetupError;
use crate::progress;

mod algorithms;
mod verify;

pub(crate) use verify::{Keep, Watching};

/// The maximum number of servers whose sessions are kept for resumption.
const SESSIONS_MAX: usize = 1024;
/// The maximum number of a certificate's names that are reported.
const NAMES_TOLD_MAX: usize = 5;

/// What is said about a server that answers a TLS handshake with something other than TLS.
pub const NOT_TLS: &str = "does not speak TLS at this port";

/// Creates a verifier that trusts the system's root certificates and the given ones (PEM, one or more in each
/// element).
///
/// # Errors
/// Returns an error if a given certificate cannot be used. Also returns an error if there are no root
/// certificates, unless `is_ignored` is set: every endpoint's certificate would be reported as invalid.
pub(crate) fn verifier(
    extra_roots_pem: &[Vec<u8>],
    is_ignored: bool,
) -> Result<Arc<WebPkiServerVerifier>, SetupError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        warn!(%error, "some root certificates cannot be read");
    }
    roots.add_parsable_certificates(system.certs);
    for pem in extra_roots_pem {
        add_pem(&mut roots, pem)?;
    }
    if roots.is_empty() && !is_ignored {
        return Err(SetupError::NoRootCertificates);
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|source| SetupError::RootCertificate(Box::new(source)))
}

/// Creates the configuration for TLS 1.2 and 1.3, with HTTP/2 if the server supports it.
pub(crate) fn client_config(
    verifier: Arc<dyn ServerCertVerifier>,
    resumption: Resumption,
) -> Result<ClientConfig, SetupError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(SetupError::Tls)?
        // This is the name for all verifiers other than rustls' own choice; ours delegates to the same
        // verifier.
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.resumption = resumption;
    Ok(config)
}

/// Returns the same configuration with HTTP/1.1 only.
pub(crate) fn without_http2(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Enables session resumption, except at hosts whose certificate expires soon.
pub(crate) fn resumption(certificates: Certificates) -> Resumption {
    Resumption::store(Arc::new(Sessions {
        cache: ClientSessionMemoryCache::new(SESSIONS_MAX),
        certificates,
    }))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        signature_verification_algorithms: *algorithms::SUPPORTED,
        ..rustls::crypto::ring::default_provider()
    })
}

fn add_pem(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), SetupError> {
    let mut found = false;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|source| SetupError::RootCertificate(Box::new(source)))?;
        roots
            .add(certificate)
            .map_err(|source| SetupError::RootCertificate(Box::new(source)))?;
        found = true;
    }
    if found {
        Ok(())
    } else {
        Err(SetupError::RootCertificate("it contains no certificate".into()))
    }
}

/// A session store in memory that also records the beginning of a handshake: the hint is requested when the
/// first message is written.
#[derive(Debug)]
struct Sessions {
    cache: ClientSessionMemoryCache,
    certificates: Certificates,
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.cache.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        progress::enter(Phase::Tls);
        self.cache.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.cache.set_tls12_session(server, value);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let resumed = self.cache.tls12_session(server)?;
        (!self.certificates.expires_soon(server)).then_some(resumed)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.cache.remove_tls12_session(server);
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.cache.insert_tls13_ticket(server, value);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let resumed = self.cache.take_tls13_ticket(server)?;
        (!self.certificates.expires_soon(server)).then_some(resumed)
    }
}

/// Explains a TLS error so that the owner of the endpoint can act on it.
pub(crate) fn explain(error: &rustls::Error, host: &str) -> String {
    match error {
        rustls::Error::InvalidCertificate(reason) => explain_certificate(reason, host),
        rustls::Error::InvalidMessage(_) => {
            format!("{host} {NOT_TLS}; use the port for https")
        }
        rustls::Error::AlertReceived(alert) => format!("{host} refused the TLS handshake: {alert:?}"),
        rustls::Error::PeerIncompatible(reason) => {
            format!("{host} and this client have no TLS version or cipher suite in common: {reason:?}")
        }
        other => format!("the TLS connection with {host} failed: {other}"),
    }
}

fn explain_certificate(reason: &CertificateError, host: &str) -> String {
    match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the certificate of {host} has expired")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the certificate of {host} is not valid yet")
        }
        CertificateError::UnknownIssuer => format!(
            "the certificate of {host} is self-signed, or its issuer is unknown, or an intermediate certificate is \
             missing"
        ),
        CertificateError::NotValidForName => format!("the certificate is not valid for {host}"),
        CertificateError::NotValidForNameContext { presented, .. } => {
            // Such as `DnsName("www.example.com")`.
            let plain = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
            let names: Vec<_> = presented.iter().take(NAMES_TOLD_MAX).map(plain).collect();
            format!(
                "the certificate is not valid for {host}, only for {}",
                names.join(", ")
            )
        }
        CertificateError::BadSignature => {
            format!("the certificate of {host} was not signed by the issuer that it names")
        }
        CertificateError::Revoked => format!("the certificate of {host} has been revoked"),
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            format!(
                "the certificate of {host} is an authority's (CA:TRUE), as most self-signed ones are; a server must not use it"
            )
        }
        other => format!("the certificate of {host} is not valid: {other:?}"),
    }
}
