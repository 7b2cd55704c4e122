//! The installations that are measured, and the commands of their roles.

use e2e::{Installation, shared_broker};
use tokio::process::Command;

/// The contract's delays between attempts, in milliseconds.
const DELAYS_MS: [u64; 6] = [1000, 2000, 4000, 8000, 16000, 30000];

/// Creates an installation on the broker of `MAGNETITE_BROKER__URL`, with the default configuration except
/// for these settings.
pub async fn create(name: &str, settings: &[(&str, &str)]) -> Installation {
    Installation::with(name, &shared_broker(), &DELAYS_MS, settings).await
}

/// Returns the command that runs a role of the installation, with any free health port.
pub fn role(installation: &Installation, role: &str) -> Command {
    let mut command = installation.command(&[role]);
    command.env("MAGNETITE_HEALTH__LISTEN", "127.0.0.1:0");
    command
}
