//! `magnetite up`: all roles in one process. So far there is one, the worker.

use crate::configuration::Configuration;

use super::role::{self, Schema};

/// Runs until a signal comes.
pub(super) async fn run(configuration: &Configuration) -> anyhow::Result<()> {
    role::run(configuration, Schema::Migrate).await
}
