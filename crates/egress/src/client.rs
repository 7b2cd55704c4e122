//! The HTTP client of a process.

use std::error::Error;
use std::fmt;
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use tracing::debug;
use url::{Host, Url};
use webhook::{Answer, AttemptResult, Failure};

use crate::answer;
use crate::certificates::Certificates;
use crate::classify::{self, Attempted};
use crate::config::{Config, SetupError};
use crate::evidence::Routes;
use crate::fault::Fault;
use crate::http1::{Http1Hosts, RequiresHttp1};
use crate::lookup::LookupError;
use crate::meter::{self, Flood, Meter};
use crate::metered::{ByBytes, ByMessages};
use crate::policy::{Policy, Refusal};
use crate::progress::{self, MarkedBody, Progress};
use crate::resolver::{self, Resolver};
use crate::tls::{self, Watching};

/// The `User-Agent` of every request (CONTRACT, "Webhook Headers").
pub const USER_AGENT: &str = "Magnetite-Webhooks/1.0";

/// The flow-control window of one HTTP/2 response, in bytes: the default of HTTP/2, and more than the client
/// reads of a body.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 65_535;
/// The flow-control window of all responses of one HTTP/2 connection, in bytes.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// The maximum size of the headers of one HTTP/2 response, in bytes.
const HTTP2_HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// The idle time before the first TCP keepalive probe, which is also the interval between probes, and the
/// number of unanswered probes after which the connection is closed.
const TCP_KEEPALIVE: (Duration, u32) = (Duration::from_secs(15), 3);
/// How long sent bytes may stay unacknowledged before the connection is closed. It equals the default
/// deadline of an attempt.
const TCP_UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

type HttpClient = Client<ByMessages<HttpsConnector<ByBytes<HttpConnector<Resolver>>>>, MarkedBody>;

/// The HTTP client for endpoints. Clones share one connection pool, one cache of names and one cache of TLS
/// sessions.
#[derive(Clone)]
pub struct Egress {
    client: HttpClient,
    /// The client for hosts that require HTTP/1.1.
    http1_client: HttpClient,
    http1_hosts: Http1Hosts,
    pub(crate) resolver: Resolver,
    pub(crate) policy: Arc<Policy>,
    /// The verifier of servers' certificates.
    pub(crate) verifier: Arc<WebPkiServerVerifier>,
    certificates: Certificates,
    routes: Routes,
    attempt_timeout: Duration,
}

/// A destination of requests. Its URL is checked once, as far as that is possible without a name server; the
/// addresses of a name are checked whenever a connection is made.
#[derive(Clone, Debug)]
pub struct Target(Result<Place, Failure>);

#[derive(Clone, Debug)]
struct Place {
    url: Url,
    /// The same URL, in the HTTP client's type.
    uri: Uri,
}

/// The result of one attempt, with details that an [`AttemptResult`] does not contain.
#[derive(Debug)]
pub struct Reply {
    /// The result as [`Egress::post`] returns it.
    pub result: AttemptResult,
    /// The time from when a connection took the request until the response's headers had arrived; `None`
    /// without a response.
    pub first_byte: Option<Duration>,
    /// The duration of the whole attempt.
    pub took: Duration,
    /// The response's `Location` header; `None` if there is none.
    pub location: Option<String>,
}

impl Egress {
    /// Creates a client. Reads the system's name servers, hosts file and root certificates, and opens no
    /// connection.
    ///
    /// # Errors
    /// Returns an error that says what to install or to set.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        let policy = Arc::new(Policy::new(config.allow.clone()).with_plain_http(config.allow_http));
        let resolver = Resolver::new(&config.name_servers, Arc::clone(&policy))?;
        let (verifier, certificates) = (
            tls::verifier(&config.root_certificates, config.insecure)?,
            Certificates::default(),
        );
        let watching = if config.insecure {
            Watching::taking_any
        } else {
            Watching::new
        };
        let tls = tls::client_config(
            watching(Arc::clone(&verifier), certificates.clone()),
            tls::resumption(certificates.clone()),
        )?;
        let routes = Routes::default();
        let http1_tls = tls::without_http2(tls.clone());
        Ok(Self {
            client: client(config, tls, resolver.clone(), routes.clone()),
            http1_client: client(config, http1_tls, resolver.clone(), routes.clone()),
            http1_hosts: Http1Hosts::default(),
            routes,
            resolver,
            policy,
            verifier,
            certificates,
            attempt_timeout: config.attempt_timeout,
        })
    }

    /// Returns the maximum duration of one attempt.
    pub fn attempt_timeout(&self) -> Duration {
        self.attempt_timeout
    }

    /// Returns the policy for addresses.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Returns the expiries of the certificates of the hosts that attempts were made to.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Checks a URL before it is stored as an endpoint, and resolves its name. Takes about 4 s at most, which
    /// is the timeout for name servers.
    ///
    /// As for sending, one address that may be reached is enough. If the name servers do not answer, an https
    /// URL is accepted: the name is checked again at every attempt anyway, because it can resolve to other
    /// addresses by then. The http scheme is checked only here.
    ///
    /// # Errors
    /// Returns the reason why the URL cannot be an endpoint, as a message for the user who registers it.
    pub async fn check_endpoint(&self, url: &str) -> Result<Url, Refusal> {
        let url = self.policy.check_url(url)?;
        let addresses = match url.host() {
            Some(Host::Domain(host)) => match self.resolver.lookup(host).await {
                Ok(addresses) => addresses,
                Err(LookupError::NotFound) => {
                    return Err(Refusal::NameNotFound {
                        host: host.to_owned(),
                    });
                }
                Err(LookupError::Refused(refusal)) => return Err(refusal),
                Err(LookupError::Unanswered(error)) => {
                    debug!(host, %error, "cannot resolve an endpoint's host; its addresses are not checked");
                    let unanswered = |_| Refusal::PlainHttpUnanswered {
                        host: host.to_owned(),
                    };
                    return self
                        .policy
                        .check_scheme(&url, &[])
                        .map_err(unanswered)
                        .map(|()| url);
                }
            },
            Some(Host::Ipv4(address)) => vec![address.into()],
            Some(Host::Ipv6(address)) => vec![address.into()],
            None => Vec::new(),
        };
        self.policy.check_scheme(&url, &addresses)?;
        Ok(url)
    }

    /// Parses and checks a URL, for any number of attempts.
    pub fn target(&self, url: &str) -> Target {
        let judged = self.policy.check_url(url);
        Target(match judged {
            Err(refusal) => Err(classify::refused(&refusal)),
            Ok(url) => match Uri::try_from(url.as_str()) {
                Ok(uri) => Ok(Place { url, uri }),
                Err(_) => Err(classify::unusable()),
            },
        })
    }

    /// Makes one attempt: one POST of exactly `body`, with `Content-Type: application/json`, our `User-Agent`
    /// and `headers`, whose names must be in lower case. Over HTTP/1, names are sent in title case
    /// (`X-Magnetite-Event`), over HTTP/2 in lower case.
    ///
    /// The answer is the status with at most [`RESPONSE_BODY_BYTES_MAX`](webhook::RESPONSE_BODY_BYTES_MAX)
    /// bytes of the body, whatever the status is: redirects are not followed. If a host requires HTTP/1.1,
    /// this attempt fails, and later attempts to the host use HTTP/1.1. A body that breaks off, or that
    /// neither ends nor reaches the maximum size before the deadline, is a failure in phase `Response` even
    /// after a 2xx. The module `progress` defines how exact the phase of a failure is.
    ///
    /// If a server closes a kept-alive connection at the moment when a request is written to it, this looks
    /// like a reset by the server: the attempt fails although nothing is wrong with the endpoint.
    ///
    /// # Errors
    /// Returns an error if something other than the endpoint has failed.
    ///
    /// # Panics
    /// Panics if the name of a header is not valid in HTTP or not in lower case.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt. It is then unknown whether the endpoint received the
    /// request.
    pub async fn post(
        &self,
        target: &Target,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
    ) -> Result<AttemptResult, Fault> {
        self.post_until(target, headers, body, pending()).await
    }

    /// Makes one attempt as [`Self::post`] does, and ends it early when `ended` completes. It then fails as
    /// `cut_short`, in whichever phase it is.
    ///
    /// # Errors
    /// Returns an error if something other than the endpoint has failed.
    pub async fn post_until(
        &self,
        target: &Target,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
        ended: impl Future<Output = ()>,
    ) -> Result<AttemptResult, Fault> {
        let place = match &target.0 {
            Ok(place) => place,
            Err(refused) => return Ok(AttemptResult::Failed(refused.clone())),
        };
        let progress = Arc::new(Progress::to(literal(&place.url)));
        self.attempt(place, headers, body, progress, |_| {}, ended).await
    }

    /// Makes one attempt as [`Self::post`] does, and returns more details of it. Makes a second attempt if
    /// the host requires HTTP/1.1 and that was not known.
    ///
    /// # Errors
    /// Returns an error if something other than the endpoint has failed.
    pub async fn ask(
        &self,
        target: &Target,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
    ) -> Result<Reply, Fault> {
        let requires_http1 = || {
            let place = target.0.as_ref();
            place.is_ok_and(|place| self.http1_hosts.contains(&place.uri))
        };
        let was_known = requires_http1();
        let reply = self.ask_once(target, headers.clone(), body.clone()).await?;
        let failed = matches!(reply.result, AttemptResult::Failed(_));
        if failed && !was_known && requires_http1() {
            return self.ask_once(target, headers, body).await;
        }
        Ok(reply)
    }

    async fn ask_once(
        &self,
        target: &Target,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
    ) -> Result<Reply, Fault> {
        let place = match &target.0 {
            Ok(place) => place,
            Err(refused) => return Ok(Reply::refused(refused)),
        };
        let progress = Arc::new(Progress::to(literal(&place.url)).timed());
        let (mut answered, mut location, began) = (None, None, Instant::now());
        let look = |response: &Response<Incoming>| {
            answered = Some(Instant::now());
            let value = response.headers().get(LOCATION);
            location = value.and_then(|value| value.to_str().ok()).map(str::to_owned);
        };
        let attempting = self.attempt(place, headers, body, Arc::clone(&progress), look, pending());
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
        Place { url, uri }: &Place,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
        progress: Arc<Progress>,
        look: impl FnOnce(&Response<Incoming>),
        ended: impl Future<Output = ()>,
    ) -> Result<AttemptResult, Fault> {
        let began = Instant::now();
        let mut request = Request::new(MarkedBody::new(body, Arc::clone(&progress)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = header_map(headers)?;

        // Boxed, because every future around this one would otherwise reserve space for it twice and be
        // copied with it.
        let exchange = Box::pin(self.exchange(uri, request, look));
        let exchange = progress::observe(Arc::clone(&progress), exchange);
        let outcome = tokio::select! {
            biased;
            outcome = tokio::time::timeout(self.attempt_timeout, exchange) => Some(outcome),
            () = ended => None,
        };
        let attempted = Attempted {
            host: url.host_str().unwrap_or_default(),
            phase: progress.phase(),
            address: progress.address(),
            status: progress.status(),
            limit: self.attempt_timeout,
        };
        let failed = match outcome {
            Some(Ok(Ok(answer))) => return Ok(AttemptResult::Answered(answer)),
            Some(Ok(Err(error))) => classify::failed(&*error, attempted, resolver::has_route),
            Some(Err(_elapsed)) => classify::out_of_time(attempted),
            None => classify::cut_short(attempted, began.elapsed()),
        };
        match failed {
            Err(fault) => self
                .endpoints_own(fault, attempted)
                .await
                .map(AttemptResult::Failed),
            Ok(failure) => Ok(AttemptResult::Failed(failure)),
        }
    }

    /// Returns the endpoint's failure if there is evidence that an apparent fault of ours affects only this
    /// endpoint.
    async fn endpoints_own(&self, fault: Fault, attempted: Attempted<'_>) -> Result<Failure, Fault> {
        match (&fault, attempted.address) {
            // Boxed, because every attempt would otherwise reserve space for it.
            (Fault::Resolver { host, .. }, _) if Box::pin(self.resolver.fails_alone(host)).await => {
                Ok(classify::name_server_failed(host))
            }
            (Fault::NoRoute { host, .. }, Some(address))
                if self.routes.fails_alone(address, resolver::has_route) =>
            {
                Ok(classify::no_route(host, address))
            }
            _ => Err(fault),
        }
    }

    async fn exchange(
        &self,
        uri: &Uri,
        request: Request<MarkedBody>,
        look: impl FnOnce(&Response<Incoming>),
    ) -> Result<Answer, Box<dyn Error + Send + Sync>> {
        let client = if self.http1_hosts.contains(uri) {
            &self.http1_client
        } else {
            &self.client
        };
        let response = client.request(request).await;
        let response = response.map_err(|error| {
            if RequiresHttp1::is_cause_of(&error) {
                self.http1_hosts.add(uri);
                return RequiresHttp1.into();
            }
            // An error shortly after a connection was opened does not contain the connection.
            let flood = meter::flood_of(&error).or_else(progress::flood);
            or_flood(flood, error)
        })?;
        let meter = Meter::of(response.extensions());
        meter.restart();
        progress::answered(response.status().as_u16());
        look(&response);
        let answer = answer::read(response, &meter).await;
        answer.map_err(|error| or_flood(meter.flood(), error))
    }
}

impl Reply {
    fn refused(refused: &Failure) -> Self {
        Self {
            result: AttemptResult::Failed(refused.clone()),
            first_byte: None,
            took: Duration::ZERO,
            location: None,
        }
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

fn client(config: &Config, tls: ClientConfig, resolver: Resolver, routes: Routes) -> HttpClient {
    let mut http = HttpConnector::new_with_resolver(resolver);
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_keepalive(Some(TCP_KEEPALIVE.0));
    http.set_keepalive_interval(Some(TCP_KEEPALIVE.0));
    http.set_keepalive_retries(Some(TCP_KEEPALIVE.1));
    http.set_tcp_user_timeout(Some(TCP_UNACKNOWLEDGED_MAX));
    // This is not a second deadline. The client divides it among a name's addresses, so that the first
    // address cannot use up all of the attempt's time.
    http.set_connect_timeout(Some(config.attempt_timeout));
    let by_bytes = ByBytes {
        connector: http,
        routes,
    };
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(config.idle_per_host_max)
        .pool_idle_timeout(config.idle_timeout)
        .http1_title_case_headers(true)
        // nginx sends a header that contains newlines in its configuration as several lines. RFC 9112 section
        // 5.2 requires clients to accept that.
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http2_initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HTTP2_HEADERS_BYTES_MAX)
        // A connection that has been silent for as long as an attempt may take is not used for the next
        // attempt. The limit is not shorter, because a server that is busy with a request for all of that
        // time may be too busy to answer a ping.
        .http2_keep_alive_interval(config.attempt_timeout / 2)
        .http2_keep_alive_timeout(config.attempt_timeout / 2)
        .build(ByMessages(HttpsConnector::from((by_bytes, tls))))
}

/// Builds the request's headers. Our own headers are set last, so the caller cannot replace them.
fn header_map(headers: Vec<(&'static str, String)>) -> Result<HeaderMap, Fault> {
    // With capacity for the client's `Host` header as well, because a map that grows is rebuilt.
    let mut map = HeaderMap::with_capacity(headers.len() + 5);
    for (name, value) in headers {
        let value = HeaderValue::try_from(value).map_err(|_| Fault::Header { name })?;
        map.insert(HeaderName::from_static(name), value);
    }
    map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    map.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    map.insert(ACCEPT, HeaderValue::from_static("*/*"));
    Ok(map)
}

/// Returns the error of an exchange: the limit that ended its connection, if one did, or else `error`.
fn or_flood(flood: Option<Flood>, error: impl Error + Send + Sync + 'static) -> Box<dyn Error + Send + Sync> {
    match flood {
        Some(flood) => Box::new(flood),
        None => Box::new(error),
    }
}

pub(crate) fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(v4) => Some(v4.into()),
        Host::Ipv6(v6) => Some(v6.into()),
        Host::Domain(_) => None,
    }
}
