//! The schema: the known migrations, the migrations that a database has, and how the missing ones are
//! applied.

use std::{borrow::Cow, time::Duration};

use sqlx::{
    Connection as _, SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

use crate::{
    Error, OPERATION_TIMEOUT, Operation, Store, database::on_connection, error::Failure, installation,
    sealing::seal_plain, statement::Statement,
};

/// How long [`Store::migrate`] waits for another process that is migrating. On SQLite it waits only 10 s,
/// like every write.
pub const MIGRATION_LOCK_TIMEOUT: Duration = Duration::from_mins(1);

/// How long [`Store::migrate`] may take in all. It guards against a host that hangs and is not meant to limit
/// real work.
const MIGRATE_TIMEOUT: Duration = Duration::from_hours(1);

/// The number, name and statements of every migration, in order. A released migration is never changed.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "endpoints", include_str!("../migrations/0001_endpoints.sql")),
    (2, "journal", include_str!("../migrations/0002_journal.sql")),
    (
        3,
        "sealed_secrets",
        include_str!("../migrations/0003_sealed_secrets.sql"),
    ),
    (4, "api_keys", include_str!("../migrations/0004_api_keys.sql")),
    (6, "retention", include_str!("../migrations/0006_retention.sql")),
    (
        8,
        "endpoint_limits",
        include_str!("../migrations/0008_endpoint_limits.sql"),
    ),
    (10, "roles", include_str!("../migrations/0010_roles.sql")),
    (
        11,
        "endpoint_history",
        include_str!("../migrations/0011_endpoint_history.sql"),
    ),
    (
        14,
        "installation",
        include_str!("../migrations/0014_installation.sql"),
    ),
    (15, "batches", include_str!("../migrations/0015_batches.sql")),
    (16, "in_hand", include_str!("../migrations/0016_in_hand.sql")),
    (
        17,
        "seen_and_totals",
        include_str!("../migrations/0017_seen_and_totals.sql"),
    ),
    (18, "reports", include_str!("../migrations/0018_reports.sql")),
    (19, "recorded", include_str!("../migrations/0019_recorded.sql")),
    (20, "clocks", include_str!("../migrations/0020_clocks.sql")),
    (
        21,
        "platform_keys",
        include_str!("../migrations/0021_platform_keys.sql"),
    ),
    (
        22,
        "undelivered_by_organization",
        include_str!("../migrations/0022_undelivered_by_organization.sql"),
    ),
    (23, "relays", include_str!("../migrations/0023_relays.sql")),
];

/// The name of the table of applied migrations. It differs from sqlx's default, so that other programs that
/// use sqlx can share the database.
const MIGRATIONS_TABLE: &str = "magnetite_migrations";

const SELECT_APPLIED: &str =
    "SELECT version, description, checksum FROM magnetite_migrations ORDER BY version";

/// The result of [`Store::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The name and version of the database software: `SQLite 3.51.1`, `PostgreSQL 15.18 (Debian
    /// 15.18-0+deb12u1)`.
    pub server: String,
    /// Whether this binary can work with the tables as they are.
    pub state: SchemaState,
}

/// The result of comparing a database's tables with those that this binary expects. Migrations are named as
/// in `0001_endpoints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// All known migrations are applied, and no others.
    UpToDate,
    /// Some known migrations are missing; [`Store::migrate`] applies them.
    NeedsMigration {
        /// The migrations that are not applied yet; all of them in an empty database.
        pending: Vec<String>,
    },
    /// A newer binary has migrated this database.
    Newer {
        /// The applied migrations that this binary does not know.
        unknown: Vec<String>,
    },
    /// A migration with a known number was applied with a different text, by a development build or another
    /// program.
    Altered {
        /// The migrations whose text differs.
        altered: Vec<String>,
    },
}

/// A migration in the form in which it is compared.
#[derive(Clone, Debug)]
struct Known {
    version: i64,
    name: String,
    checksum: Vec<u8>,
}

impl Known {
    fn new(version: i64, description: &str, checksum: &[u8]) -> Self {
        Self {
            version,
            name: format!("{version:04}_{description}"),
            checksum: checksum.to_vec(),
        }
    }
}

/// Evaluates to the migrations that the database has. For use inside [`on_connection!`].
macro_rules! applied {
    ($tx:ident, $dialect:ident) => {{
        let tables: i64 = sqlx::query_scalar($dialect.count_migrations_tables)
            .fetch_one(&mut *$tx)
            .await?;
        let rows: Vec<(i64, String, Vec<u8>)> = match tables {
            0 => Vec::new(),
            _ => sqlx::query_as(SELECT_APPLIED).fetch_all(&mut *$tx).await?,
        };
        rows.iter()
            .map(|(version, description, checksum)| Known::new(*version, description, checksum))
            .collect::<Vec<_>>()
    }};
}

/// Refuses a database that cannot store every text. For use inside [`on_connection!`].
macro_rules! require_utf8 {
    ($connection:expr, $dialect:ident) => {{
        let encoding: String = sqlx::query_scalar($dialect.encoding)
            .fetch_one(&mut *$connection)
            .await?;
        if encoding != "UTF8" {
            return Err(Error::NotUtf8 { encoding }.into());
        }
    }};
}

impl Store {
    /// Brings the tables up to date and returns the names of the migrations that this call applied; empty if
    /// there were none to apply.
    ///
    /// All of them are applied in one transaction. Any number of processes may call this at the same time:
    /// one applies the migrations, and the others wait for it and then find nothing to do.
    ///
    /// # Errors
    ///
    /// Returns [`Error::SchemaNewer`], [`Error::SchemaAltered`] or [`Error::NotUtf8`] without changing
    /// anything. Also returns an error if the database is unavailable, or if another process has been
    /// migrating for [`MIGRATION_LOCK_TIMEOUT`].
    pub async fn migrate(&self) -> Result<Vec<String>, Error> {
        let operation = &Operation::new("migrate the database");
        let migrator = migrator();
        let known = known(&migrator);
        let (migrator, keyring) = (&migrator, &self.keyring);
        on_connection!(
            &self.database,
            writer,
            operation,
            MIGRATE_TIMEOUT,
            |connection, dialect| {
                require_utf8!(connection, dialect);
                let mut tx = connection.begin_with(dialect.begin_write).await?;
                for statement in dialect.prepare_migrations {
                    sqlx::query(*statement).execute(&mut *tx).await?;
                }
                let pending = match compare(&applied!(tx, dialect), &known) {
                    SchemaState::UpToDate => return Ok(Vec::new()),
                    SchemaState::NeedsMigration { pending } => pending,
                    SchemaState::Newer { unknown } => return Err(Error::SchemaNewer { unknown }.into()),
                    SchemaState::Altered { altered } => return Err(Error::SchemaAltered { altered }.into()),
                };
                migrator.run_direct(None, &mut *tx, false).await?;
                seal_plain!(tx, keyring);
                let identify = sqlx::query(Statement::new(installation::INSERT).sql(dialect));
                identify.bind(installation::new_id()).execute(&mut *tx).await?;
                for statement in dialect.finish_migrations {
                    sqlx::query(*statement).execute(&mut *tx).await?;
                }
                tx.commit().await?;
                Ok::<_, Failure>(pending)
            }
        )
    }

    /// Returns the server's version and whether its tables fit this binary. Changes nothing.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, or [`Error::NotUtf8`]. Tables that do not fit are
    /// not an error.
    pub async fn check(&self) -> Result<Schema, Error> {
        let operation = &Operation::new("check the database");
        let known = known(&migrator());
        on_connection!(
            &self.database,
            reader,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                require_utf8!(connection, dialect);
                let server = sqlx::query_scalar(dialect.server_version)
                    .fetch_one(&mut *connection)
                    .await?;
                let state = compare(&applied!(connection, dialect), &known);
                Ok(Schema { server, state })
            }
        )
    }
}

fn migrator() -> Migrator {
    let migration = |&(version, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(
            version,
            Cow::Borrowed(name),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().map(migration).collect());
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    // sqlx's own lock does nothing on SQLite. On PostgreSQL it would stay with the connection after an error.
    migrator.set_locking(false);
    migrator
}

fn known(migrator: &Migrator) -> Vec<Known> {
    let known =
        |migration: &Migration| Known::new(migration.version, &migration.description, &migration.checksum);
    migrator.iter().map(known).collect()
}

fn compare(applied: &[Known], known: &[Known]) -> SchemaState {
    let find = |list: &[Known], version| list.iter().position(|migration| migration.version == version);
    let names = |list: &[Known], wanted: &dyn Fn(&Known) -> bool| -> Vec<String> {
        list.iter()
            .filter(|migration| wanted(migration))
            .map(|migration| migration.name.clone())
            .collect()
    };
    let altered = names(applied, &|migration| {
        find(known, migration.version).is_some_and(|at| known[at].checksum != migration.checksum)
    });
    let unknown = names(applied, &|migration| find(known, migration.version).is_none());
    let pending = names(known, &|migration| find(applied, migration.version).is_none());
    if !altered.is_empty() {
        SchemaState::Altered { altered }
    } else if !unknown.is_empty() {
        SchemaState::Newer { unknown }
    } else if !pending.is_empty() {
        SchemaState::NeedsMigration { pending }
    } else {
        SchemaState::UpToDate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(migrations: &[(i64, u8)]) -> Vec<Known> {
        migrations
            .iter()
            .map(|(version, checksum)| Known::new(*version, "m", &[*checksum]))
            .collect()
    }

    #[test]
    fn a_schema_is_compared_by_numbers_and_texts() {
        let known = list(&[(1, 1), (2, 2)]);
        let state = |applied: &[(i64, u8)]| compare(&list(applied), &known);
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();

        assert_eq!(state(&[(1, 1), (2, 2)]), SchemaState::UpToDate);
        assert_eq!(
            state(&[]),
            SchemaState::NeedsMigration {
                pending: names(&["0001_m", "0002_m"])
            }
        );
        assert_eq!(
            state(&[(1, 1)]),
            SchemaState::NeedsMigration {
                pending: names(&["0002_m"])
            }
        );
        assert_eq!(
            state(&[(1, 1), (2, 2), (3, 3)]),
            SchemaState::Newer {
                unknown: names(&["0003_m"])
            }
        );
        assert_eq!(
            state(&[(1, 1), (3, 3)]),
            SchemaState::Newer {
                unknown: names(&["0003_m"])
            }
        );
        assert_eq!(
            state(&[(1, 9), (3, 3)]),
            SchemaState::Altered {
                altered: names(&["0001_m"])
            }
        );
    }

    #[test]
    fn migrations_stand_in_the_order_of_their_numbers() {
        let numbers: Vec<i64> = MIGRATIONS.iter().map(|(number, ..)| *number).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    }
}
