//! A client of RabbitMQ's management HTTP API. It reads policies and bindings, which AMQP has no methods for.
//!
//! Only commands use it; deliveries do not depend on it. The API is a plugin, and a user needs a tag to
//! access it, so any request may fail. The error says how to make the next one succeed.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use reqwest::{Client, Response, StatusCode, redirect};
use rustls::ClientConfig;
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use crate::{
    Binding, Config, Topology,
    policy::{Harm, Policies, Policy},
};

/// How long one response may take, from connecting to its last byte.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The maximum size of a response in bytes: thousands of queues, a few hundred bytes each.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The number of queues in one page, which is the maximum that the API allows.
const PAGE: usize = 500;
/// The maximum number of pages that are read. A worker has four queues, and there is one queue for each
/// delay.
const PAGES_MAX: u32 = 40;

/// A client of the management HTTP API, for one vhost.
pub struct Management {
    client: Client,
    /// The URLs of the nodes of a cluster. Every node knows everything.
    urls: Vec<Url>,
    vhost: String,
}

/// A failed request to the management HTTP API. The messages contain no password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManagementError {
    /// The configuration contains no URL of the API.
    #[error("broker.management_url is empty")]
    Off,
    /// The HTTP client could not be created.
    #[error("cannot create an HTTP client")]
    Client(#[source] reqwest::Error),
    /// No node answered.
    #[error("no answer from {address}")]
    Unreachable {
        /// `host:port` of the last node that was asked.
        address: String,
        /// The HTTP client's error.
        #[source]
        source: reqwest::Error,
    },
    /// The API refused the user, or the user may not access the vhost.
    #[error("{address} refuses the user {user:?}")]
    Refused {
        /// `host:port`.
        address: String,
        /// The user's name.
        user: String,
    },
    /// There are more queues than can be read.
    #[error("there are more than {} queues with this prefix", PAGE * PAGES_MAX as usize)]
    TooManyQueues,
    /// Another server answered, or an unknown version of the API.
    #[error("the server at {address} did not answer like RabbitMQ's management API: {detail}")]
    Unexpected {
        /// `host:port`.
        address: String,
        /// What is wrong with the response.
        detail: String,
    },
}

/// The effects of policies and missing bindings on a topology.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// The number of this installation's queues on the broker.
    pub queues: usize,
    /// The policy settings that lose messages or deliver them at the wrong time.
    pub harms: Vec<Harm>,
    /// The bindings that are missing.
    pub unbound: Vec<Binding>,
}

#[derive(Deserialize)]
struct Overview {
    rabbitmq_version: String,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Listed>,
    page_count: u32,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    /// The name of the policy that applies. The API does not report operator policies here.
    #[serde(default)]
    policy: Option<String>,
}

#[derive(Deserialize)]
struct Bound {
    destination: String,
    destination_type: String,
    routing_key: String,
}

impl ManagementError {
    /// Returns what to do so that the next request succeeds.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Off => "set broker.management_url to the address of RabbitMQ's management API",
            Self::Client(_) | Self::Unreachable { .. } | Self::Unexpected { .. } => {
                "run `rabbitmq-plugins enable rabbitmq_management` on every node, and set broker.management_url if the API is not at \
                 the broker's host, 10000 ports above the AMQP port; https needs a certificate that is valid for the API's host, \
                 and broker.tls.root_certificates if a private authority issued it"
            }
            Self::TooManyQueues => {
                "delete the queues of workers that no longer exist and of delays that are no longer configured, or set another \
                 broker.prefix"
            }
            Self::Refused { .. } => {
                "rabbitmqctl set_user_tags USER management, or name another user in broker.management_url"
            }
        }
    }
}

impl Management {
    /// Creates a client for the URLs of this configuration.
    ///
    /// # Errors
    /// Returns an error if the configuration contains no URL, or if TLS cannot be set up.
    pub fn new(config: &Config) -> Result<Self, ManagementError> {
        if config.management().is_empty() {
            return Err(ManagementError::Off);
        }
        let mut client = Client::builder()
            .timeout(ANSWER_MAX)
            .connect_timeout(ANSWER_MAX / 2)
            .redirect(redirect::Policy::none())
            .no_proxy();
        if let Some(tls) = &config.tls().config {
            client = client.tls_backend_preconfigured(ClientConfig::clone(tls));
        }
        let client = client.build().map_err(ManagementError::Client)?;
        Ok(Self {
            client,
            urls: config.management().to_vec(),
            vhost: config.vhost(),
        })
    }

    /// Compares the policies and bindings that are in effect with those that the topology needs.
    ///
    /// # Errors
    /// Returns an error if the API is not available, or does not answer this user.
    pub async fn inspect(&self, topology: &Topology) -> Result<Inspection, ManagementError> {
        let overview: Overview = self.get(&["overview"], &[]).await?;
        let policies = Policies {
            regular: self.policies("policies").await?,
            operator: self.policies("operator-policies").await?,
            major: overview
                .rabbitmq_version
                .split('.')
                .next()
                .and_then(|major| major.parse().ok()),
        };
        let listed = self.queues(topology).await?;
        let queues: Vec<_> = listed
            .iter()
            .filter_map(|listed| Some((topology.queue(&listed.name)?, listed)))
            .collect();
        let harms = queues
            .iter()
            .flat_map(|(queue, listed)| policies.harms(queue, listed.policy.as_deref()))
            .collect();
        Ok(Inspection {
            queues: queues.len(),
            harms,
            unbound: self.unbound(topology).await?,
        })
    }

    async fn policies(&self, kind: &str) -> Result<Vec<Policy>, ManagementError> {
        self.get(&[kind, &self.vhost], &[]).await
    }

    /// Returns the queues whose names begin with the prefix. Requests no statistics, because those are up to
    /// 5 s old.
    async fn queues(&self, topology: &Topology) -> Result<Vec<Listed>, ManagementError> {
        let name = format!(r"^{}\.", fancy_regex::escape(topology.prefix()));
        let (size, mut queues) = (PAGE.to_string(), Vec::new());
        for number in 1..=PAGES_MAX {
            let page = number.to_string();
            let query = [
                ("disable_stats", "true"),
                ("columns", "name,policy"),
                ("page", page.as_str()),
                ("page_size", size.as_str()),
                ("use_regex", "true"),
                ("name", name.as_str()),
            ];
            let page: Page = self.get(&["queues", &self.vhost], &query).await?;
            queues.extend(page.items);
            if number >= page.page_count {
                return Ok(queues);
            }
        }
        Err(ManagementError::TooManyQueues)
    }

    async fn unbound(&self, topology: &Topology) -> Result<Vec<Binding>, ManagementError> {
        let mut unbound = Vec::new();
        for binding in topology.bindings() {
            let path = ["exchanges", &self.vhost, &binding.exchange, "bindings", "source"];
            let bound: Vec<Bound> = self.get(&path, &[]).await?;
            let is_it = |bound: &Bound| {
                bound.destination_type == "queue"
                    && bound.destination == binding.queue
                    && bound.routing_key == binding.routing_key
            };
            if !bound.iter().any(is_it) {
                unbound.push(binding);
            }
        }
        Ok(unbound)
    }

    /// Asks one node after another until one answers. Each element of `path` becomes one segment of the URL's
    /// path, whatever it contains.
    async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, ManagementError> {
        let mut unreachable = ManagementError::Off;
        for url in &self.urls {
            let address = address(url);
            let asked = self
                .client
                .get(question(url, path, query))
                .basic_auth(decoded(url.username()), url.password().map(decoded));
            match asked.send().await {
                Ok(response) => return read(response, address, decoded(url.username())).await,
                Err(source) => {
                    let source = source.without_url();
                    unreachable = ManagementError::Unreachable { address, source };
                }
            }
        }
        Err(unreachable)
    }
}

async fn read<T: DeserializeOwned>(
    mut response: Response,
    address: String,
    user: String,
) -> Result<T, ManagementError> {
    let unexpected = |detail: String| ManagementError::Unexpected {
        address: address.clone(),
        detail,
    };
    match response.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(ManagementError::Refused { address, user });
        }
        status => return Err(unexpected(format!("status {}", status.as_u16()))),
    }
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES_MAX => {
                body.extend_from_slice(&chunk);
            }
            Ok(Some(_)) => return Err(unexpected(format!("more than {ANSWER_BYTES_MAX} bytes"))),
            Ok(None) => break,
            Err(error) => return Err(unexpected(error.without_url().to_string())),
        }
    }
    serde_json::from_slice(&body).map_err(|error| unexpected(error.to_string()))
}

fn question(base: &Url, path: &[&str], query: &[(&str, &str)]) -> Url {
    let mut url = base.clone();
    // Only URLs that cannot be a base have no path or user.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().push("api").extend(path);
    }
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    url
}

fn address(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{host}:{port}")
}

/// Decodes a percent-encoded user or password of a URL.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_segment_of_the_path() {
        let base = Url::parse("https://me:pass@mq.example/base/").unwrap();
        let url = question(&base, &["queues", "/", "a b/c%2F?#ü"], &[("name", r"^a\.")]);
        assert_eq!(
            url.as_str(),
            "https://mq.example/base/api/queues/%2F/a%20b%2Fc%252F%3F%23%C3%BC?name=%5Ea%5C."
        );
    }

    #[test]
    fn a_password_is_sent_as_it_is() {
        for text in ["a+b", "p%40ss", "a&b=c", "=", "ü", ""] {
            let mut url = Url::parse("http://h").unwrap();
            url.set_password(Some(text)).unwrap();
            assert_eq!(
                decoded(url.password().unwrap_or_default()),
                if text == "p%40ss" { "p@ss" } else { text }
            );
        }
    }
}
