//! The one HTTP client of a process.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    TRANSFER_ENCODING,
};
use reqwest::{Body, Client, Method, Request, Response, Version};
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use tracing::debug;
use url::{Host, Url};
use webhook::{Answer, AttemptResult, RESPONSE_BODY_BYTES_MAX};

use crate::certificates::Certificates;
use crate::classify::{self, Attempted};
use crate::policy::{Policy, Refusal};
use crate::progress::{self, MarkedBody, Progress};
use crate::resolver::{self, LookupError, Resolver};
use crate::tls::{self, Watching};

/// The `User-Agent` of every request (CONTRACT, "Webhook Headers").
pub const USER_AGENT: &str = "Magnetite-Webhooks/1.0";

/// The most that one HTTP/2 response may have on the way to us, in bytes: the least that HTTP/2 allows to announce,
/// and more than we read.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 65_535;
/// The most that all responses of one HTTP/2 connection may have on the way to us, in bytes.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// The most that the headers of one HTTP/2 response may take, in bytes.
const HTTP2_HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// How to reach endpoints.
#[derive(Clone, Debug)]
pub struct Config {
    /// Networks that may be reached although they are not public. None by default.
    pub allow: Vec<IpNet>,
    /// How long one attempt may take in all: lookup, connection, TLS, request, response and its body. 30 s by default
    /// (CONTRACT, "Webhook timeouts").
    pub attempt_timeout: Duration,
    /// How many idle connections are kept per scheme, host and port. It does not bound connections in use. 128 by default,
    /// as many as one endpoint can have in use with a worker's default slots: answers come in bursts, and whatever is idle
    /// for a moment above this is closed and opened again, at the price of several deliveries each.
    pub idle_per_host_max: usize,
    /// How long an idle connection is kept. 20 s by default: less than most servers keep theirs.
    pub idle_timeout: Duration,
    /// Whom to ask for addresses. Empty (the default): the name servers of `/etc/resolv.conf`.
    pub name_servers: Vec<SocketAddr>,
    /// Root certificates (PEM) that are trusted besides the system's, for private certificate authorities.
    pub root_certificates: Vec<Vec<u8>>,
}

/// The way out. Clones share one connection pool, one cache of names and one cache of TLS sessions.
#[derive(Clone)]
pub struct Egress {
    client: Client,
    pub(crate) resolver: Resolver,
    pub(crate) policy: Arc<Policy>,
    /// Whom to trust.
    pub(crate) verifier: Arc<WebPkiServerVerifier>,
    certificates: Certificates,
    attempt_timeout: Duration,
}

/// What one attempt came to, with what is left out of an [`AttemptResult`].
#[derive(Debug)]
pub struct Reply {
    /// As [`Egress::post`] returns it.
    pub result: AttemptResult,
    /// From when a connection took the request to when the response's headers had come; `None` without a response.
    pub first_byte: Option<Duration>,
    /// How long all of it took.
    pub took: Duration,
    /// The response's `Location`.
    pub location: Option<String>,
}

/// Our own trouble: it says nothing about the endpoint, and must not spend one of its attempts.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No name server answered, or none could be asked. Also when they answer `SERVFAIL`, which is what they do when
    /// the name's own servers are broken: from here the two look the same.
    #[error("no name server gives an answer about {host}")]
    Resolver {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// File descriptors, local ports or memory ran out, or the local firewall objects.
    #[error("this machine cannot open a connection to {host}")]
    Socket {
        /// The endpoint's host.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The routing table has no way to the address.
    #[error("this machine has no route to {host}")]
    NoRoute {
        /// The endpoint's host.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A header that was passed in cannot be sent.
    #[error("the header {name:?} cannot be sent: its name or value has characters that HTTP does not allow")]
    Header {
        /// Its name.
        name: &'static str,
    },
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
    /// The HTTP client does not start.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            attempt_timeout: Duration::from_secs(30),
            idle_per_host_max: 128,
            idle_timeout: Duration::from_secs(20),
            name_servers: Vec::new(),
            root_certificates: Vec::new(),
        }
    }
}

impl Egress {
    /// Reads the system's name servers, hosts file and root certificates, and opens nothing.
    ///
    /// # Errors
    /// Each says what to install or set.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        let policy = Arc::new(Policy::new(config.allow.clone()));
        let resolver = Resolver::new(&config.name_servers, Arc::clone(&policy))?;
        let (verifier, certificates) = (tls::verifier(&config.root_certificates)?, Certificates::default());
        let tls = tls::client_config(
            Watching::new(Arc::clone(&verifier), certificates.clone()),
            tls::resumption(certificates.clone()),
        )?;
        let client = client(config, tls, resolver.clone())?;
        Ok(Self {
            client,
            resolver,
            policy,
            verifier,
            certificates,
            attempt_timeout: config.attempt_timeout,
        })
    }

    /// Which addresses may be reached.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Until when the certificates of the hosts are valid that attempts were made at.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Judges a URL before it is stored as an endpoint, and asks where its name leads. Takes about 4 s at most, the
    /// time after which name servers are given up.
    ///
    /// As in sending, one address that may be reached is enough. Name servers that do not answer are not held
    /// against the URL: the name is judged again at every attempt, because it can lead elsewhere by then.
    ///
    /// # Errors
    /// Why it cannot be an endpoint, in words for whoever wants to register it.
    pub async fn check_endpoint(&self, url: &str) -> Result<Url, Refusal> {
        let url = self.policy.check_url(url)?;
        if let Some(Host::Domain(host)) = url.host() {
            match self.resolver.lookup(host).await {
                Ok(_) => {}
                Err(LookupError::NotFound) => {
                    return Err(Refusal::NameNotFound {
                        host: host.to_owned(),
                    });
                }
                Err(LookupError::Refused(refusal)) => return Err(refusal),
                Err(LookupError::Unanswered(error)) => {
                    debug!(host, %error, "an endpoint's name is not checked");
                }
            }
        }
        Ok(url)
    }

    /// Makes one attempt: one POST of exactly `body`, with `Content-Type: application/json`, our `User-Agent` and
    /// `headers`. Over HTTP/1 names are sent in title case (`X-Magnetite-Event`), over HTTP/2 in lower case.
    ///
    /// The answer is the status with at most [`RESPONSE_BODY_BYTES_MAX`] bytes of the body, whatever the status is:
    /// redirects are not followed. A body that breaks off, or does not end before the deadline and the cap, is a
    /// failure in phase `Response` even after a 2xx. The phase of a failure is as exact as the module `progress`
    /// says.
    ///
    /// A server that closes a kept-alive connection at the moment in which a request is written to it looks like one
    /// that resets: the attempt fails, although nothing is wrong with the endpoint.
    ///
    /// # Errors
    /// What is not the endpoint's doing.
    ///
    /// # Cancel safety
    /// Dropping it gives the attempt up. Whether the endpoint got the request is then unknown.
    pub async fn post(
        &self,
        url: &str,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
    ) -> Result<AttemptResult, Fault> {
        let url = match self.policy.check_url(url) {
            Ok(url) => url,
            Err(refusal) => return Ok(AttemptResult::Failed(classify::refused(&refusal))),
        };
        let progress = Arc::new(Progress::to(literal(&url)));
        self.attempt(url, headers, body, progress, |_| {}).await
    }

    /// Makes one attempt as [`Self::post`] does, and looks at it more closely.
    ///
    /// # Errors
    /// What is not the endpoint's doing.
    pub async fn ask(
        &self,
        url: &Url,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
    ) -> Result<Reply, Fault> {
        let progress = Arc::new(Progress::to(literal(url)).timed());
        let (mut answered, mut location, began) = (None, None, Instant::now());
        let look = |response: &Response| {
            answered = Some(Instant::now());
            let value = response.headers().get(LOCATION);
            location = value.and_then(|value| value.to_str().ok()).map(str::to_owned);
        };
        let attempting = self.attempt(url.clone(), headers, body, Arc::clone(&progress), look);
        let result = attempting.await?;
        let took = began.elapsed();
        let first_byte = answered
            .zip(progress.taken())
            .map(|(answered, taken)| answered.saturating_duration_since(taken));
        Ok(Reply {
            result,
            first_byte,
            took,
            location,
        })
    }

    async fn attempt(
        &self,
        url: Url,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
        progress: Arc<Progress>,
        look: impl FnOnce(&Response),
    ) -> Result<AttemptResult, Fault> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut request = Request::new(Method::POST, url);
        *request.headers_mut() = header_map(headers)?;
        *request.body_mut() = Some(Body::wrap(MarkedBody::new(body, Arc::clone(&progress))));

        // On the heap, because every future around this one would otherwise hold room for it twice and be copied with it.
        let exchange = Box::pin(self.exchange(request, look));
        let exchange = progress::observe(Arc::clone(&progress), exchange);
        let outcome = tokio::time::timeout(self.attempt_timeout, exchange).await;
        let attempted = Attempted {
            host: &host,
            phase: progress.phase(),
            address: progress.address(),
            status: progress.status(),
            limit: self.attempt_timeout,
        };
        match outcome {
            Ok(Ok(answer)) => Ok(AttemptResult::Answered(answer)),
            Ok(Err(error)) => {
                classify::failed(&error, attempted, resolver::has_route).map(AttemptResult::Failed)
            }
            Err(_elapsed) => classify::out_of_time(attempted).map(AttemptResult::Failed),
        }
    }

    async fn exchange(
        &self,
        request: Request,
        look: impl FnOnce(&Response),
    ) -> Result<Answer, reqwest::Error> {
        let response = self.client.execute(request).await?;
        let status = response.status().as_u16();
        progress::answered(status);
        look(&response);
        let retry_after = response.headers().get(RETRY_AFTER);
        let retry_after = retry_after
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        Ok(Answer {
            status,
            retry_after,
            body: read_body(response).await?,
        })
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

fn client(config: &Config, tls: ClientConfig, resolver: Resolver) -> Result<Client, SetupError> {
    Client::builder()
        .user_agent(USER_AGENT)
        .tls_backend_preconfigured(tls)
        .dns_resolver(resolver)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .retry(reqwest::retry::never())
        .referer(false)
        .tcp_nodelay(true)
        .http1_title_case_headers()
        .http2_initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HTTP2_HEADERS_BYTES_MAX)
        // A connection that has said nothing for as long as an attempt may take is not used for the next one. Not sooner: a
        // server that is busy with a request for all of that time may be too busy to answer a ping.
        .http2_keep_alive_interval(config.attempt_timeout / 2)
        .http2_keep_alive_timeout(config.attempt_timeout / 2)
        .pool_max_idle_per_host(config.idle_per_host_max)
        .pool_idle_timeout(config.idle_timeout)
        // Not a second deadline, but the one that is divided among a name's addresses, so that the first one cannot
        // use up all of it.
        .connect_timeout(config.attempt_timeout)
        .build()
        .map_err(SetupError::Client)
}

/// What we set ourselves is set last, and cannot be replaced.
fn header_map(headers: Vec<(&'static str, String)>) -> Result<HeaderMap, Fault> {
    let mut map = HeaderMap::with_capacity(headers.len() + 2);
    for (name, value) in headers {
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Fault::Header { name })?;
        let value = HeaderValue::try_from(value).map_err(|_| Fault::Header { name })?;
        map.insert(key, value);
    }
    map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    map.insert(reqwest::header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    Ok(map)
}

/// At most [`RESPONSE_BODY_BYTES_MAX`] bytes. The rest is not waited for: dropping the response ends the stream, and
/// with HTTP/1 the connection.
async fn read_body(mut response: Response) -> Result<Bytes, reqwest::Error> {
    let until_close = ends_with_connection(&response);
    let mut body = Vec::new();
    while body.len() < RESPONSE_BODY_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                let room = RESPONSE_BODY_BYTES_MAX - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            Ok(None) => break,
            // Over TLS, small servers close without the goodbye that would make this end a regular one.
            Err(error) if until_close && classify::is_end_of_stream(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(body.into())
}

/// An HTTP/1 body that neither says how long it is nor is sent in chunks.
fn ends_with_connection(response: &Response) -> bool {
    response.version() < Version::HTTP_2
        && !response.headers().contains_key(CONTENT_LENGTH)
        && !response.headers().contains_key(TRANSFER_ENCODING)
}

pub(crate) fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(v4) => Some(v4.into()),
        Host::Ipv6(v6) => Some(v6.into()),
        Host::Domain(_) => None,
    }
}
