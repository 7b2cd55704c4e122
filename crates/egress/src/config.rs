//! The settings of the HTTP client, and the errors of setting it up.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

/// The settings for reaching endpoints.
#[derive(Clone, Debug)]
pub struct Config {
    /// Networks that may be reached although they are not public. None by default.
    pub allow: Vec<IpNet>,
    /// Whether new endpoints may use http, which an attacker on the network path can read and change. At the
    /// addresses in `allow`, they may use http in any case.
    pub allow_http: bool,
    /// The maximum duration of one attempt: lookup, connection, TLS, request, response and its body. 30 s by
    /// default (CONTRACT, "Webhook timeouts").
    pub attempt_timeout: Duration,
    /// The maximum number of idle connections per scheme, host and port. It does not limit connections in
    /// use.
    ///
    /// 512 by default, like the default number of a worker's slots: many endpoints can be on one host, and
    /// responses arrive in bursts. A connection that is idle for a moment beyond this limit is closed and
    /// opened again, which costs as much as several deliveries.
    pub idle_per_host_max: usize,
    /// How long an idle connection is kept. 20 s by default, which is less than most servers keep theirs.
    pub idle_timeout: Duration,
    /// The name servers to ask for addresses. Empty (the default) to use the name servers of
    /// `/etc/resolv.conf`.
    pub name_servers: Vec<SocketAddr>,
    /// Root certificates (PEM) to trust in addition to the system's, for private certificate authorities.
    pub root_certificates: Vec<Vec<u8>>,
    /// Whether to accept every certificate. This is for a developer's own application, never for endpoints.
    pub insecure: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            allow_http: false,
            attempt_timeout: Duration::from_secs(30),
            idle_per_host_max: 512,
            idle_timeout: Duration::from_secs(20),
            name_servers: Vec::new(),
            root_certificates: Vec::new(),
            insecure: false,
        }
    }
}

/// The reason why the HTTP client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// `/etc/resolv.conf` is missing, unreadable, or contains no name server.
    #[error("/etc/resolv.conf cannot be used; correct it, or set egress.name_servers")]
    SystemResolver(#[source] Box<dyn Error + Send + Sync>),
    /// The resolver cannot be started.
    #[error("the resolver cannot be set up")]
    Resolver(#[source] Box<dyn Error + Send + Sync>),
    /// One of [`Config::root_certificates`] cannot be used.
    #[error("a root certificate of the configuration cannot be used")]
    RootCertificate(#[source] Box<dyn Error + Send + Sync>),
    /// There are no root certificates. Every certificate would be reported as having an unknown issuer.
    #[error(
        "there are no root certificates; install the package ca-certificates, or set egress.root_certificates"
    )]
    NoRootCertificates,
    /// The TLS library's default settings are inconsistent.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}
