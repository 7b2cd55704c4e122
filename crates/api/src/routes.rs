//! What there is, by the thing that it is about. Each handler documents itself; what it needs stands in its `security`.

mod endpoints;
mod event_types;
mod events;
mod deliveries;
mod changes;
mod documentation;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::context::Context;

/// Every operation, with its handler.
pub(crate) fn all() -> OpenApiRouter<Context> {
    OpenApiRouter::default()
        .routes(routes!(endpoints::create, endpoints::list))
        .routes(routes!(endpoints::show, endpoints::update, endpoints::delete))
        .routes(routes!(endpoints::state::enable))
        .routes(routes!(endpoints::state::disable))
        .routes(routes!(endpoints::secret::rotate))
        .routes(routes!(endpoints::ping::ping))
        .routes(routes!(event_types::list))
        .routes(routes!(event_types::show))
        .routes(routes!(events::publish))
        .routes(routes!(events::publish_batch))
        .routes(routes!(events::journal::list))
        .routes(routes!(events::journal::show))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::show))
        .routes(routes!(deliveries::attempts))
        .routes(routes!(deliveries::resend::one))
        .routes(routes!(deliveries::resend::many))
        .routes(routes!(endpoints::journal::health))
        .routes(routes!(endpoints::journal::recover))
        .routes(routes!(changes::list))
        .routes(routes!(documentation::openapi))
}
