//! `magnetite secrets`: the keys that endpoints' secrets are sealed with.

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
    NewKey,
    /// Seal every secret with the first of `secrets.keys`; afterwards no other key is needed
    Reseal,
}

/// Needs no configuration, since that is where the key is to go. Prints the key alone, so that it can be
/// captured.
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

/// Every process has to have the key already: what it seals, they have to open.
pub(super) async fn reseal(configuration: &Configuration) -> anyhow::Result<()> {
    let store = database::open(&configuration.database).await?;
    let resealed = store.reseal_secrets().await?;
    store.close().await;
    output::line(&format!("resealed {resealed}"))?;
    Ok(())
}
