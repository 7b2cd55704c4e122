//! `magnetite recorder`: runs only a recorder.

use crate::configuration::Configuration;

use super::role::{self, Kind, Schema};

/// Runs until a signal arrives.
pub(super) async fn run(configuration: &Configuration) -> anyhow::Result<()> {
    role::run(configuration, Schema::Expect, &[Kind::Recorder]).await
}
