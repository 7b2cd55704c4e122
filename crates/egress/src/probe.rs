//! A single inspection of the network path to a URL, step by step.
//!
//! It uses the resolver, the policy and the TLS settings of attempts, but a connection of its own, and sends
//! no request over it. Failures are not explained here, except a refused certificate: an attempt to the same URL
//! fails for the same reason and explains it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ProtocolVersion};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::certificates::Certificate;
use crate::client::{Egress, literal};
use crate::policy::Refusal;
use crate::tls::{self, Keep, Watching};

/// How long one address may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the handshake may take.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// The results of an inspection. The results of steps after the first one that failed are empty.
#[derive(Clone, Debug, Default)]
pub struct NetworkPath {
    /// The addresses of the host, and the policy's reason to refuse each. Empty if the lookup failed.
    pub addresses: Vec<(IpAddr, Option<Refusal>)>,
    /// The duration of the lookup; `None` if the host is an address itself.
    pub lookup: Option<Duration>,
    /// The address that accepted the connection; `None` if no address did.
    pub connected: Option<IpAddr>,
    /// How long the address took to accept the connection; `None` if no address did.
    pub connect: Option<Duration>,
    /// The TLS handshake; `None` without TLS.
    pub tls: Option<Handshake>,
}

/// A TLS handshake, completed or not.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// The server's certificate and the certificates sent with it, trusted or not. Empty if the handshake
    /// ended before that.
    pub chain: Vec<Certificate>,
    /// Why the server's certificate was refused; `None` if it was not, or if none was presented.
    pub refused: Option<String>,
    /// The duration of the handshake; `None` if it failed.
    pub took: Option<Duration>,
    /// The TLS version, such as `TLS 1.3`; `None` if the handshake failed.
    pub version: Option<&'static str>,
    /// The protocol negotiated with ALPN, `h2` or `http/1.1`; `None` if there is none.
    pub protocol: Option<String>,
}

impl Egress {
    /// Resolves the host, connects, performs the TLS handshake, and closes the connection. Takes at most a
    /// minute: a lookup, eight addresses of which only the last one answers, and a handshake.
    pub async fn probe(&self, url: &Url) -> NetworkPath {
        let mut way = NetworkPath::default();
        let targets = self.look_up(url, &mut way).await;
        let Some(stream) = connect(&targets, url, &mut way).await else {
            return way;
        };
        if url.scheme() == "https" {
            way.tls = shake_hands(stream, url, Arc::clone(&self.verifier)).await;
        }
        way
    }

    /// Returns the addresses to try, in order.
    async fn look_up(&self, url: &Url, way: &mut NetworkPath) -> Vec<IpAddr> {
        if let Some(address) = literal(url) {
            let refusal = self.policy.check_addr(address).err();
            let targets = refusal.is_none().then_some(address);
            way.addresses.push((address, refusal));
            return targets.into_iter().collect();
        }
        let Some(Host::Domain(host)) = url.host() else {
            return Vec::new();
        };
        let began = Instant::now();
        let judged = self.resolver.judged(host).await;
        way.lookup = Some(began.elapsed());
        way.addresses = judged.unwrap_or_default();
        self.resolver.lookup(host).await.unwrap_or_default()
    }
}

async fn connect(targets: &[IpAddr], url: &Url, way: &mut NetworkPath) -> Option<TcpStream> {
    let port = url.port_or_known_default()?;
    for address in targets {
        let began = Instant::now();
        let connecting = TcpStream::connect(SocketAddr::new(*address, port));
        if let Ok(Ok(stream)) = timeout(CONNECT_TIMEOUT, connecting).await {
            (way.connected, way.connect) = (Some(*address), Some(began.elapsed()));
            return Some(stream);
        }
    }
    None
}

async fn shake_hands(stream: TcpStream, url: &Url, real: Arc<WebPkiServerVerifier>) -> Option<Handshake> {
    let server = match url.host()? {
        Host::Domain(name) => ServerName::try_from(name.to_owned()).ok()?,
        Host::Ipv4(v4) => ServerName::from(IpAddr::V4(v4)),
        Host::Ipv6(v6) => ServerName::from(IpAddr::V6(v6)),
    };
    let kept = Keep::default();
    let config = config(real, kept.clone())?;
    let began = Instant::now();
    let connecting = TlsConnector::from(Arc::new(config)).connect(server, stream);
    let (connected, refused) = match timeout(TLS_TIMEOUT, connecting).await {
        Ok(Ok(stream)) => (Some(stream), None),
        Ok(Err(error)) => (None, refusal(&error, url)),
        Err(_) => (None, None),
    };
    let took = connected.is_some().then(|| began.elapsed());
    let agreed = connected.as_ref().map(|stream| stream.get_ref().1);
    Some(Handshake {
        chain: kept.chain(),
        refused,
        took,
        version: agreed
            .and_then(|agreed| agreed.protocol_version())
            .and_then(version),
        protocol: agreed
            .and_then(|agreed| agreed.alpn_protocol())
            .map(|name| String::from_utf8_lossy(name).into_owned()),
    })
}

/// Returns why the server's certificate was refused, if that is why the handshake failed.
fn refusal(error: &io::Error, url: &Url) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let is_refused = matches!(error, rustls::Error::InvalidCertificate(_));
    is_refused.then(|| tls::explain(error, url.host_str().unwrap_or_default()))
}

fn config(real: Arc<WebPkiServerVerifier>, kept: Keep) -> Option<ClientConfig> {
    tls::client_config(Watching::new(real, kept), Resumption::disabled()).ok()
}

fn version(version: ProtocolVersion) -> Option<&'static str> {
    match version {
        ProtocolVersion::TLSv1_2 => Some("TLS 1.2"),
        ProtocolVersion::TLSv1_3 => Some("TLS 1.3"),
        _ => None,
    }
}
