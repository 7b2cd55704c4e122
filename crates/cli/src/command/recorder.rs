//! `magnetite recorder`: the recorder alone.

use crate::configuration::Configuration;

use super::role::{self, Kind, Schema};

/// Runs until a signal comes.
pub(super) async fn run(configuration: &Configuration) -> anyhow::Result<()> {
    role::run(configuration, Schema::Expect, &[Kind::Recorder]).await
}
