//! OpenAPI schemas of closed sets, generated from the sets themselves.

use utoipa::openapi::{
    RefOr, Schema,
    schema::{ArrayBuilder, ObjectBuilder, SchemaType, Type},
};
use webhook::{
    DisabledReason, EventType, PING, Scope,
    journal::{DeliveryState, ThenKind},
};

/// Returns the schema of an endpoint's subscription: a list of at least one pattern.
pub fn patterns() -> RefOr<Schema> {
    let mut names = vec!["*".to_owned()];
    for event_type in EventType::ALL {
        let family = format!("{}.*", event_type.family());
        if !names.contains(&family) {
            names.push(family);
        }
    }
    names.extend(EventType::ALL.map(|event_type| event_type.as_str().to_owned()));
    let pattern = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(names));
    ArrayBuilder::new()
        .items(pattern)
        .min_items(Some(1))
        .max_items(Some(PATTERNS_MAX))
        .description(Some(
            "The event types that the endpoint subscribes to: each element is a type, a family such as research.*, or * for all.",
        ))
        .examples([serde_json::json!(["lead.completed", "research.*"])])
        .into()
}

/// The maximum number of patterns of an endpoint, which is more than the number of different patterns.
pub const PATTERNS_MAX: usize = 64;

/// Returns the schema of an API key's scopes: a list of at least one scope.
pub fn scopes() -> RefOr<Schema> {
    let scope = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(Scope::ALL.iter().map(|scope| scope.as_str())));
    ArrayBuilder::new()
        .items(scope)
        .min_items(Some(1))
        .max_items(Some(SCOPES_MAX))
        .description(Some("What the key allows. The scope admin includes all others."))
        .examples([serde_json::json!(["events:write", "endpoints:read"])])
        .into()
}

/// The maximum number of scopes of a key, which is the number of different scopes.
pub const SCOPES_MAX: usize = Scope::ALL.len();

/// Returns the schema of the name of an event type.
pub fn event_type() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(EventType::ALL.map(EventType::as_str)))
        .description(Some("The type of the event."))
        .examples([serde_json::json!("lead.completed")])
        .into()
}

/// Returns the schema of the reason why an endpoint is disabled, which may be null.
pub fn disabled_reason() -> RefOr<Schema> {
    let reasons = [
        DisabledReason::Manual,
        DisabledReason::Gone,
        DisabledReason::Failing,
    ];
    let names = reasons.map(|reason| Some(reason.as_str())).into_iter();
    ObjectBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::String, Type::Null]))
        .enum_values(Some(names.chain([None])))
        .description(Some(
            "Why the endpoint is disabled: manual (a user disabled it), gone (it answered 410) or failing (no success for days); null if it is enabled.",
        ))
        .into()
}

/// Returns the schema of the type of a delivered event, which may be a ping.
pub fn event_kind() -> RefOr<Schema> {
    let names = EventType::ALL.map(EventType::as_str).into_iter();
    one_of(names.chain([PING]), "The type of the event.", "lead.completed")
}

/// Returns the schema of the state of a delivery.
pub fn delivery_state() -> RefOr<Schema> {
    one_of(
        DeliveryState::ALL.iter().rev().map(|state| state.as_str()),
        "The state of the delivery: delivered; dead (given up, and can be sent again); cancelled (the endpoint was deleted, or a ping failed); or pending.",
        "dead",
    )
}

/// Returns the schema of the outcome of an attempt, or of a decision without one.
pub fn attempt_outcome() -> RefOr<Schema> {
    one_of(
        ThenKind::ALL.iter().map(|kind| kind.as_str()),
        "The outcome: delivered; retry (another attempt follows); deferred (no attempt is charged); dead (given up); or cancelled (the endpoint was deleted, or a ping failed).",
        "retry",
    )
}

fn one_of(names: impl Iterator<Item = &'static str>, description: &str, example: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(names))
        .description(Some(description))
        .examples([serde_json::json!(example)])
        .into()
}
