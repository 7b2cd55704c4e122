//! TLS to the broker: trusted certificate authorities and the client certificate.

use std::{fmt, io, sync::Arc};

use lapin::tcp::RustlsConnector;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, InvalidMessage, RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

/// TLS settings for connections to the broker.
///
/// By default, the broker's certificate has to be issued by an authority that the system trusts, for the host
/// in the broker's URL, and there is no client certificate. `Debug` does not show the key.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of the authorities to trust instead of the system's (PEM, one or more certificates in
    /// each element). Empty to trust the system's authorities.
    pub root_certificates: Vec<Vec<u8>>,
    /// The client certificate (PEM), followed by the intermediate certificates between it and its authority.
    /// Empty for no client certificate.
    pub certificate: Vec<u8>,
    /// The private key of the client certificate (PEM, not encrypted).
    pub key: Vec<u8>,
    /// The host name in the broker's certificate; `None` if it is the host in the broker's URL.
    pub server_name: Option<String>,
}

/// An invalid part of a [`Tls`]. The messages never contain parts of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTls {
    /// The authorities' certificates cannot be used.
    #[error("expected PEM with certificates of certificate authorities: {0}")]
    RootCertificates(String),
    /// The client certificate cannot be used, or does not belong to the key.
    #[error("expected PEM with a certificate that matches the key: {0}")]
    Certificate(String),
    /// The private key of the client certificate cannot be used.
    #[error("expected PEM with the private key of the certificate, not encrypted: {0}")]
    Key(String),
    /// [`Tls::server_name`] is neither a host name nor an IP address.
    #[error("expected a host name or an IP address")]
    ServerName,
    /// TLS settings are given, but no URL that they would apply to uses TLS.
    #[error(
        "expected no value unless broker.url has amqps:// or broker.management_url has https://; broker.tls.server_name needs amqps://"
    )]
    NoTls,
}

/// The TLS configuration of connections to the broker.
#[derive(Clone, Default)]
pub(crate) struct Connector {
    /// `None` to trust the system's authorities, which are read whenever a connection is made, and to present
    /// no client certificate.
    pub(crate) config: Option<Arc<ClientConfig>>,
    server_name: Option<String>,
}

impl Connector {
    pub(crate) fn new(tls: &Tls) -> Result<Self, BadTls> {
        if let Some(name) = &tls.server_name {
            ServerName::try_from(name.as_str()).map_err(|_| BadTls::ServerName)?;
        }
        Ok(Self {
            config: tls.config()?.map(Arc::new),
            server_name: tls.server_name.clone(),
        })
    }

    /// Returns the TLS connector for one handshake.
    pub(crate) fn rustls(&self) -> io::Result<RustlsConnector> {
        match &self.config {
            Some(config) => Ok(RustlsConnector::from(Arc::clone(config))),
            None => RustlsConnector::new_with_native_certs(),
        }
    }

    /// Returns the name that the broker's certificate must be valid for.
    pub(crate) fn name<'a>(&'a self, host: &'a str) -> &'a str {
        self.server_name.as_deref().unwrap_or(host)
    }
}

impl Tls {
    fn config(&self) -> Result<Option<ClientConfig>, BadTls> {
        let has_certificate = !self.certificate.is_empty() || !self.key.is_empty();
        if self.root_certificates.is_empty() && !has_certificate {
            return Ok(None);
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| BadTls::RootCertificates(error.to_string()))?
            .with_root_certificates(self.roots()?);
        if !has_certificate {
            return Ok(Some(config.with_no_client_auth()));
        }
        if self.key.is_empty() {
            return Err(BadTls::Certificate("broker.tls.key is not set".to_owned()));
        }
        if self.certificate.is_empty() {
            return Err(BadTls::Key("broker.tls.certificate is not set".to_owned()));
        }
        let chain = certificates(&self.certificate).map_err(BadTls::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| BadTls::Key("it contains no such key".to_owned()))?;
        let config = config.with_client_auth_cert(chain, key);
        config.map(Some).map_err(|error| match error {
            rustls::Error::General(_) => BadTls::Key("keys of this kind are not supported".to_owned()),
            error => BadTls::Certificate(error.to_string()),
        })
    }

    fn roots(&self) -> Result<RootCertStore, BadTls> {
        let mut roots = RootCertStore::empty();
        if self.root_certificates.is_empty() {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        }
        for (index, pem) in self.root_certificates.iter().enumerate() {
            let bad = |reason: String| BadTls::RootCertificates(format!("number {}: {reason}", index + 1));
            for certificate in certificates(pem).map_err(bad)? {
                roots.add(certificate).map_err(|error| bad(error.to_string()))?;
            }
        }
        Ok(roots)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Parses the certificates in `pem`, of which there must be at least one.
///
/// The error does not contain the parser's message: it quotes the file, which may contain a key.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|_| "it is not valid PEM")?;
    if found.is_empty() {
        return Err("it contains no certificate".to_owned());
    }
    Ok(found)
}

/// Replaces the error of a TLS handshake with advice if it has one of the usual causes.
pub(crate) fn explained(error: io::Error, name: &str) -> io::Error {
    let reason = error.get_ref().and_then(|inner| inner.downcast_ref());
    let advice = match reason {
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "this port does not speak TLS: set broker.url to the port of RabbitMQ's TLS listener, usually 5671, or use amqp:// to \
             connect without TLS"
                .to_owned()
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "the broker's certificate is not issued by a trusted authority: add the authority's certificate to \
             broker.tls.root_certificates"
                .to_owned()
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => format!(
            "the broker's certificate is not valid for {name}: correct the host in broker.url, or set broker.tls.server_name"
        ),
        _ => return refused(error, false),
    };
    io::Error::new(error.kind(), advice)
}

/// Adds advice to an error of a connection whose handshake was completed, if a client certificate may be the
/// cause: with TLS 1.3, a server reports only after the handshake that a client certificate is missing or not
/// trusted.
///
/// `begins` says that the connection uses TLS and that nothing has been read from it yet. In this state, a
/// reset may have arrived before the server's alert, so it is explained as well.
pub(crate) fn refused(error: io::Error, begins: bool) -> io::Error {
    let reason = error.get_ref().and_then(|inner| inner.downcast_ref());
    let advice = match reason {
        Some(rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure,
        )) => "if the broker requires a client certificate, set broker.tls.certificate and broker.tls.key",
        Some(rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA,
        )) => {
            "the broker refused the client certificate: set broker.tls.certificate to a valid one whose issuer it trusts"
        }
        _ if begins && is_end(error.kind()) => {
            "the connection ended right after the TLS handshake: if the broker requires a client certificate, set \
             broker.tls.certificate and broker.tls.key, or set a certificate that it trusts"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}: {advice}"))
}

fn is_end(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("root_certificates", &self.root_certificates.len())
            .field("certificate", &self.certificate.len())
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}
