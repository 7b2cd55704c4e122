//! The client, and how it sends requests.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::{
    Response, Upgraded, Url,
    header::{AUTHORIZATION, HeaderName, HeaderValue},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};
use webhook::{ID_BYTES_MAX, OrganizationId, valid_id};

use crate::{
    error::{Call, Error},
    lines::Lines,
    received::{self, Received},
    request::Request,
    retries::Retries,
    websocket,
};

/// The header that names the organization of a request with a platform key.
const ORGANIZATION: HeaderName = HeaderName::from_static("magnetite-organization");

/// A client of the HTTP API. Clones are cheap, and share the connections.
///
/// Every operation of the API is a method. A method can be called within a tokio runtime, and concurrently.
/// Its future can be dropped, but it is then unknown whether the operation was carried out.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    organization: Option<OrganizationId>,
}

/// What all clones share.
pub(crate) struct Shared {
    pub(crate) http: reqwest::Client,
    /// The client for requests that turn their connection into another one, which only HTTP/1.1 can.
    pub(crate) upgrading: reqwest::Client,
    pub(crate) base: Url,
    /// The header with the key, which is marked as sensitive.
    pub(crate) authorization: HeaderValue,
    /// The timeout of one try; `None` for that of the operation.
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: Retries,
    /// Whether a refused connection ends a request, as long as no request was answered.
    pub(crate) fails_fast: bool,
    /// Whether any request was answered.
    pub(crate) was_answered: AtomicBool,
}

/// A request that is sent until it succeeds.
struct Tries {
    prepared: reqwest::Request,
    retries: Retries,
    began: Instant,
    /// The call, with the number of tries.
    call: Call,
    /// The timeout of the next try.
    timeout: Duration,
}

impl Client {
    pub(crate) fn new(shared: Shared, organization: Option<OrganizationId>) -> Self {
        Self {
            shared: Arc::new(shared),
            organization,
        }
    }

    /// Returns a client that names this organization in the header `Magnetite-Organization` of every request.
    ///
    /// A platform key belongs to no organization, and acts for the one that is named. If none is named, it
    /// lists the objects of all organizations and publishes events of any, and most other operations are
    /// refused. Any other key acts for its own organization, and needs no header.
    #[must_use]
    pub fn for_organization(&self, organization: OrganizationId) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            organization: Some(organization),
        }
    }

    /// Returns whether this organization can be named in the header `Magnetite-Organization`. The ids that begin or
    /// end with a space or contain a comma cannot, and their events need a key of the organization.
    pub fn can_name(organization: &OrganizationId) -> bool {
        header_of(organization).is_some()
    }

    /// Sends a request, and again as often as the settings allow. Returns the answer if its status is that of
    /// a success.
    pub(crate) async fn send(&self, request: &Request) -> Result<Received, Error> {
        let mut tries = self.tries(request)?;
        loop {
            match self.attempt(&tries).await {
                Ok(received) => return Ok(received),
                Err(error) if self.is_final(&error) => return Err(error),
                Err(error) => tries.again_after(error).await?,
            }
        }
    }

    /// Sends a request like [`send`](Self::send). Returns the lines of the answer, which may have no end.
    pub(crate) async fn open<T: DeserializeOwned>(&self, request: &Request) -> Result<Lines<T>, Error> {
        let mut tries = self.tries(request)?;
        loop {
            match self.attempt_to_open(&tries).await {
                Ok(lines) => return Ok(lines),
                Err(error) if self.is_final(&error) => return Err(error),
                Err(error) => tries.again_after(error).await?,
            }
        }
    }

    /// Makes one try.
    async fn attempt(&self, tries: &Tries) -> Result<Received, Error> {
        let (call, timeout, server) = (tries.call, tries.timeout, self.server());
        let mut request = tries.request();
        *request.timeout_mut() = Some(timeout);
        match self.execute(&self.shared.http, request).await {
            Ok(response) => received::read(response, call, &server, timeout).await,
            Err(error) => Err(Error::lost(error, call, &server, timeout)),
        }
    }

    /// Makes one try to open a stream. The timeout applies until the stream begins.
    async fn attempt_to_open<T: DeserializeOwned>(&self, tries: &Tries) -> Result<Lines<T>, Error> {
        let (call, after, server) = (tries.call, tries.timeout, self.server());
        let opening = async {
            match self.execute(&self.shared.http, tries.request()).await {
                Ok(response) => received::open(response, call, &server, after).await,
                Err(error) => Err(Error::lost(error, call, &server, after)),
            }
        };
        self.within(after, call, opening).await
    }

    /// Makes one try to turn the connection of a request into that of a WebSocket. The timeout applies until the
    /// connection is one.
    pub(crate) async fn upgrade(&self, request: &Request) -> Result<Upgraded, Error> {
        let tries = self.tries(request)?;
        let (call, after, server) = (tries.call, tries.timeout, self.server());
        let (mut prepared, key) = (tries.prepared, websocket::key());
        websocket::ask(prepared.headers_mut(), &key);
        let upgrading = async {
            match self.execute(&self.shared.upgrading, prepared).await {
                Ok(response) => received::upgraded(response, &key, call, &server, after).await,
                Err(error) => Err(Error::lost(error, call, &server, after)),
            }
        };
        self.within(after, call, upgrading).await
    }

    /// Ends a try after this time.
    async fn within<T>(
        &self,
        after: Duration,
        call: Call,
        trying: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let tried = timeout(after, trying).await;
        tried.unwrap_or_else(|_| {
            Err(Error::Timeout {
                call: call.unsure(),
                server: self.server(),
                after,
            })
        })
    }

    async fn execute(
        &self,
        http: &reqwest::Client,
        request: reqwest::Request,
    ) -> Result<Response, reqwest::Error> {
        let response = http.execute(request).await?;
        self.shared.was_answered.store(true, Ordering::Relaxed);
        Ok(response)
    }

    /// Returns whether a request is not sent again after this error, whatever the number of tries is.
    fn is_final(&self, error: &Error) -> bool {
        let Shared {
            fails_fast,
            was_answered,
            ..
        } = &*self.shared;
        *fails_fast && !was_answered.load(Ordering::Relaxed) && error.is_connection_refused()
    }

    /// Returns the scheme, host and port of the API.
    fn server(&self) -> String {
        self.shared.base.origin().ascii_serialization()
    }

    fn tries(&self, request: &Request) -> Result<Tries, Error> {
        let Shared { timeout, retries, .. } = &*self.shared;
        Ok(Tries {
            prepared: self.prepare(request)?,
            retries: *retries,
            began: Instant::now(),
            call: Call::first(request.operation()),
            timeout: timeout.unwrap_or(request.timeout()),
        })
    }

    fn prepare(&self, request: &Request) -> Result<reqwest::Request, Error> {
        let Shared {
            base, authorization, ..
        } = &*self.shared;
        let mut prepared = request.prepare(base);
        let headers = prepared.headers_mut();
        headers.insert(AUTHORIZATION, authorization.clone());
        if let Some(organization) = &self.organization {
            let value = header_of(organization).ok_or_else(|| {
                Error::invalid(
                    request.operation(),
                    format!(
                        "the organization {:?} cannot be named in a header: expected 1 to {ID_BYTES_MAX} bytes without control characters, commas, and spaces at the beginning or end",
                        organization.as_str()
                    ),
                )
            })?;
            headers.insert(ORGANIZATION, value);
        }
        Ok(prepared)
    }
}

impl Tries {
    /// Returns the request for one try.
    fn request(&self) -> reqwest::Request {
        self.prepared.try_clone().expect("the body is not a stream")
    }

    /// Waits until the next try after this error.
    ///
    /// # Errors
    /// Returns the error if there is to be no further try.
    async fn again_after(&mut self, error: Error) -> Result<(), Error> {
        let elapsed = self.began.elapsed();
        let Some(wait) = self.retries.wait(&error, elapsed, rand::random()) else {
            return Err(error);
        };
        sleep(wait).await;
        self.call = error.call().again();
        let left = self.retries.total_max.saturating_sub(self.began.elapsed());
        self.timeout = self.timeout.min(left);
        Ok(())
    }
}

/// Returns the header's value for an organization; `None` if it would not arrive as the same id. Spaces around
/// a value do not belong to it, and a comma separates two values (RFC 9110 sections 5.5 and 5.3).
fn header_of(organization: &OrganizationId) -> Option<HeaderValue> {
    let text = valid_id(organization.as_str()).ok()?;
    if text.trim_matches(' ') != text || text.contains(',') {
        return None;
    }
    HeaderValue::from_bytes(text.as_bytes()).ok()
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("url", &self.shared.base.as_str())
            .field("organization", &self.organization)
            .finish_non_exhaustive()
    }
}
