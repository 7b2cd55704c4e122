//! How the HTTP client is set up, and what can be wrong with that.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

/// How to reach endpoints.
#[derive(Clone, Debug)]
pub struct Config {
    /// Networks that may be reached although they are not public. None by default.
    pub allow: Vec<IpNet>,
    /// Whether new endpoints may use http, which anyone on the network path can read and change. At the
    /// addresses in `allow` they may in any case.
    pub allow_http: bool,
    /// How long one attempt may take in all: lookup, connection, TLS, request, response and its body. 30 s
    /// by default (CONTRACT, "Webhook timeouts").
    pub attempt_timeout: Duration,
    /// How many idle connections are kept per scheme, host and port. It does not bound connections in use.
    /// 512 by default, a worker's default slots: many endpoints can be on one host, answers come in
    /// bursts, and whatever is idle for a moment above this is closed and opened again, at the price of
    /// several deliveries each.
    pub idle_per_host_max: usize,
    /// How long an idle connection is kept. 20 s by default: less than most servers keep theirs.
    pub idle_timeout: Duration,
    /// Whom to ask for addresses. Empty (the default): the name servers of `/etc/resolv.conf`.
    pub name_servers: Vec<SocketAddr>,
    /// Root certificates (PEM) that are trusted besides the system's, for private certificate authorities.
    pub root_certificates: Vec<Vec<u8>>,
    /// Whether every certificate is taken: for a developer's own application, never for endpoints.
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

/// Why there is no way out at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// `/etc/resolv.conf` is missing, unreadable, or names no server.
    #[error("/etc/resolv.conf cannot be used; correct it, or set egress.name_servers")]
    SystemResolver(#[source] Box<dyn Error + Send + Sync>),
    /// The resolver does not start.
    #[error("the resolver cannot be set up")]
    Resolver(#[source] Box<dyn Error + Send + Sync>),
    /// One of [`Config::root_certificates`].
    #[error("a root certificate of the configuration cannot be used")]
    RootCertificate(#[source] Box<dyn Error + Send + Sync>),
    /// Every certificate would look as if its issuer were unknown.
    #[error(
        "there are no root certificates; install the package ca-certificates, or set egress.root_certificates"
    )]
    NoRootCertificates,
    /// The TLS library's defaults do not fit together.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}
