//! The event types, each with its schema and an example.

use axum::{
    Json,
    extract::{Path, rejection::PathRejection},
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use webhook::EventType;

use crate::{
    caller::Caller,
    pagination::Listing,
    problem::{Kind, Problem},
};

/// An event type.
#[derive(Serialize, ToSchema)]
pub(super) struct EventTypeInfo {
    /// The name, as in the field `event` and in subscriptions.
    #[serde(rename = "type")]
    #[schema(schema_with = wire::schema::event_type)]
    name: &'static str,
    /// When events of this type occur.
    #[schema(example = "The lead magnet is completely processed and available for viewing.")]
    description: String,
    /// The schema of events of this type: JSON Schema, draft 2020-12.
    #[schema(value_type = Object)]
    schema: Value,
    /// An example event of this type.
    #[schema(value_type = Object)]
    example: Value,
}

/// List event types.
///
/// Returns all event types, in the order in which they occur for a lead, with schemas and examples.
#[utoipa::path(
    get,
    path = "/v1/event-types",
    operation_id = "listEventTypes",
    tag = "Event types",
    security(("api_key" = ["endpoints:read"])),
    responses((status = 200, description = "All types, on one page.", body = Listing<EventTypeInfo>)),
)]
pub(super) async fn list(_: Caller) -> Json<Listing<EventTypeInfo>> {
    Json(Listing {
        data: EventType::ALL.map(EventTypeInfo::of).into(),
        next_cursor: None,
    })
}

/// Show an event type.
///
/// Returns the type with its JSON Schema, and an example that is valid against it.
#[utoipa::path(
    get,
    path = "/v1/event-types/{type}",
    operation_id = "getEventType",
    tag = "Event types",
    security(("api_key" = ["endpoints:read"])),
    params(("type" = String, Path, description = "The type's name.", example = "lead.completed")),
    responses(
        (status = 200, description = "The type.", body = EventTypeInfo),
        (status = 404, description = "There is no such type."),
    ),
)]
pub(super) async fn show(
    _: Caller,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<EventTypeInfo>, Problem> {
    let name = name.map(|Path(name)| name).unwrap_or_default();
    let found = name.parse::<EventType>();
    found
        .map(|event_type| Json(EventTypeInfo::of(event_type)))
        .map_err(|_| {
            Problem::new(
                Kind::NotFound,
                "There is no such event type. GET /v1/event-types lists all types.",
            )
        })
}

impl EventTypeInfo {
    fn of(event_type: EventType) -> Self {
        let schema = webhook::schema(event_type);
        Self {
            name: event_type.as_str(),
            description: schema["description"].as_str().unwrap_or_default().to_owned(),
            example: webhook::example(event_type),
            schema,
        }
    }
}
