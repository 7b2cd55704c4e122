//! Reads the columns of a row by name, on both databases.

use std::{error, str::FromStr};

use sqlx::{Row as _, postgres::PgRow, sqlite::SqliteRow};

/// A row of either database.
pub(crate) trait Columns {
    fn text(&self, column: &'static str) -> Result<String, sqlx::Error>;
    fn maybe_text(&self, column: &'static str) -> Result<Option<String>, sqlx::Error>;
    fn integer(&self, column: &'static str) -> Result<i64, sqlx::Error>;
    fn maybe_integer(&self, column: &'static str) -> Result<Option<i64>, sqlx::Error>;
    fn bytes(&self, column: &'static str) -> Result<Vec<u8>, sqlx::Error>;
}

macro_rules! columns_of {
    ($row:ty) => {
        impl Columns for $row {
            fn text(&self, column: &'static str) -> Result<String, sqlx::Error> {
                self.try_get(column)
            }

            fn maybe_text(&self, column: &'static str) -> Result<Option<String>, sqlx::Error> {
                self.try_get(column)
            }

            fn integer(&self, column: &'static str) -> Result<i64, sqlx::Error> {
                self.try_get(column)
            }

            fn maybe_integer(&self, column: &'static str) -> Result<Option<i64>, sqlx::Error> {
                self.try_get(column)
            }

            fn bytes(&self, column: &'static str) -> Result<Vec<u8>, sqlx::Error> {
                self.try_get(column)
            }
        }
    };
}
columns_of!(SqliteRow);
columns_of!(PgRow);

impl dyn Columns + '_ {
    /// Reads a number that is never negative and fits into `T`.
    pub(crate) fn number<T>(&self, column: &'static str) -> Result<T, sqlx::Error>
    where
        T: TryFrom<i64, Error: error::Error + Send + Sync + 'static>,
    {
        let number = self.integer(column)?;
        T::try_from(number).map_err(|error| undecodable(column, error))
    }

    /// Reads a number, or `None` for NULL.
    pub(crate) fn maybe_number(&self, column: &'static str) -> Result<Option<u64>, sqlx::Error> {
        let number = self.maybe_integer(column)?.map(u64::try_from).transpose();
        number.map_err(|error| undecodable(column, error))
    }

    /// Reads a word of a closed set.
    pub(crate) fn word<T>(&self, column: &'static str) -> Result<T, sqlx::Error>
    where
        T: FromStr<Err: error::Error + Send + Sync + 'static>,
    {
        self.text(column)?
            .parse()
            .map_err(|error| undecodable(column, error))
    }
}

/// Returns the error for a column whose value this version cannot read.
pub(crate) fn undecodable(
    column: &'static str,
    source: impl Into<Box<dyn error::Error + Send + Sync>>,
) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: source.into(),
    }
}
