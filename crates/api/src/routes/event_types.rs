//! The event types, each with its schema and an example.

use axum::{
    Json,
    extract::{Path, rejection::PathRejection},
};
use webhook::EventType;
use wire::{EventTypeInfo, Listing};

use crate::{
    caller::Caller,
    problem::{Kind, Problem},
};

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
        data: EventType::ALL.map(info).into(),
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
    found.map(|event_type| Json(info(event_type))).map_err(|_| {
        Problem::new(
            Kind::NotFound,
            "There is no such event type. GET /v1/event-types lists all types.",
        )
    })
}

fn info(event_type: EventType) -> EventTypeInfo {
    let schema = webhook::schema(event_type);
    EventTypeInfo {
        name: event_type.as_str().to_owned(),
        description: schema["description"].as_str().unwrap_or_default().to_owned(),
        example: webhook::example(event_type),
        schema,
    }
}
