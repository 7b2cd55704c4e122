//! TLS as a client: whom to trust, and what to say when there is no trust.

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

/// How many servers' sessions are kept for resumption.
const SESSIONS_MAX: usize = 1024;
/// How many of a certificate's names are told.
const NAMES_TOLD_MAX: usize = 5;

/// Trusts the system's root certificates and the given ones (PEM, one or more in each).
///
/// # Errors
/// Without any root certificate every endpoint would look as if its certificate were bad, unless that
/// `is_ignored`.
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

/// TLS 1.2 and 1.3, by HTTP/2 if the server can.
pub(crate) fn client_config(
    verifier: Arc<dyn ServerCertVerifier>,
    resumption: Resumption,
) -> Result<ClientConfig, SetupError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(SetupError::Tls)?
        // The name of whatever is not rustls' own choice of a verifier; ours asks the same one.
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.resumption = resumption;
    Ok(config)
}

/// The same, by HTTP/1.1 alone.
pub(crate) fn without_http2(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Sessions are resumed, but not at hosts whose certificate is about to expire.
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

/// The sessions in memory, and the mark that a handshake began: a hint is asked for when the first message is
/// written.
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

/// A TLS error in words that the owner of the endpoint can act on.
pub(crate) fn explain(error: &rustls::Error, host: &str) -> String {
    match error {
        rustls::Error::InvalidCertificate(reason) => explain_certificate(reason, host),
        rustls::Error::InvalidMessage(_) => {
            format!("{host} does not speak TLS at this port: is it that of https?")
        }
        rustls::Error::AlertReceived(alert) => format!("{host} refused the TLS handshake: {alert:?}"),
        rustls::Error::PeerIncompatible(reason) => {
            format!("{host} and this client have no TLS version or cipher suite in common: {reason:?}")
        }
        other => format!("TLS with {host} failed: {other}"),
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
             not sent along"
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
        // What most tools make when asked for a self-signed one.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            format!(
                "the certificate of {host} is self-signed, or that of an authority itself (CA:TRUE), which no server may use"
            )
        }
        other => format!("the certificate of {host} is not valid: {other:?}"),
    }
}
