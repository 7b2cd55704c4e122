//! `magnetite api`: the HTTP API alone, and `magnetite openapi`: what it can be asked for.

use crate::{
    configuration::{Configuration, InvalidSettings},
    output,
};

use super::role::{self, Kind, Schema};

/// Runs until a signal comes.
pub(super) async fn run(configuration: &Configuration) -> anyhow::Result<()> {
    let Some(address) = configuration.api_listen else {
        let detail = "expected an address to serve the API at, and it is empty".to_owned();
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
