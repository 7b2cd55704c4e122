//! A client of the HTTP API.

use std::time::Duration;

use serde_json::Value;

use crate::{Installation, Role, free_port};

/// A running `magnetite api` process.
pub struct Api {
    /// The process.
    pub role: Role,
    url: String,
    client: reqwest::Client,
}

/// A response of the API.
#[derive(Debug)]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body as JSON; null if there is none, or if it is not JSON.
    pub body: Value,
}

/// The request timeout, which is longer than anything that the API itself waits for.
const PATIENCE: Duration = Duration::from_mins(1);

impl Api {
    /// Starts the API on a free port, and waits until it is ready.
    pub async fn start(installation: &Installation) -> Self {
        let port = free_port();
        let mut command = installation.command(&["api"]);
        command.env("MAGNETITE_API__LISTEN", format!("127.0.0.1:{port}"));
        let role = installation.launch(command, "api");
        role.wait_until_ready().await;
        // An error means that a provider is already installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
        Self {
            role,
            url: format!("http://127.0.0.1:{port}"),
            client: client.build().unwrap(),
        }
    }

    /// Returns the base URL of the API, without a trailing slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Builds a request that is authenticated with `key`, or is unauthenticated if `key` is empty.
    pub fn request(&self, method: &str, path: &str, key: &str) -> reqwest::RequestBuilder {
        let request = self
            .client
            .request(method.parse().unwrap(), format!("{}{path}", self.url));
        if key.is_empty() {
            request
        } else {
            request.bearer_auth(key)
        }
    }

    /// Sends a GET request, and returns the response.
    pub async fn get(&self, path: &str, key: &str) -> Answered {
        Answered::to(self.request("GET", path, key)).await
    }

    /// Sends JSON with additional headers, and returns the response.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        key: &str,
        headers: &[(&'static str, &str)],
        json: impl Into<reqwest::Body>,
    ) -> Answered {
        let mut request = self
            .request(method, path, key)
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answered::to(request.body(json)).await
    }
}

impl Answered {
    /// Sends a request and reads the whole response.
    pub async fn to(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.unwrap();
        Self {
            status,
            headers,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        }
    }

    /// Returns the value of a header, or an empty string if the header is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the last part of the problem's `type`, after the last colon; empty if there is none.
    pub fn problem(&self) -> &str {
        let kind = self.body["type"].as_str().unwrap_or_default();
        kind.rsplit(':').next().unwrap_or_default()
    }
}
