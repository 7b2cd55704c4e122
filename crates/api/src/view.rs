//! How things are shown as JSON, over HTTP and by the command line alike.

mod delivery;
mod event;
mod failing;
mod health;
mod change;
mod ping;
mod words;

use serde::Serialize;
use utoipa::ToSchema;
use webhook::{DisabledReason, ProjectId};

pub use change::Change;
pub use delivery::{Attempt, Delivery, DeliveryWithAttempts};
pub use event::{Considered, DisabledSince, EventSummary, States, Story};
pub use failing::Failing;
pub use health::Health;
pub use ping::Ping;

use service::workers::Behind;

/// An endpoint: a URL of a customer's, and which events are delivered there.
#[derive(Debug, Serialize, ToSchema)]
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
    pub disabled_reason: Option<&'static str>,
    /// When it was disabled, in Unix milliseconds; null if it is enabled.
    pub disabled_at_ms: Option<i64>,
    /// Until when the secret before the last rotation is valid, too, in Unix milliseconds; it may have passed.
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
    /// Workers that are not known to act on the change yet. Only in answers to requests that change the endpoint, and absent if every running
    /// worker acts on the change. See the header Magnetite-Workers-Behind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false, example = json!(["5f1c9a0b7d3e2468"]))]
    pub workers_behind: Vec<String>,
    /// Since when and why the endpoint fails. Present only in a list of failing endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub failing: Option<Failing>,
}

impl From<&webhook::Endpoint> for Endpoint {
    /// Without its secret.
    fn from(endpoint: &webhook::Endpoint) -> Self {
        let disabled = endpoint.disabled.as_ref();
        Self {
            id: endpoint.id.to_string(),
            secret: None,
            organization_id: endpoint.organization_id.to_string(),
            project_id: endpoint.project_id.as_ref().map(ProjectId::to_string),
            url: endpoint.url.clone(),
            events: endpoint
                .subscription
                .patterns()
                .iter()
                .map(ToString::to_string)
                .collect(),
            enabled: disabled.is_none(),
            disabled_reason: disabled.map(|disabled| DisabledReason::as_str(disabled.reason)),
            disabled_at_ms: disabled.map(|disabled| disabled.at_ms),
            old_secret_until_ms: endpoint.previous.as_ref().map(|previous| previous.until_ms),
            version: endpoint.version,
            created_at_ms: endpoint.created_at_ms,
            updated_at_ms: endpoint.updated_at_ms,
            workers_behind: Vec::new(),
            failing: None,
        }
    }
}

impl Endpoint {
    /// With its secret, for the answer to whoever has just made it.
    pub fn with_secret(endpoint: &webhook::Endpoint) -> Self {
        Self {
            secret: Some(endpoint.secret.expose().to_owned()),
            ..Self::from(endpoint)
        }
    }

    /// Returns the endpoint with since when and why it fails.
    pub fn failing(found: &store::Failing) -> Self {
        Self {
            failing: Some(Failing::from(found)),
            ..Self::from(&found.endpoint)
        }
    }

    /// As its organization may see it.
    #[must_use]
    pub fn for_customers(self) -> Self {
        Self {
            failing: self.failing.map(Failing::for_customers),
            ..self
        }
    }

    /// With the workers that are not known to act on the change that was made.
    #[must_use]
    pub fn behind(self, behind: &Behind) -> Self {
        Self {
            workers_behind: behind.names(),
            ..self
        }
    }
}
