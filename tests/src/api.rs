//! The HTTP API, as a client sees it.

use std::time::Duration;

use serde_json::Value;

use crate::{Installation, Role, free_port};

/// A running `magnetite api`.
pub struct Api {
    /// Its process.
    pub role: Role,
    url: String,
    client: reqwest::Client,
}

/// What was answered.
#[derive(Debug)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// Null when there is none.
    pub body: Value,
}

/// Longer than anything that the API waits for.
const PATIENCE: Duration = Duration::from_mins(1);

impl Api {
    /// Starts one, and waits until it is ready.
    pub async fn start(installation: &Installation) -> Self {
        let port = free_port();
        let mut command = installation.command(&["api"]);
        command.env("MAGNETITE_API__LISTEN", format!("127.0.0.1:{port}"));
        let role = installation.launch(command, "api");
        role.wait_until_ready().await;
        // An error says that there is a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
        Self {
            role,
            url: format!("http://127.0.0.1:{port}"),
            client: client.build().unwrap(),
        }
    }

    /// Where it is served, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A request with a key, unless that is empty.
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

    /// Gets what there is.
    pub async fn get(&self, path: &str, key: &str) -> Answered {
        Answered::to(self.request("GET", path, key)).await
    }

    /// Sends JSON, with further headers.
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
    /// Sends a request and reads the whole answer.
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

    /// Empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The last part of the problem's type.
    pub fn problem(&self) -> &str {
        let kind = self.body["type"].as_str().unwrap_or_default();
        kind.rsplit(':').next().unwrap_or_default()
    }
}
