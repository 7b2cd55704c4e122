//! The messages of a relay's connection: requests that are passed to a program instead of being sent to a URL, and
//! the program's answers.
//!
//! Each message is one JSON object in a text frame of a WebSocket. Both sides ignore fields that they do not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A request to a relay, as an endpoint with a URL would receive it by POST.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RelayRequest {
    /// Identifies the request in its answer. It is unique within the connection.
    #[schema(example = "1")]
    pub request: String,
    /// The request's headers, with names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The request's body. Its UTF-8 bytes are those that were signed.
    #[schema(example = "{}")]
    pub body: String,
}

/// The answer to a request of a relay, as an endpoint with a URL would respond.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RelayAnswer {
    /// The `request` that is answered.
    #[schema(example = "1")]
    pub request: String,
    /// The HTTP status of the response; null if the connection was closed without one.
    // Without this, serde accepts an answer without the field.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(minimum = 200, maximum = 599, example = 200)]
    pub status: Option<u16>,
    /// The response's header `Retry-After`; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128, example = "30")]
    pub retry_after: Option<String>,
    /// The beginning of the response's body, up to 16 KiB.
    #[serde(default)]
    #[schema(required = false, example = "OK")]
    pub body: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_needs_only_its_request_and_its_status_and_may_have_other_fields() {
        let text = r#"{"request":"7","status":null,"trailers":{"a":1}}"#;
        let answer: RelayAnswer = serde_json::from_str(text).expect("the answer is complete");
        let expected = RelayAnswer {
            request: "7".to_owned(),
            status: None,
            retry_after: None,
            body: String::new(),
        };
        assert_eq!(answer, expected);
    }

    #[test]
    fn a_request_of_a_later_version_is_read_without_what_is_new() {
        let text = r#"{"request":"7","headers":{"webhook-id":"evt_1"},"body":"{ }","attempt":2}"#;
        let request: RelayRequest = serde_json::from_str(text).expect("the request is complete");
        assert_eq!(
            serde_json::to_value(request).expect("it has text keys"),
            json!({ "request": "7", "headers": { "webhook-id": "evt_1" }, "body": "{ }" })
        );
    }
}
