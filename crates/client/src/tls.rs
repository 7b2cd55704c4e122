//! TLS to the API.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::build_error::BuildError;

/// Returns the TLS configuration, which trusts the authorities in `pem`, or those of the system if it is
/// `None`. `needed` says that the API is reached with TLS; otherwise, the system needs no authorities.
///
/// The cryptography is always that of ring, whatever the program that uses the client has installed.
pub(crate) fn config(pem: Option<&[u8]>, needed: bool) -> Result<ClientConfig, BuildError> {
    let roots = match pem {
        Some(pem) => private(pem)?,
        None => system(needed)?,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| BuildError::Http(Box::new(error)))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Returns the same configuration for connections that speak only HTTP/1.1.
pub(crate) fn http1_only(config: &ClientConfig) -> ClientConfig {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn system(needed: bool) -> Result<RootCertStore, BuildError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if needed && roots.is_empty() {
        return Err(BuildError::NoRootCertificates);
    }
    Ok(roots)
}

/// The error does not contain the parser's message, which quotes the text: that may contain a key.
fn private(pem: &[u8]) -> Result<RootCertStore, BuildError> {
    let bad = |reason: String| BuildError::RootCertificates { reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| bad("they are not valid PEM".to_owned()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("they contain no certificate".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused_and_not_quoted() {
        let broken = "-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n";
        let short = "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n";
        for bad in ["", "hunter2", broken, short] {
            let error = config(Some(bad.as_bytes()), true).unwrap_err().to_string();
            assert!(error.contains("root certificates"), "{bad}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn without_tls_the_system_needs_no_authorities() {
        assert!(config(None, false).is_ok());
    }
}
