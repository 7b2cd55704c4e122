//! `magnetite worker`: runs only a worker. It does not migrate the tables, so that replicas of two versions
//! do not compete over the schema.

use crate::configuration::Configuration;

use super::role::{self, Kind, Schema};

/// Runs until a signal arrives.
pub(super) async fn run(configuration: &Configuration) -> anyhow::Result<()> {
    role::run(configuration, Schema::Expect, &[Kind::Worker]).await
}
