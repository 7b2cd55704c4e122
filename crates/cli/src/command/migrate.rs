//! `magnetite migrate`.

use crate::{configuration::Configuration, database, output};

/// Prints the names of the migrations that were applied.
pub(super) async fn run(configuration: &Configuration) -> anyhow::Result<()> {
    let store = database::connect(&configuration.database).await?;
    let applied = store.migrate().await?;
    if applied.is_empty() {
        output::note("the database is up to date");
    }
    output::lines(applied)?;
    store.close().await;
    Ok(())
}
