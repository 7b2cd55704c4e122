//! `magnetite migrate`.

use crate::{configuration::Configuration, database, output};

/// Migrates the database and prints the names of the migrations that were applied.
pub(super) async fn run(configuration: &Configuration) -> anyhow::Result<()> {
    let is_new = configuration.database.missing_file().is_some();
    let store = database::connect(&configuration.database).await?;
    let applied = store.migrate().await?;
    let address = store.address();
    output::note(&match (is_new, applied.is_empty()) {
        (true, _) => format!("{address} is a new, empty database"),
        (false, true) => format!("{address} is up to date"),
        (false, false) => format!("{address} was brought up to date"),
    });
    output::lines(applied)?;
    store.close().await;
    Ok(())
}
