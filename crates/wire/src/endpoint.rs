//! Endpoints.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Failing;

/// An endpoint: a URL of a customer's, and which events are delivered there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// Its id.
    #[schema(example = "ep_8e0d3e107685e7013e1070dba5f85cc2")]
    pub id: String,
    /// Signs every request. Only in the answer that made it: keep it, it is not shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=",
        nullable = false
    )]
    pub secret: Option<String>,
    /// Whose events are delivered.
    #[schema(example = "org_123abc")]
    pub organization_id: String,
    /// When set, only events of this project are delivered.
    #[schema(example = "proj_456def")]
    pub project_id: Option<String>,
    /// Where to.
    #[schema(format = "uri", example = "https://example.com/webhook")]
    pub url: String,
    /// Which event types: a type, a family such as `research.*`, or `*` for all.
    #[schema(schema_with = crate::schema::patterns)]
    pub events: Vec<String>,
    /// Whether events are delivered.
    #[schema(example = true)]
    pub enabled: bool,
    /// Why not: `manual`, `gone` after the endpoint answered 410, or `failing` after days without a success.
    #[schema(schema_with = crate::schema::disabled_reason)]
    pub disabled_reason: Option<String>,
    /// When it was disabled, in Unix milliseconds; null if it is enabled.
    pub disabled_at_ms: Option<i64>,
    /// Until when the secret before the last rotation is valid, too, in Unix milliseconds; it may have
    /// passed.
    pub old_secret_until_ms: Option<i64>,
    /// Grows with every change; the ETag is made of it.
    #[schema(example = 17)]
    pub version: i64,
    /// Unix milliseconds.
    #[schema(example = 1_703_123_456_789_i64)]
    pub created_at_ms: i64,
    /// Unix milliseconds.
    #[schema(example = 1_703_123_456_789_i64)]
    pub updated_at_ms: i64,
    /// Workers that are not known to act on the change yet. Only in answers to requests that change the
    /// endpoint, and absent if every running worker acts on the change. See the header
    /// Magnetite-Workers-Behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false, example = json!(["5f1c9a0b7d3e2468"]))]
    pub workers_behind: Vec<String>,
    /// Since when and why the endpoint fails. Present only in a list of failing endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub failing: Option<Failing>,
}
