//! What can happen, with the schema and an example of each.

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

/// A type of event.
#[derive(Serialize, ToSchema)]
pub(super) struct EventTypeInfo {
    /// Its name, as in the field `event` and in subscriptions.
    #[serde(rename = "type")]
    #[schema(schema_with = wire::schema::event_type)]
    name: &'static str,
    /// When it happens.
    #[schema(example = "The lead magnet is completely processed and available for viewing.")]
    description: String,
    /// What events of the type look like: JSON Schema, draft 2020-12.
    #[schema(value_type = Object)]
    schema: Value,
    /// An event of the type.
    #[schema(value_type = Object)]
    example: Value,
}

/// List event types.
///
/// All of them, in the order of a lead's life, with schemas and examples.
#[utoipa::path(
    get,
    path = "/v1/event-types",
    operation_id = "listEventTypes",
    tag = "Event types",
    security(("api_key" = ["endpoints:read"])),
    responses((status = 200, description = "Every type; there is one page.", body = Listing<EventTypeInfo>)),
)]
pub(super) async fn list(_: Caller) -> Json<Listing<EventTypeInfo>> {
    Json(Listing {
        data: EventType::ALL.map(EventTypeInfo::of).into(),
        next_cursor: None,
    })
}

/// Show an event type.
///
/// With its JSON Schema, and an example that is valid by it.
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
                "There is no such event type; list those there are.",
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
