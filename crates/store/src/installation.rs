//! Which installation a database belongs to.

use crate::{Error, OPERATION_TIMEOUT, Operation, Store, database::on_connection};

/// `{now}` is the database's clock.
pub(crate) const INSERT: &str =
    "INSERT INTO installation (number, id, since_ms) VALUES (1, $1, {now}) ON CONFLICT (number) DO NOTHING";

const SELECT: &str = "SELECT id FROM installation WHERE number = 1";

/// A random id. Short, because the broker's words that name it are cut at 255 bytes.
pub(crate) fn new_id() -> String {
    format!("ins_{:016x}", rand::random::<u64>())
}

impl Store {
    /// The id of the installation, random and made with the database's tables. A copy of the database has the
    /// same one.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn installation_id(&self) -> Result<String, Error> {
        on_connection!(
            &self.database,
            reader,
            &Operation::ReadInstallation,
            OPERATION_TIMEOUT,
            |connection, _dialect| { Ok(sqlx::query_scalar(SELECT).fetch_one(connection).await?) }
        )
    }
}
