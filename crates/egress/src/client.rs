//! The one HTTP client of a process.

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

/// The most that one HTTP/2 response may have on the way to us, in bytes: the least that HTTP/2 allows to
/// announce, and more than we read.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 65_535;
/// The most that all responses of one HTTP/2 connection may have on the way to us, in bytes.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// The most that the headers of one HTTP/2 response may take, in bytes.
const HTTP2_HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// After how long a silence, and then how often, a connection is probed; after so many probes without an
/// answer it is gone.
const TCP_KEEPALIVE: (Duration, u32) = (Duration::from_secs(15), 3);
/// How long sent bytes may stay unacknowledged before the connection is gone: what an attempt may take by
/// default.
const TCP_UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

type HttpClient = Client<ByMessages<HttpsConnector<ByBytes<HttpConnector<Resolver>>>>, MarkedBody>;

/// The way out. Clones share one connection pool, one cache of names and one cache of TLS sessions.
#[derive(Clone)]
pub struct Egress {
    client: HttpClient,
    /// Speaks HTTP/1.1 alone, to the hosts that want nothing else.
    http1_client: HttpClient,
    http1_hosts: Http1Hosts,
    pub(crate) resolver: Resolver,
    pub(crate) policy: Arc<Policy>,
    /// Whom to trust.
    pub(crate) verifier: Arc<WebPkiServerVerifier>,
    certificates: Certificates,
    routes: Routes,
    attempt_timeout: Duration,
}

/// Where requests go, judged once as far as that goes without a name server: where a name leads is judged
/// whenever it is connected to.
#[derive(Clone, Debug)]
pub struct Target(Result<Place, Failure>);

#[derive(Clone, Debug)]
struct Place {
    url: Url,
    /// The same, as the HTTP client takes it.
    uri: Uri,
}

/// What one attempt came to, with what is left out of an [`AttemptResult`].
#[derive(Debug)]
pub struct Reply {
    /// As [`Egress::post`] returns it.
    pub result: AttemptResult,
    /// From when a connection took the request to when the response's headers had come; `None` without a
    /// response.
    pub first_byte: Option<Duration>,
    /// How long all of it took.
    pub took: Duration,
    /// The response's `Location`.
    pub location: Option<String>,
}

impl Egress {
    /// Reads the system's name servers, hosts file and root certificates, and opens nothing.
    ///
    /// # Errors
    /// Each says what to install or set.
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

    /// How long one attempt may take in all.
    pub fn attempt_timeout(&self) -> Duration {
        self.attempt_timeout
    }

    /// Which addresses may be reached.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Until when the certificates of the hosts are valid that attempts were made at.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Judges a URL before it is stored as an endpoint, and asks where its name leads. Takes about 4 s at
    /// most, the time after which name servers are given up.
    ///
    /// As in sending, one address that may be reached is enough. Name servers that do not answer are not held
    /// against an https URL: the name is judged again at every attempt, because it can lead elsewhere by
    /// then. http is judged only here.
    ///
    /// # Errors
    /// Why it cannot be an endpoint, in words for whoever wants to register it.
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
                    debug!(host, %error, "an endpoint's name is not checked");
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

    /// Reads and judges a URL, for any number of attempts.
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
    /// and `headers`, whose names are in lower case. Over HTTP/1 names are sent in title case
    /// (`X-Magnetite-Event`), over HTTP/2 in lower case.
    ///
    /// The answer is the status with at most [`RESPONSE_BODY_BYTES_MAX`](webhook::RESPONSE_BODY_BYTES_MAX)
    /// bytes of the body, whatever the status is: redirects are not followed. A host that requires
    /// HTTP/1.1 fails the attempt that says so, and is spoken to in it from then on. A body that breaks off,
    /// or does not end before the deadline and the cap, is a failure in phase `Response` even after a
    /// 2xx. The phase of a failure is as exact as the module `progress` says.
    ///
    /// A server that closes a kept-alive connection at the moment in which a request is written to it looks
    /// like one that resets: the attempt fails, although nothing is wrong with the endpoint.
    ///
    /// # Errors
    /// What is not the endpoint's doing.
    ///
    /// # Panics
    /// When a header's name is not one that HTTP allows, in lower case.
    ///
    /// # Cancel safety
    /// Dropping it gives the attempt up. Whether the endpoint got the request is then unknown.
    pub async fn post(
        &self,
        target: &Target,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
    ) -> Result<AttemptResult, Fault> {
        self.post_until(target, headers, body, pending()).await
    }

    /// Makes one attempt as [`Self::post`] does, and ends it early when `ended` completes: as `cut_short`, in
    /// whichever phase it is.
    ///
    /// # Errors
    /// What is not the endpoint's doing.
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

    /// Makes one attempt as [`Self::post`] does, and looks at it more closely. A second one follows if the
    /// host requires HTTP/1.1 and that was not known.
    ///
    /// # Errors
    /// What is not the endpoint's doing.
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

        // On the heap, because every future around this one would otherwise hold room for it twice and be
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

    /// The endpoint's failure, if there is evidence that what looks like a fault of ours concerns this
    /// endpoint alone.
    async fn endpoints_own(&self, fault: Fault, attempted: Attempted<'_>) -> Result<Failure, Fault> {
        match (&fault, attempted.address) {
            // On the heap, because every attempt would otherwise hold room for it.
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
            // An error in the first moments of a connection does not say which connection it was.
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
    // Not a second deadline, but the one that is divided among a name's addresses, so that the first one
    // cannot use up all of it.
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
        // nginx sends a header that has newlines in its configuration on several lines; RFC 9112, 5.2, has
        // clients accept that.
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http2_initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HTTP2_HEADERS_BYTES_MAX)
        // A connection that has said nothing for as long as an attempt may take is not used for the next one.
        // Not sooner: a server that is busy with a request for all of that time may be too busy to
        // answer a ping.
        .http2_keep_alive_interval(config.attempt_timeout / 2)
        .http2_keep_alive_timeout(config.attempt_timeout / 2)
        .build(ByMessages(HttpsConnector::from((by_bytes, tls))))
}

/// What we set ourselves is set last, and cannot be replaced.
fn header_map(headers: Vec<(&'static str, String)>) -> Result<HeaderMap, Fault> {
    // With room for the client's `Host` as well: a map that grows is built again.
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

/// What an exchange failed for: the limit that ended its connection, if one did.
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
