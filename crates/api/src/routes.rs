//! The operations, in one module per kind of object. Each handler documents itself, including the scope it
//! needs in its `security`.

mod endpoints;
mod event_types;
mod events;
mod deliveries;
mod api_keys;
mod changes;
mod status;
mod documentation;

use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouter},
    routes,
};

use crate::context::Context;

/// Returns every operation with its handler.
pub(crate) fn all() -> OpenApiRouter<Context> {
    let router = OpenApiRouter::default();
    operations().into_iter().fold(router, OpenApiRouter::routes)
}

/// Returns every operation, grouped by path.
fn operations() -> Vec<UtoipaMethodRouter<Context>> {
    vec![
        routes!(endpoints::create, endpoints::list),
        routes!(endpoints::show, endpoints::update, endpoints::delete),
        routes!(endpoints::state::enable),
        routes!(endpoints::state::disable),
        routes!(endpoints::secret::rotate),
        routes!(endpoints::ping::ping),
        routes!(endpoints::relay::open),
        routes!(endpoints::relay::connect),
        routes!(event_types::list),
        routes!(event_types::show),
        routes!(events::publish),
        routes!(events::publish_batch),
        routes!(events::journal::list),
        routes!(events::journal::show),
        routes!(events::tail::tail),
        routes!(deliveries::list),
        routes!(deliveries::show),
        routes!(deliveries::attempts),
        routes!(deliveries::resend::one),
        routes!(deliveries::resend::many),
        routes!(endpoints::journal::health),
        routes!(endpoints::journal::recover),
        routes!(api_keys::create, api_keys::list),
        routes!(api_keys::revoke),
        routes!(changes::list),
        routes!(status::show),
        routes!(documentation::openapi),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Schemas are stored by name in the document, and the last one that is added under a name wins.
    #[test]
    fn no_two_types_share_the_name_of_a_schema() {
        let mut known = BTreeMap::new();
        for (name, schema) in operations().into_iter().flat_map(|(schemas, ..)| schemas) {
            let schema = serde_json::to_value(schema).unwrap();
            let before = known.entry(name.clone()).or_insert_with(|| schema.clone());
            assert_eq!(*before, schema, "two types are called {name}");
        }
        assert!(known.contains_key("Event"), "{:?}", known.keys());
    }
}
