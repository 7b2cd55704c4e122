//! Event types.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// An event type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventTypeInfo {
    /// The name, as in the field `event` and in subscriptions.
    #[serde(rename = "type")]
    #[schema(schema_with = crate::schema::event_type)]
    pub name: String,
    /// When events of this type occur.
    #[schema(example = "The lead magnet is completely processed and available for viewing.")]
    pub description: String,
    /// The schema of events of this type: JSON Schema, draft 2020-12.
    #[schema(value_type = Object)]
    pub schema: Value,
    /// An example event of this type.
    #[schema(value_type = Object)]
    pub example: Value,
}
