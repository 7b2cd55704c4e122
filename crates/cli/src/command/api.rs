//! `magnetite api`, which runs only the HTTP API, and `magnetite openapi`, which prints its description.

use crate::{
    configuration::{Configuration, InvalidSettings},
    output,
};

use super::role::{self, Kind, Schema};

/// Runs until a signal arrives.
pub(super) async fn run(configuration: &Configuration) -> anyhow::Result<()> {
    let Some(address) = configuration.api_listen else {
        let detail = "expected an address to serve the API at, but it is empty".to_owned();
        return Err(
            InvalidSettings::one("api.listen", configuration.api_listen_place.clone(), detail).into(),
        );
    };
    role::run(configuration, Schema::Expect, &[Kind::Api(address)]).await
}

/// Prints the OpenAPI document.
pub(super) fn document() -> anyhow::Result<()> {
    Ok(output::line(&format!("{:#}", api::openapi()))?)
}
