//! `magnetite worker`: the worker alone. It leaves the tables to `migrate`, so that replicas of two versions
//! do not fight over them.

use crate::configuration::Configuration;

use super::role::{self, Kind, Schema};

/// Runs until a signal comes.
pub(super) async fn run(configuration: &Configuration) -> anyhow::Result<()> {
    role::run(configuration, Schema::Expect, &[Kind::Worker]).await
}
