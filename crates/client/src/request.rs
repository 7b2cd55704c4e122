//! Requests, before they are sent.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{
    Method, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_MATCH},
};
use serde::Serialize;
use webhook::EventId;

use crate::{error::Error, operation::Operation};

/// The default timeout of a request. The API answers most requests within a few seconds.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The default timeout of a request that waits for an endpoint or sends many deliveries. The API answers
/// every request within 40 s.
const TIMEOUT_LONG: Duration = Duration::from_secs(45);

/// A request, with everything that is the same in each try.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    operation: Operation,
    /// The value of the only parameter in the path; empty if the path has none.
    parameter: String,
    query: Vec<(&'static str, String)>,
    headers: HeaderMap,
    body: Bytes,
    timeout: Duration,
}

impl Request {
    /// Creates a request of an operation without a parameter in its path.
    pub(crate) fn new(operation: Operation) -> Self {
        Self {
            operation,
            parameter: String::new(),
            query: Vec::new(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            timeout: TIMEOUT,
        }
    }

    /// Creates a request about one object. Its id becomes a part of the path, and is therefore checked.
    pub(crate) fn about(operation: Operation, id: &str) -> Result<Self, Error> {
        // The API has the same rule for ids of all kinds.
        if EventId::from_message_id(id).is_none() {
            return Err(Error::invalid(
                operation,
                format!(
                    "the id {id:?} has other characters than A-Z a-z 0-9 _ -, or is not 1 to 128 characters long"
                ),
            ));
        }
        Ok(Self::named(operation, id))
    }

    /// Creates a request with a name in its path that is known to be valid.
    pub(crate) fn named(operation: Operation, name: &str) -> Self {
        Self {
            parameter: name.to_owned(),
            ..Self::new(operation)
        }
    }

    pub(crate) const fn operation(&self) -> Operation {
        self.operation
    }

    /// Returns the default timeout of one try.
    pub(crate) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Allows more time, for an operation that takes long.
    pub(crate) fn long(self) -> Self {
        Self {
            timeout: TIMEOUT_LONG,
            ..self
        }
    }

    /// Adds a parameter to the query, if it has a value.
    pub(crate) fn query(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    /// Adds the version that the endpoint must have, if there is one.
    pub(crate) fn if_version(mut self, version: Option<i64>) -> Self {
        if let Some(version) = version {
            let tag = HeaderValue::try_from(format!("\"{version}\"")).expect("it is ASCII");
            self.headers.insert(IF_MATCH, tag);
        }
        self
    }

    /// Adds a header. `what` names it in the error for a value that cannot be sent.
    pub(crate) fn header(mut self, name: HeaderName, value: &str, what: &str) -> Result<Self, Error> {
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
            Error::invalid(
                self.operation,
                format!("{what} {value:?} contains control characters"),
            )
        })?;
        self.headers.insert(name, value);
        Ok(self)
    }

    /// Adds a body of JSON.
    pub(crate) fn json(self, body: &impl Serialize) -> Result<Self, Error> {
        let json = serde_json::to_vec(body);
        let json = json.map_err(|error| Error::invalid(self.operation, format!("the body: {error}")))?;
        Ok(self.body(json.into()))
    }

    /// Adds a body that is already JSON.
    pub(crate) fn body(mut self, json: Bytes) -> Self {
        self.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body = json;
        self
    }

    /// Returns what is sent to the API at this URL.
    pub(crate) fn prepare(&self, base: &Url) -> reqwest::Request {
        let method = Method::from_bytes(self.operation.method().as_bytes());
        let method = method.expect("the operations have methods of HTTP");
        let mut request = reqwest::Request::new(method, self.url(base));
        *request.headers_mut() = self.headers.clone();
        if !self.body.is_empty() {
            *request.body_mut() = Some(self.body.clone().into());
        }
        request
    }

    fn url(&self, base: &Url) -> Url {
        let mut url = base.clone();
        let segments = self.operation.path().split('/').skip(1);
        let segments = segments.map(|segment| {
            if segment.starts_with('{') {
                self.parameter.as_str()
            } else {
                segment
            }
        });
        url.path_segments_mut()
            .expect("a URL of HTTP has a path")
            .pop_if_empty()
            .extend(segments);
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }
}

/// Returns a time in seconds. `what` names it in the error for a time that is not a whole number of seconds.
pub(crate) fn whole_seconds(operation: Operation, time: Duration, what: &str) -> Result<u64, Error> {
    if time.subsec_nanos() > 0 {
        let reason = format!("{what} is {time:?}: expected a whole number of seconds");
        return Err(Error::invalid(operation, reason));
    }
    Ok(time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(base: &str, request: &Request) -> String {
        let prepared = request.prepare(&base.parse().unwrap());
        prepared.url().to_string()
    }

    #[test]
    fn the_path_of_the_base_url_comes_first() {
        let request = Request::about(Operation::GET_ENDPOINT_HEALTH, "ep_1").unwrap();
        for (base, expected) in [
            (
                "https://api.example",
                "https://api.example/v1/endpoints/ep_1/health",
            ),
            (
                "https://api.example/",
                "https://api.example/v1/endpoints/ep_1/health",
            ),
            (
                "https://api.example/a/b",
                "https://api.example/a/b/v1/endpoints/ep_1/health",
            ),
            (
                "https://api.example/a/b/",
                "https://api.example/a/b/v1/endpoints/ep_1/health",
            ),
        ] {
            assert_eq!(url(base, &request), expected);
        }
    }

    #[test]
    fn an_id_that_would_change_the_path_is_refused() {
        let long = "x".repeat(129);
        for bad in ["", ".", "..", "a/b", "a?b", "a%2Fb", "a b", "ö", &long] {
            let error = Request::about(Operation::DELETE_ENDPOINT, bad).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{bad}: {error}");
        }
        assert!(Request::about(Operation::DELETE_ENDPOINT, "ep_1-A").is_ok());
    }

    #[test]
    fn a_query_has_the_parameters_with_a_value() {
        let request = Request::new(Operation::LIST_EVENTS)
            .query("lead_id", Some("a&b=ö"))
            .query("project_id", None::<&str>)
            .query("limit", Some(5));
        assert_eq!(
            url("https://api.example", &request),
            "https://api.example/v1/events?lead_id=a%26b%3D%C3%B6&limit=5"
        );
        let request = Request::new(Operation::LIST_EVENTS).query("limit", None::<u32>);
        assert_eq!(
            url("https://api.example", &request),
            "https://api.example/v1/events"
        );
    }

    #[test]
    fn a_header_cannot_contain_another_one() {
        let name = HeaderName::from_static("traceparent");
        let request = Request::new(Operation::PUBLISH_EVENT);
        let bad = request
            .clone()
            .header(name.clone(), "00\r\nx: y", "the trace context");
        assert!(matches!(bad, Err(Error::Invalid { .. })));
        let good = request.header(name, "00-4bf9", "the trace context").unwrap();
        let prepared = good.prepare(&"https://api.example".parse().unwrap());
        assert_eq!(prepared.headers()["traceparent"], "00-4bf9");
    }
}
