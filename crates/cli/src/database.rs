//! The database, for roles and commands.

use std::fs;

use anyhow::{Context as _, bail};
use store::{Actor, SchemaState, Store};

use crate::{
    NoConnection,
    configuration::{Database, InvalidSettings, Place},
};

const MIGRATE: &str = "run `magnetite migrate` (`magnetite up` does it by itself)";

/// The message about a database for which [`store::is_unverified`] holds. [`VERIFY`] says what to do.
pub(crate) const UNVERIFIED: &str = "the database is on another host, and the connection does not verify that the certificate is for that host";
pub(crate) const VERIFY: &str = "set sslmode=verify-full in database.url (and sslrootcert=FILE for a private authority), or \
    sslmode=disable if the network in between is trusted";

/// Connects once. Reports a URL that the store cannot parse as a bad configuration.
pub(crate) async fn connect(database: &Database) -> anyhow::Result<Store> {
    match Store::connect(&database.url, &database.keys).await {
        Ok(store) => Ok(store),
        Err(error) if error.is_bad_url() => {
            let detail = format!("expected a valid URL: {}", runtime::display_chain(&error));
            Err(InvalidSettings::one("database.url", database.place.clone(), detail).into())
        }
        Err(error @ store::Error::NoSealingKey) => {
            let detail = format!("expected a key: {error}");
            Err(InvalidSettings::one("secrets.keys", Place::Default, detail).into())
        }
        Err(error) => Err(error).context(NoConnection(format!(
            "the database cannot be opened; check database.url (from {})",
            database.place
        ))),
    }
}

/// Returns what to do about an error of [`connect`].
pub(crate) fn advice(error: &anyhow::Error) -> &'static str {
    if error.is::<InvalidSettings>() {
        return "correct the setting that is named";
    }
    match error.downcast_ref::<store::Error>() {
        Some(error) => error.advice(),
        None => "see the error, and the database's log",
    }
}

/// Connects for a command that needs the tables. Changes made through the returned store are recorded with
/// the command line as their actor.
pub(crate) async fn open(database: &Database) -> anyhow::Result<Store> {
    database.expect_file()?;
    let store = connect(database).await?;
    let schema = store.check().await?;
    fits(&schema.state)?;
    Ok(store.acting_as(Actor::Cli))
}

/// Returns an error if this binary cannot work with the tables.
pub(crate) fn fits(state: &SchemaState) -> anyhow::Result<()> {
    match state {
        SchemaState::UpToDate => Ok(()),
        SchemaState::NeedsMigration { pending } => {
            bail!(
                "the database lacks the migrations {}: {MIGRATE}",
                pending.join(", ")
            )
        }
        SchemaState::Newer { unknown } => bail!(
            "the database was migrated by a newer version of magnetite ({}): use that version",
            unknown.join(", ")
        ),
        SchemaState::Altered { altered } => bail!(
            "the database's migrations {} differ from this version's: restore it from a backup, or set database.url to an \
             empty database",
            altered.join(", ")
        ),
    }
}

impl Database {
    /// Returns a message if the SQLite file does not exist. Connecting would create a new, empty file.
    pub(crate) fn missing_file(&self) -> Option<String> {
        let path = self.url.strip_prefix("sqlite://")?;
        // Connecting rejects anything that is not a file path.
        let is_path = path.starts_with('/') && !path.ends_with('/') && !path.contains(['?', '#']);
        (is_path && matches!(fs::exists(path), Ok(false)))
            .then(|| format!("there is no database {path} (database.url, from {})", self.place))
    }

    /// Returns an error if the SQLite file does not exist. Connecting would create a new, empty file.
    pub(crate) fn expect_file(&self) -> anyhow::Result<()> {
        self.missing_file().map_or(Ok(()), |missing| {
            let told = format!("{missing}: name the one that the roles use, or create it: {MIGRATE}");
            Err(NoConnection(told).into())
        })
    }
}
