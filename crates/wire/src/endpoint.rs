//! Endpoints.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Credential, Failing};

/// An endpoint: a customer's URL, and the events that are delivered to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// The endpoint's id.
    #[schema(example = "ep_8e0d3e107685e7013e1070dba5f85cc2")]
    pub id: String,
    /// The secret that signs every request to the endpoint. Present only in the response that created the
    /// secret: store it, because it is not shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        value_type = Option<String>,
        example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=",
        nullable = false
    )]
    pub secret: Option<Credential>,
    /// The organization whose events are delivered.
    #[schema(example = "org_123abc")]
    pub organization_id: String,
    /// The project whose events are delivered; null for the events of all projects.
    #[schema(example = "proj_456def")]
    pub project_id: Option<String>,
    /// The URL that events are delivered to; `relay:listen` for a relay, which has none.
    #[schema(format = "uri", example = "https://example.com/webhook")]
    pub url: String,
    /// The event types that the endpoint subscribes to: a type, a family such as `research.*`, or `*` for
    /// all.
    #[schema(schema_with = crate::schema::patterns)]
    pub events: Vec<String>,
    /// Whether events are delivered to the endpoint.
    #[schema(example = true)]
    pub enabled: bool,
    /// Why the endpoint is disabled: `manual`, `gone` after it answered 410, or `failing` after days without
    /// a success; null if it is enabled.
    #[schema(schema_with = crate::schema::disabled_reason)]
    pub disabled_reason: Option<String>,
    /// When the endpoint was disabled, in Unix milliseconds; null if it is enabled.
    pub disabled_at_ms: Option<i64>,
    /// When the previous secret expires or expired, in Unix milliseconds; null if the secret was never
    /// rotated. Until then, both secrets are valid.
    pub old_secret_until_ms: Option<i64>,
    /// The version of the endpoint, which increases with every change. The ETag is derived from it.
    #[schema(example = 17)]
    pub version: i64,
    /// When the endpoint was created, in Unix milliseconds.
    #[schema(example = 1_703_123_456_789_i64)]
    pub created_at_ms: i64,
    /// When the endpoint was last changed, in Unix milliseconds.
    #[schema(example = 1_703_123_456_789_i64)]
    pub updated_at_ms: i64,
    /// The workers that have not confirmed yet that they use the changed endpoint. Present only in responses
    /// to requests that change the endpoint, and absent if every running worker uses the change. See the
    /// header Magnetite-Workers-Behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false, example = json!(["5f1c9a0b7d3e2468"]))]
    pub workers_behind: Vec<String>,
    /// Since when and why the endpoint fails. Present only in a list of failing endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub failing: Option<Failing>,
}
