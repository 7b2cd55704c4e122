//! The settings of a client.

use std::{fmt, sync::atomic::AtomicBool, time::Duration};

use reqwest::{Proxy, Url, header::HeaderValue, redirect};
use webhook::{ApiKey, OrganizationId};

use crate::{
    base_url,
    build_error::BuildError,
    client::{Client, Shared},
    retries::Retries,
    tls,
};

const USER_AGENT: &str = concat!("magnetite-client/", env!("CARGO_PKG_VERSION"));
/// The default time limit for a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept. The API closes connections that are idle for 75 s, and a request on a
/// connection that is being closed would fail.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// The settings of a [`Client`]. Create it with [`Client::builder`].
#[must_use = "a builder does nothing until it is built"]
pub struct ClientBuilder {
    url: String,
    key: ApiKey,
    organization: Option<OrganizationId>,
    connect_timeout: Duration,
    timeout: Option<Duration>,
    retries: Retries,
    fails_fast: bool,
    /// The certificate authorities to trust, as PEM; `None` for those of the system.
    root_certificates: Option<Vec<u8>>,
    way: Way,
}

/// The way to the API.
enum Way {
    /// The proxy in the variables `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, if there is one.
    System,
    Direct,
    /// The proxy at this URL.
    Proxy(String),
}

impl Client {
    /// Begins to build a client for the API at this URL, `https://HOST` or `http://HOST`, with a port and a
    /// path if needed. The key is sent with every request: use `http` only within a network that you trust.
    pub fn builder(url: impl Into<String>, key: ApiKey) -> ClientBuilder {
        ClientBuilder {
            url: url.into(),
            key,
            organization: None,
            connect_timeout: CONNECT_TIMEOUT,
            timeout: None,
            retries: Retries::default(),
            fails_fast: false,
            root_certificates: None,
            way: Way::System,
        }
    }
}

impl ClientBuilder {
    /// Names the organization of every request, for a platform key; see [`Client::for_organization`].
    pub fn organization(mut self, organization: OrganizationId) -> Self {
        self.organization = Some(organization);
        self
    }

    /// Sets the time limit for a connection, TLS included; by default 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the time limit for each try, from the connection to the last byte of the answer. By default, it
    /// is 30 s, and 45 s for operations that wait for an endpoint or send deliveries again.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets how often requests are sent again; by default five tries within a minute.
    pub fn retries(mut self, retries: Retries) -> Self {
        self.retries = retries;
        self
    }

    /// Ends a request at once if the connection is refused, as long as the API has answered no request of this
    /// client. This is for people who wait for the result: nothing listens at the URL, so it is probably wrong. By
    /// default, such a request is sent again like others, because the API may be starting.
    pub fn fail_fast(mut self) -> Self {
        self.fails_fast = true;
        self
    }

    /// Trusts the certificate authorities in this text (PEM, one or more certificates) instead of those that
    /// the system trusts.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates = Some(pem.into());
        self
    }

    /// Sends all requests through the proxy at this URL, which may contain a user and a password. By default,
    /// the proxy is that in the environment variables `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and
    /// `NO_PROXY`.
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.way = Way::Proxy(url.into());
        self
    }

    /// Uses no proxy, whatever the environment variables contain.
    pub fn no_proxy(mut self) -> Self {
        self.way = Way::Direct;
        self
    }

    /// Builds the client. It connects when it sends the first request.
    ///
    /// # Errors
    /// Returns an error if a URL or a certificate is not valid, or the system has no root certificates.
    pub fn build(self) -> Result<Client, BuildError> {
        let base = base_url::parse(&self.url)?;
        let tls = tls::config(self.root_certificates.as_deref(), base.scheme() == "https")?;
        let upgrading = self.http(tls::http1_only(&tls))?.http1_only();
        let http = self.http(tls)?;
        let shared = Shared {
            http: built(http)?,
            upgrading: built(upgrading)?,
            base,
            authorization: authorization(&self.key),
            timeout: self.timeout,
            retries: self.retries,
            fails_fast: self.fails_fast,
            was_answered: AtomicBool::new(false),
        };
        Ok(Client::new(shared, self.organization))
    }

    /// Returns the settings of an HTTP client with this TLS configuration.
    fn http(&self, tls: rustls::ClientConfig) -> Result<reqwest::ClientBuilder, BuildError> {
        let http = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(IDLE_MAX)
            .redirect(redirect::Policy::none())
            .tls_backend_preconfigured(tls);
        Ok(match &self.way {
            Way::System => http,
            Way::Direct => http.no_proxy(),
            Way::Proxy(url) => http.proxy(proxy(url)?),
        })
    }
}

fn built(http: reqwest::ClientBuilder) -> Result<reqwest::Client, BuildError> {
    let http = http.build();
    http.map_err(|error| BuildError::Http(Box::new(error.without_url())))
}

/// Returns the proxy at this URL. A proxy of another kind, or with a host that is not valid, would be ignored,
/// and the requests sent directly.
fn proxy(url: &str) -> Result<Proxy, BuildError> {
    let bad = |reason: String| BuildError::Proxy { reason };
    let url = Url::parse(url).map_err(|error| bad(error.to_string()))?;
    if !base_url::is_http(&url) {
        return Err(bad("its scheme is neither http nor https".to_owned()));
    }
    if !base_url::has_valid_host(&url) {
        return Err(bad(base_url::BAD_HOST.to_owned()));
    }
    Proxy::all(url).map_err(|error| bad(error.without_url().to_string()))
}

fn authorization(key: &ApiKey) -> HeaderValue {
    let value = HeaderValue::try_from(format!("Bearer {}", key.expose()));
    let mut value = value.expect("a key consists of ASCII letters, digits, - and _");
    value.set_sensitive(true);
    value
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("key", &self.key)
            .field("organization", &self.organization)
            .field("connect_timeout", &self.connect_timeout)
            .field("timeout", &self.timeout)
            .field("retries", &self.retries)
            .field("fails_fast", &self.fails_fast)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder(url: &str) -> ClientBuilder {
        Client::builder(url, ApiKey::generate([7; 32]))
    }

    #[test]
    fn neither_the_key_nor_a_password_is_shown() {
        let (key, secrets) = (ApiKey::generate([7; 32]), ["Bwc", "hunter2"]);
        let builder = builder("http://127.0.0.1:8420").proxy("http://me:hunter2@127.0.0.1:3128");
        let shown = format!("{builder:?}");
        let client = builder.build().unwrap();
        let one = client.for_organization(OrganizationId::new("org_1"));
        let header = format!("{:?}", authorization(&key));
        for shown in [shown, format!("{client:?}"), format!("{one:?}"), header] {
            assert!(!secrets.iter().any(|secret| shown.contains(secret)), "{shown}");
        }
        assert!(format!("{one:?}").contains("org_1"));
    }

    #[test]
    fn a_proxy_that_would_be_ignored_is_refused() {
        for bad in [
            "socks5://me:hunter2@127.0.0.1:1080",
            "127.0.0.1:3128",
            "me:hunter2@proxy",
            "http://me:hunter2@{{proxy}}:3128",
        ] {
            let error = builder("http://127.0.0.1:8420").proxy(bad).build().unwrap_err();
            assert!(matches!(error, BuildError::Proxy { .. }), "{bad}: {error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        for good in ["http://proxy.example:3128", "https://me:hunter2@proxy.example"] {
            assert!(builder("http://127.0.0.1:8420").proxy(good).build().is_ok());
        }
    }

    #[test]
    fn a_url_that_is_not_that_of_an_api_is_refused() {
        let error = builder("https://me:hunter2@api.example").build().unwrap_err();
        assert!(matches!(error, BuildError::Url { .. }), "{error}");
    }
}
