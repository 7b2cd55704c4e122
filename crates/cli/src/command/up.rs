//! `magnetite up`: runs all roles in one process.

use crate::configuration::Configuration;

use super::role::{self, Kind, Schema};

/// Runs until a signal arrives.
pub(super) async fn run(configuration: &Configuration) -> anyhow::Result<()> {
    let mut kinds = vec![Kind::Worker, Kind::Recorder];
    kinds.extend(configuration.api_listen.map(Kind::Api));
    role::run(configuration, Schema::Migrate, &kinds).await
}
