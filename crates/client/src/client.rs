//! The client, and how it sends requests.

use std::{fmt, sync::Arc, time::Duration};

use reqwest::{
    Url,
    header::{AUTHORIZATION, HeaderName, HeaderValue},
};
use tokio::time::{Instant, sleep};
use webhook::{ID_BYTES_MAX, OrganizationId, valid_id};

use crate::{
    error::{Call, Error},
    received::{self, Received},
    request::Request,
    retries::Retries,
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
    pub(crate) base: Url,
    /// The header with the key, which is marked as sensitive.
    pub(crate) authorization: HeaderValue,
    /// The timeout of one try; `None` for that of the operation.
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: Retries,
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

    /// Sends a request, and again as often as the settings allow. Returns the answer if its status is that of
    /// a success.
    pub(crate) async fn send(&self, request: &Request) -> Result<Received, Error> {
        let Shared { timeout, retries, .. } = &*self.shared;
        let prepared = self.prepare(request)?;
        let (began, mut call) = (Instant::now(), Call::first(request.operation()));
        let mut timeout = timeout.unwrap_or(request.timeout());
        loop {
            let error = match self.attempt(&prepared, call, timeout).await {
                Ok(received) => return Ok(received),
                Err(error) => error,
            };
            let Some(wait) = retries.wait(&error, began.elapsed(), rand::random()) else {
                return Err(error);
            };
            sleep(wait).await;
            call = error.call().again();
            timeout = timeout.min(retries.total_max.saturating_sub(began.elapsed()));
        }
    }

    /// Makes one try.
    async fn attempt(
        &self,
        prepared: &reqwest::Request,
        call: Call,
        timeout: Duration,
    ) -> Result<Received, Error> {
        let Shared { http, base, .. } = &*self.shared;
        let mut request = prepared.try_clone().expect("the body is not a stream");
        *request.timeout_mut() = Some(timeout);
        let server = base.origin().ascii_serialization();
        match http.execute(request).await {
            Ok(response) => received::read(response, call, &server, timeout).await,
            Err(error) => Err(Error::lost(error, call, &server, timeout)),
        }
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
