//! Statements and their arguments, independent of the database that executes them.

use std::{borrow::Cow, sync::Arc};

use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Connection as _};
use webhook::EndpointId;

use crate::{
    Error, OPERATION_TIMEOUT, Operation, Store,
    columns::Columns,
    database::{Dialect, on_connection},
};

/// The numbers of rows that one statement of an [`Insert`] writes. There are only a few sizes, so that every
/// statement is prepared once. 64 rows of 16 columns stay far below the maximum number of parameters of
/// SQLite (32,766) and PostgreSQL (65,535).
const CHUNK_ROWS: [usize; 3] = [64, 8, 1];

/// The length of the longest id that is stored unchanged, in bytes. A row of an index contains several ids,
/// and PostgreSQL limits such a row to 2,704 bytes. Ids of newly published events are not longer; an older
/// version accepted longer ones.
pub(crate) const ID_BYTES_MAX: usize = webhook::ID_BYTES_MAX;

/// The value of a parameter of a statement.
#[derive(Clone)]
pub(crate) enum Argument<'a> {
    Text(Option<Cow<'a, str>>),
    Integer(Option<i64>),
    Bytes(&'a [u8]),
}

impl<'a> Argument<'a> {
    /// Returns the argument for an external text. PostgreSQL's TEXT does not accept U+0000; on both databases
    /// it is replaced by U+FFFD.
    pub(crate) fn outside(text: &'a str) -> Self {
        Self::Text(Some(storable(text)))
    }

    /// Returns the argument for an external id in its stored form; see [`stored_id`].
    pub(crate) fn id(id: &'a str) -> Self {
        Self::Text(Some(stored_id(id)))
    }

    /// Returns the argument for an optional external text; see [`Argument::outside`].
    pub(crate) fn maybe_outside(text: Option<&'a str>) -> Self {
        Self::Text(text.map(storable))
    }
}

/// Returns the stored form of an external text.
pub(crate) fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Returns the stored form of an external id. An id longer than [`ID_BYTES_MAX`] is shortened to its
/// beginning and the first 128 bits of its SHA-256. Shortening a stored id does not change it, so a caller
/// that has read the id finds its row.
pub(crate) fn stored_id(id: &str) -> Cow<'_, str> {
    /// The length of `~` and 32 hexadecimal digits.
    const END_BYTES: usize = 33;
    let id = storable(id);
    if id.len() <= ID_BYTES_MAX {
        return id;
    }
    let beginning = &id[..id.floor_char_boundary(ID_BYTES_MAX - END_BYTES)];
    let digest = Sha256::digest(id.as_bytes());
    Cow::Owned(format!("{beginning}~{}", hex::encode(&digest[..16])))
}

/// Converts to the databases' integers, which end at 2^63 - 1. A later time cannot be genuine; it becomes the
/// latest time.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl<'a> From<&'a str> for Argument<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl From<String> for Argument<'_> {
    fn from(text: String) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl<'a> From<&'a EndpointId> for Argument<'a> {
    fn from(id: &'a EndpointId) -> Self {
        id.as_str().into()
    }
}

impl<'a> From<Option<&'a str>> for Argument<'a> {
    fn from(text: Option<&'a str>) -> Self {
        Self::Text(text.map(Into::into))
    }
}

impl From<i64> for Argument<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(Some(number))
    }
}

impl From<u64> for Argument<'_> {
    fn from(number: u64) -> Self {
        integer(number).into()
    }
}

impl From<u32> for Argument<'_> {
    fn from(number: u32) -> Self {
        i64::from(number).into()
    }
}

impl From<Option<u64>> for Argument<'_> {
    fn from(number: Option<u64>) -> Self {
        Self::Integer(number.map(integer))
    }
}

impl<'a> From<&'a [u8]> for Argument<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

/// Binds all of `$arguments`, which are references, to `$query`.
macro_rules! bind_all {
    ($query:expr, $arguments:expr) => {{
        let mut query = $query;
        for argument in $arguments {
            query = match argument {
                $crate::statement::Argument::Text(text) => query.bind(text.as_deref()),
                $crate::statement::Argument::Integer(integer) => query.bind(*integer),
                $crate::statement::Argument::Bytes(bytes) => query.bind(*bytes),
            };
        }
        query
    }};
}
pub(crate) use bind_all;

/// A statement that inserts rows of `N` columns, with one text for each size in [`CHUNK_ROWS`].
pub(crate) struct Insert<const N: usize> {
    sizes: [(usize, Arc<str>); 3],
}

impl<const N: usize> Insert<N> {
    /// Builds the statement; `tail` is the SQL after the values.
    pub(crate) fn new(table: &str, columns: [&str; N], tail: &str) -> Self {
        let text = |rows: usize| -> Arc<str> {
            let row = |row: usize| {
                let numbers: Vec<_> = (1..=N).map(|column| format!("${}", row * N + column)).collect();
                format!("({})", numbers.join(", "))
            };
            let values: Vec<_> = (0..rows).map(row).collect();
            let (columns, values) = (columns.join(", "), values.join(", "));
            format!("INSERT INTO {table} ({columns}) VALUES {values} {tail}").into()
        };
        Self {
            sizes: CHUNK_ROWS.map(|rows| (rows, text(rows))),
        }
    }

    /// Returns the statement for the largest chunk that `rows` fill, the rows of this chunk, and the
    /// remaining rows; `None` if `rows` is empty.
    #[allow(clippy::type_complexity, reason = "an alias would hide what the tuple holds")]
    pub(crate) fn next<'r, 'a>(
        &self,
        rows: &'r [[Argument<'a>; N]],
    ) -> Option<(
        AssertSqlSafe<Arc<str>>,
        &'r [[Argument<'a>; N]],
        &'r [[Argument<'a>; N]],
    )> {
        let (size, text) = self.sizes.iter().find(|(size, _)| *size <= rows.len())?;
        let (chunk, rest) = rows.split_at(*size);
        Some((AssertSqlSafe(text.clone()), chunk, rest))
    }
}

/// Writes all `$rows` with an [`Insert`]. For use inside [`on_connection!`].
macro_rules! insert_all {
    ($tx:ident, $insert:expr, $rows:expr) => {{
        let mut rows = &$rows[..];
        while let Some((sql, chunk, rest)) = $insert.next(rows) {
            $crate::statement::bind_all!(sqlx::query(sql), chunk.iter().flatten())
                .execute(&mut *$tx)
                .await?;
            rows = rest;
        }
    }};
}
pub(crate) use insert_all;

/// A statement that is assembled from constant pieces and numbered arguments. External text never becomes
/// part of the SQL.
pub(crate) struct Statement<'a> {
    sql: String,
    pub(crate) arguments: Vec<Argument<'a>>,
}

impl<'a> Statement<'a> {
    pub(crate) fn new(sql: &'static str) -> Self {
        Self {
            sql: sql.to_owned(),
            arguments: Vec::new(),
        }
    }

    /// Returns the statement `sql` with the arguments of its placeholders.
    pub(crate) fn with(sql: &'static str, arguments: impl IntoIterator<Item = Argument<'a>>) -> Self {
        Self {
            sql: sql.to_owned(),
            arguments: arguments.into_iter().collect(),
        }
    }

    pub(crate) fn push(&mut self, sql: &'static str) {
        self.sql.push_str(sql);
    }

    /// Appends `sql`, followed by a placeholder for `argument`.
    pub(crate) fn push_with(&mut self, sql: &'static str, argument: Argument<'a>) {
        self.arguments.push(argument);
        self.sql.push_str(sql);
        self.sql.push('$');
        self.sql.push_str(&self.arguments.len().to_string());
    }

    /// Appends `sql`, followed by placeholders for `arguments` in parentheses.
    pub(crate) fn push_list(&mut self, sql: &'static str, arguments: impl IntoIterator<Item = Argument<'a>>) {
        self.push(sql);
        for (index, argument) in arguments.into_iter().enumerate() {
            self.push_with(if index == 0 { "(" } else { ", " }, argument);
        }
        self.push(")");
    }

    /// Replaces `{gaps}` by this table, or by this query, which contains only numbers.
    pub(crate) fn with_gaps(mut self, gaps: &str) -> Self {
        self.sql = self.sql.replace("{gaps}", gaps);
        self
    }

    /// Returns the SQL, with the expression for the database's clock in place of `{now}`.
    pub(crate) fn sql(&self, dialect: &Dialect) -> AssertSqlSafe<String> {
        AssertSqlSafe(self.sql.replace("{now}", dialect.now_ms))
    }
}

/// A function that selects the statements of a dialect that begin a transaction.
pub(crate) type Preparation = fn(&Dialect) -> &'static [&'static str];

pub(crate) const UNPREPARED: Preparation = |_| &[];

/// Evaluates to all rows that a statement returns. For use inside [`on_connection!`].
macro_rules! fetch_all {
    ($connection:ident, $dialect:ident, $statement:expr, $read:expr) => {{
        let statement = &$statement;
        let query = $crate::statement::bind_all!(sqlx::query(statement.sql($dialect)), &statement.arguments);
        query
            .try_map(|row| $read(&row))
            .fetch_all(&mut *$connection)
            .await?
    }};
}
pub(crate) use fetch_all;

macro_rules! fetch_on {
    ($self:ident, $pool:ident, $operation:ident, $statement:ident, $read:ident) => {
        on_connection!(
            &$self.database,
            $pool,
            $operation,
            OPERATION_TIMEOUT,
            |connection, dialect| { Ok(fetch_all!(connection, dialect, $statement, $read)) }
        )
    };
}

impl Store {
    /// Returns all rows that `statement` selects.
    pub(crate) async fn fetch<T: Send + Unpin>(
        &self,
        operation: &Operation,
        statement: Statement<'_>,
        read: fn(&dyn Columns) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, Error> {
        fetch_on!(self, reader, operation, statement, read)
    }

    /// Returns all rows that `statement` selects, like [`fetch`](Self::fetch), but uses a connection for
    /// queries of the journal.
    pub(crate) async fn fetch_from_journal<T: Send + Unpin>(
        &self,
        operation: &Operation,
        statement: Statement<'_>,
        read: fn(&dyn Columns) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, Error> {
        fetch_on!(self, journal, operation, statement, read)
    }

    /// Executes `statement` in a transaction of its own, which begins with the statements that `preparation`
    /// selects. Returns the number of rows written.
    pub(crate) async fn execute(
        &self,
        operation: &Operation,
        preparation: Preparation,
        statement: Statement<'_>,
    ) -> Result<u64, Error> {
        on_connection!(
            &self.database,
            writer,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_write).await?;
                for prepare in preparation(dialect) {
                    sqlx::query(*prepare).execute(&mut *tx).await?;
                }
                let query = bind_all!(sqlx::query(statement.sql(dialect)), &statement.arguments);
                let rows = query.execute(&mut *tx).await?.rows_affected();
                tx.commit().await?;
                Ok(rows)
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_id_is_shortened_to_one_that_no_other_has_and_that_stays() {
        for id in ["", "lead_1", "日本語", &"x".repeat(ID_BYTES_MAX)] {
            assert_eq!(stored_id(id), id);
        }
        for id in [
            &*"x".repeat(256),
            &"日".repeat(100),
            &"\0".repeat(200),
            &"x".repeat(100_000),
        ] {
            let stored = stored_id(id);
            assert!(stored.len() <= ID_BYTES_MAX && !stored.contains('\0'), "{stored}");
            assert_eq!(stored_id(&stored), stored);
            assert_ne!(stored_id(&format!("{id}x")), stored);
        }
    }
}
