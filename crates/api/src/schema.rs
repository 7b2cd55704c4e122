//! Schemas of closed sets, made of the sets themselves.

use utoipa::openapi::{
    RefOr, Schema,
    schema::{AnyOfBuilder, ArrayBuilder, KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type},
};
use webhook::{DisabledReason, EventType, PING, journal::DeliveryState};

use crate::time::UnixMs;

/// Which events an endpoint gets: at least one pattern.
pub(crate) fn patterns() -> RefOr<Schema> {
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
            "Which event types: a type, a family such as research.*, or * for all.",
        ))
        .examples([serde_json::json!(["lead.completed", "research.*"])])
        .into()
}

/// More than there are.
pub(crate) const PATTERNS_MAX: usize = 64;

/// The name of an event type.
pub(crate) fn event_type() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(EventType::ALL.map(EventType::as_str)))
        .description(Some("What happened."))
        .examples([serde_json::json!("lead.completed")])
        .into()
}

/// Why an endpoint is disabled, or null.
pub(crate) fn disabled_reason() -> RefOr<Schema> {
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
            "Why it is disabled: by hand, because it answered 410, or after days without a success.",
        ))
        .into()
}

/// The type of an event that was delivered: also a ping's.
pub(crate) fn event_kind() -> RefOr<Schema> {
    let names = EventType::ALL.map(EventType::as_str).into_iter();
    one_of(names.chain([PING]), "What happened.", "lead.completed")
}

/// How far a delivery is.
pub(crate) fn delivery_state() -> RefOr<Schema> {
    one_of(
        DeliveryState::ALL.map(DeliveryState::as_str).into_iter().rev(),
        "Delivered; dead: given up, and can be sent again; cancelled: the endpoint was deleted; or pending.",
        "dead",
    )
}

/// Parameters of [`UnixMs`].
pub(crate) fn created_since() -> RefOr<Schema> {
    since_ms("Only those created at this time or later")
}

pub(crate) fn created_until() -> RefOr<Schema> {
    until_ms("Only those created before this time", false)
}

pub(crate) fn received_since() -> RefOr<Schema> {
    since_ms("Only those that came at this time or later")
}

pub(crate) fn received_until() -> RefOr<Schema> {
    until_ms("Only those that came before this time", false)
}

pub(crate) fn recover_since() -> RefOr<Schema> {
    since_ms("Of events that came at this time or later")
}

pub(crate) fn recover_until() -> RefOr<Schema> {
    until_ms(
        "Of events that came before this time; now, if it is null or absent",
        true,
    )
}

fn since_ms(what: &str) -> RefOr<Schema> {
    unix_ms(what, 1_703_123_456_789, false)
}

fn until_ms(what: &str, may_be_null: bool) -> RefOr<Schema> {
    unix_ms(what, 1_703_209_856_789, may_be_null)
}

fn unix_ms(what: &str, example: i64, may_be_null: bool) -> RefOr<Schema> {
    let integer = || {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
    };
    let mut schema = AnyOfBuilder::new()
        .item(integer().enum_values(Some([0])))
        .item(integer().minimum(Some(UnixMs::EARLIEST)));
    if may_be_null {
        schema = schema.item(ObjectBuilder::new().schema_type(Type::Null));
    }
    let description = format!("{what}. Unix milliseconds, from 2001 on, or 0.");
    schema
        .description(Some(description))
        .examples([serde_json::json!(example)])
        .into()
}

fn one_of(names: impl Iterator<Item = &'static str>, description: &str, example: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(names))
        .description(Some(description))
        .examples([serde_json::json!(example)])
        .into()
}
