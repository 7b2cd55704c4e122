//! A test certificate authority, which issues valid server certificates and certificates with exactly one
//! defect.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use crate::now_ms;

/// A certificate authority. A client that trusts it (see [`Certificates::write_pem`]) rejects its bad
/// certificates only for their defect, not for an unknown issuer.
pub struct Certificates(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its private key.
pub struct Issued {
    certificate: Certificate,
    key: KeyPair,
}

/// The host that the valid certificates are issued for.
const HOST: &str = "127.0.0.1";

impl Certificates {
    /// Creates an authority with a new key.
    #[allow(
        clippy::new_without_default,
        reason = "an authority is founded, not defaulted"
    )]
    pub fn new() -> Self {
        static FOUNDED: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        // The name is unique. If two authorities had the same name, clients could tell them apart only by
        // their signatures, and would reject a certificate for a different reason.
        let name = format!("Test authority {}", FOUNDED.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// Writes the authority's own certificate to `file` as PEM, for `egress.root_certificates`.
    pub fn write_pem(&self, file: &Path) {
        std::fs::write(file, self.0.pem()).unwrap();
    }

    /// Returns a TLS acceptor with a valid certificate, which offers `protocols` by ALPN.
    pub fn good(&self, protocols: &[&str]) -> TlsAcceptor {
        self.issue(&params(HOST)).acceptor(protocols)
    }

    /// Returns a TLS acceptor whose certificate is valid and expires this many days and one hour from now.
    pub fn good_for_days(&self, days: u64) -> TlsAcceptor {
        let mut params = params(HOST);
        let until = Duration::from_millis(now_ms()) + Duration::from_hours(24 * days + 1);
        params.not_after = date_time_ymd(1970, 1, 1) + until;
        self.issue(&params).acceptor(&[])
    }

    /// Returns a TLS acceptor whose certificate expired in 2020.
    pub fn expired(&self) -> TlsAcceptor {
        let mut params = params(HOST);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.issue(&params).acceptor(&[])
    }

    /// Returns a TLS acceptor whose certificate becomes valid in 2200.
    pub fn not_yet_valid(&self) -> TlsAcceptor {
        let mut params = params(HOST);
        params.not_before = date_time_ymd(2200, 1, 1);
        self.issue(&params).acceptor(&[])
    }

    /// Returns a TLS acceptor whose certificate is issued for other.example.com.
    pub fn of_another_host(&self) -> TlsAcceptor {
        self.issue(&params("other.example.com")).acceptor(&[])
    }

    /// Returns a TLS acceptor with a self-signed certificate.
    pub fn self_signed(&self) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = params(HOST).self_signed(&key).unwrap();
        Issued { certificate, key }.acceptor(&[])
    }

    /// Returns the authority's own certificate as DER.
    pub fn der(&self) -> &[u8] {
        self.0.der()
    }

    /// Issues a certificate for a host, or for a client with this name.
    pub fn issued_for(&self, name: &str) -> Issued {
        let mut params = params(name);
        params.distinguished_name.push(DnType::CommonName, name);
        self.issue(&params)
    }

    fn issue(&self, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Issued { certificate, key }
    }
}

impl Issued {
    pub(crate) fn certificate_der(&self) -> &[u8] {
        self.certificate.der()
    }

    /// Returns the private key as DER, in PKCS #8 format.
    pub(crate) fn key_der(&self) -> &[u8] {
        self.key.serialized_der()
    }

    /// Writes the certificate and the key as PEM to `NAME.pem` and `NAME.key`, and returns both paths.
    pub fn write_pem(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let write = |extension: &str, pem: String| {
            let file = directory.join(format!("{name}.{extension}"));
            std::fs::write(&file, pem).unwrap();
            file
        };
        (
            write("pem", self.certificate.pem()),
            write("key", self.key.serialize_pem()),
        )
    }

    fn acceptor(self, protocols: &[&str]) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], self.key.into())
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}
