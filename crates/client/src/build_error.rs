//! The reasons why a client cannot be built.

use std::error::Error as StdError;

/// The reason why a [`Client`](crate::Client) cannot be built. No message quotes the URL of the API or of the
/// proxy, which may contain a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The URL of the API is not valid.
    #[error(
        "the URL of the API is not valid: {reason}; expected https://HOST or http://HOST, with a port and a path if needed"
    )]
    Url {
        /// What is wrong with it.
        reason: String,
    },
    /// The URL of the proxy is not valid.
    #[error(
        "the URL of the proxy is not valid: {reason}; expected http://HOST or https://HOST, with a port, a user and a password if needed"
    )]
    Proxy {
        /// What is wrong with it.
        reason: String,
    },
    /// The certificates of the private authority cannot be used.
    #[error("the root certificates are not valid: {reason}; expected PEM with one or more certificates")]
    RootCertificates {
        /// What is wrong with them.
        reason: String,
    },
    /// The system's certificate authorities cannot be read, or there are none, and no other one was given. The
    /// environment variables `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the places where they are looked for.
    #[error(
        "no root certificates can be read on this system; install them (on Debian, the package ca-certificates), correct SSL_CERT_FILE and SSL_CERT_DIR if they are set, or pass root_certificates"
    )]
    NoRootCertificates,
    /// The HTTP client could not be created.
    #[error("cannot create an HTTP client")]
    Http(#[source] Box<dyn StdError + Send + Sync>),
}
