//! `magnetite secrets`: the keys that encrypt the endpoints' secrets.

use clap::{Args, Subcommand};
use store::SealingKey;

use crate::{configuration::Configuration, database, output};

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) action: Action,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum Action {
    /// Print a new key for `secrets.keys`
    #[command(arg(super::refused_config()))]
    NewKey,
    /// Encrypt every secret with the first key in `secrets.keys`; afterwards no other key is needed
    Reseal,
}

/// Generates a key. Needs no configuration, because the key is yet to be added to it. Writes only the key to
/// standard output, so that a script can capture it.
pub(super) fn new_key() -> anyhow::Result<()> {
    let key = SealingKey::generate(rand::random());
    output::line(&key.expose())?;
    output::note(&format!(
        "Key {}. Give it to every process as secrets.keys (MAGNETITE_SECRETS__KEYS), and keep a copy: without it the endpoints' \
         secrets are lost.",
        key.id()
    ));
    Ok(())
}

/// Encrypts every secret with the first key. Every process must have this key already, because it has to
/// decrypt these secrets.
pub(super) async fn reseal(configuration: &Configuration) -> anyhow::Result<()> {
    let store = database::open(&configuration.database).await?;
    let resealed = store.reseal_secrets().await?;
    store.close().await;
    output::line(&format!("resealed {resealed}"))?;
    Ok(())
}
