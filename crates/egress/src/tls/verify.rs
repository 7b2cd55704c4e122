//! Certificate verifiers that report the certificates they verify.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::certificates::{Certificate, Certificates};

/// A wrapper around the real verifier that reports the certificates presented to it.
#[derive(Debug)]
pub(crate) struct Watching<W> {
    real: Arc<WebPkiServerVerifier>,
    watch: W,
    /// Whether untrusted certificates are accepted as well.
    takes_any: bool,
}

/// A recipient of reports about presented certificates.
pub(crate) trait Watch: std::fmt::Debug + Send + Sync {
    fn shown(&self, server: &ServerName<'_>, chain: Chain<'_>, is_trusted: bool);
}

/// The server's own certificate and the certificates above it.
#[derive(Clone, Copy)]
pub(crate) struct Chain<'a>(&'a CertificateDer<'a>, &'a [CertificateDer<'a>]);

/// A recipient that keeps the last chain, whether trusted or not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keep(Arc<Mutex<Vec<Certificate>>>);

impl<W> Watching<W> {
    pub(crate) fn new(real: Arc<WebPkiServerVerifier>, watch: W) -> Arc<Self> {
        Arc::new(Self {
            real,
            watch,
            takes_any: false,
        })
    }

    /// Creates a verifier that accepts every certificate.
    pub(crate) fn taking_any(real: Arc<WebPkiServerVerifier>, watch: W) -> Arc<Self> {
        Arc::new(Self {
            real,
            watch,
            takes_any: true,
        })
    }
}

impl Watch for Certificates {
    fn shown(&self, server: &ServerName<'_>, Chain(leaf, _): Chain<'_>, is_trusted: bool) {
        if is_trusted {
            self.note(server, leaf);
        }
    }
}

impl Keep {
    pub(crate) fn chain(&self) -> Vec<Certificate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Watch for Keep {
    fn shown(&self, _: &ServerName<'_>, Chain(leaf, above): Chain<'_>, _: bool) {
        let chain = std::iter::once(leaf).chain(above);
        let chain = chain.filter_map(Certificate::read).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = chain;
    }
}

impl<W: Watch> ServerCertVerifier for Watching<W> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = self
            .real
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        self.watch
            .shown(server_name, Chain(end_entity, intermediates), judged.is_ok());
        if self.takes_any {
            return Ok(ServerCertVerified::assertion());
        }
        judged
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.takes_any {
            return Ok(HandshakeSignatureValid::assertion());
        }
        self.real.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.takes_any {
            return Ok(HandshakeSignatureValid::assertion());
        }
        self.real.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.real.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.real.root_hint_subjects()
    }
}
