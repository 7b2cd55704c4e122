//! The id of the installation that a database belongs to.

use crate::{Error, OPERATION_TIMEOUT, Operation, Store, database::on_connection};

/// `{now}` is the database's clock.
pub(crate) const INSERT: &str =
    "INSERT INTO installation (number, id, since_ms) VALUES (1, $1, {now}) ON CONFLICT (number) DO NOTHING";

const SELECT: &str = "SELECT id FROM installation WHERE number = 1";

/// Returns a random id. It is short, because the broker cuts texts that contain it at 255 bytes.
pub(crate) fn new_id() -> String {
    format!("ins_{:016x}", rand::random::<u64>())
}

impl Store {
    /// Returns the id of the installation, which is random and is generated with the database's tables. A
    /// copy of the database has the same id.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn installation_id(&self) -> Result<String, Error> {
        on_connection!(
            &self.database,
            reader,
            &Operation::new("read the installation's id"),
            OPERATION_TIMEOUT,
            |connection, _dialect| { Ok(sqlx::query_scalar(SELECT).fetch_one(connection).await?) }
        )
    }
}
