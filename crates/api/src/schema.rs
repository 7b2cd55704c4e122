//! Schemas of parameters that are times; see [`UnixMs`].

use utoipa::openapi::{
    RefOr, Schema,
    schema::{AnyOfBuilder, KnownFormat, ObjectBuilder, SchemaFormat, Type},
};

use crate::time::UnixMs;

pub(crate) fn created_since() -> RefOr<Schema> {
    since_ms("Only those created at this time or later")
}

pub(crate) fn created_until() -> RefOr<Schema> {
    until_ms("Only those created before this time", false)
}

pub(crate) fn received_since() -> RefOr<Schema> {
    since_ms("Only those received at this time or later")
}

pub(crate) fn received_until() -> RefOr<Schema> {
    until_ms("Only those received before this time", false)
}

pub(crate) fn dead_since() -> RefOr<Schema> {
    since_ms("Count the dead deliveries created at this time or later; an hour ago, if it is absent")
}

pub(crate) fn recover_since() -> RefOr<Schema> {
    since_ms("Only for events received at this time or later")
}

pub(crate) fn recover_until() -> RefOr<Schema> {
    until_ms(
        "Only for events received before this time; now, if it is null or absent",
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
