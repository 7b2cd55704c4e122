//! The test bed: a new database, connections that bypass the store, and sample endpoints.

use std::{
    future::Future,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};
use store::{NewEndpoint, Position, SealingKey, Store};
use webhook::{EndpointId, OrganizationId, ProjectId};

const POSTGRES_URL: &str = "MAGNETITE_TEST_POSTGRES_URL";

/// Declares one test for each function and database: `sqlite::name` and `postgres::name`.
macro_rules! on_both_databases {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::conformance::bed::on_sqlite(super::$name).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::conformance::bed::on_postgres(super::$name).await;
            })*
        }
    };
}
pub(crate) use on_both_databases;

pub(crate) fn sealing_key(byte: u8) -> SealingKey {
    SealingKey::generate([byte; 32])
}

/// An empty database.
#[derive(Clone, Debug)]
pub(crate) struct Bed {
    pub(crate) url: String,
}

impl Bed {
    /// Connects a store whose tables do not exist yet.
    pub(crate) async fn connect(&self) -> Store {
        self.connect_with(&[sealing_key(1)]).await
    }

    pub(crate) async fn connect_with(&self, keys: &[SealingKey]) -> Store {
        Store::connect(&self.url, keys)
            .await
            .expect("the database was just made")
    }

    pub(crate) async fn migrated(&self) -> Store {
        let store = self.connect().await;
        store.migrate().await.expect("an empty database can be migrated");
        store
    }

    /// For PostgreSQL: returns the URL of the server's administrative database and the name of this database.
    fn server_and_name(&self) -> (String, &str) {
        let (address, name) = self.url.rsplit_once('/').expect("the URL names a database");
        (format!("{address}/postgres"), name)
    }

    pub(crate) fn sqlite_path(&self) -> Option<PathBuf> {
        self.url.strip_prefix("sqlite://").map(PathBuf::from)
    }

    /// Executes statements without the store.
    pub(crate) async fn execute(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        if self.sqlite_path().is_some() {
            let mut connection = SqliteConnection::connect(&self.url).await.expect("connects");
            sqlx::raw_sql(sql)
                .execute(&mut connection)
                .await
                .expect("executes");
            connection.close().await.expect("closes");
        } else {
            let mut connection = PgConnection::connect(&self.url).await.expect("connects");
            sqlx::raw_sql(sql)
                .execute(&mut connection)
                .await
                .expect("executes");
            connection.close().await.expect("closes");
        }
    }

    /// Returns the first column of the first row as a number, read without the store.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let query = AssertSqlSafe(sql.to_owned());
        if self.sqlite_path().is_some() {
            let mut connection = SqliteConnection::connect(&self.url).await.expect("connects");
            let number = sqlx::query_scalar(query)
                .fetch_one(&mut connection)
                .await
                .expect("reads");
            connection.close().await.expect("closes");
            number
        } else {
            let mut connection = PgConnection::connect(&self.url).await.expect("connects");
            let number = sqlx::query_scalar(query)
                .fetch_one(&mut connection)
                .await
                .expect("reads");
            connection.close().await.expect("closes");
            number
        }
    }
}

pub(crate) async fn on_sqlite<F: Future<Output = ()>>(test: fn(Bed) -> F) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = format!("sqlite://{}/new/deep/magnetite.db", directory.path().display());
    test(Bed { url }).await;
}

pub(crate) async fn on_postgres<F>(test: fn(Bed) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    on_postgres_with("", test).await;
}

/// Runs a test on a PostgreSQL database that is created with these options.
pub(crate) async fn on_postgres_with<F>(options: &str, test: fn(Bed) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let server = std::env::var(POSTGRES_URL).unwrap_or_else(|_| {
        panic!("{POSTGRES_URL} is not set: run tests/run.sh, which starts a PostgreSQL and sets it")
    });
    let name = format!("store_{}_{}", std::process::id(), next_number());
    administer(&server, format!("CREATE DATABASE {name} {options}")).await;
    let (address, _) = server.rsplit_once('/').expect("the URL names a database");
    // The test runs in a task, so that the database is dropped even if the test panics.
    let result = tokio::spawn(test(Bed {
        url: format!("{address}/{name}"),
    }))
    .await;
    administer(&server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
    if let Err(error) = result {
        std::panic::resume_unwind(error.into_panic());
    }
}

async fn administer(server: &str, statement: String) {
    let mut connection = PgConnection::connect(server)
        .await
        .expect("the server of the tests answers");
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .expect("a superuser may do this");
    connection.close().await.expect("closes");
}

/// Returns the position with this version in a registry whose log has no changes yet.
pub(crate) fn since(version: i64) -> Position {
    Position {
        version,
        ..Position::default()
    }
}

/// A copy of a whole database, made without the store.
pub(crate) enum Backup {
    /// The contents of the file.
    Sqlite(Vec<u8>),
    /// The name of a database on the same server.
    Postgres(String),
}

impl Backup {
    /// Closes the store, so that the copy is complete, and copies the database.
    pub(crate) async fn of(bed: &Bed, store: &Store) -> Self {
        store.close().await;
        if let Some(path) = bed.sqlite_path() {
            return Self::Sqlite(std::fs::read(path).expect("the file is there"));
        }
        let (server, name) = bed.server_and_name();
        let copy = format!("{name}_backup");
        administer(&server, format!("CREATE DATABASE {copy} TEMPLATE {name}")).await;
        Self::Postgres(copy)
    }

    /// Replaces the database by the copy. No store may be open.
    pub(crate) async fn restore(self, bed: &Bed) {
        match self {
            Self::Sqlite(bytes) => {
                let path = bed.sqlite_path().expect("the backup is of SQLite");
                std::fs::write(path, bytes).expect("the file can be written");
            }
            Self::Postgres(copy) => {
                let (server, name) = bed.server_and_name();
                administer(&server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
                administer(&server, format!("ALTER DATABASE {copy} RENAME TO {name}")).await;
            }
        }
    }
}

/// Returns a number that is unique in this process.
pub(crate) fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Returns the current time in Unix milliseconds. The databases' clock is compared with it.
#[expect(clippy::disallowed_methods, reason = "store does not depend on `runtime`")]
pub(crate) fn now_ms() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.expect("it is after 1970").as_millis() as u64
}

/// `whsec_` and the base64 of 32 bytes.
pub(crate) const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

pub(crate) fn new_endpoint(organization: &str) -> NewEndpoint {
    NewEndpoint {
        organization_id: OrganizationId::new(organization),
        project_id: Some(ProjectId::new("proj_1")),
        url: "https://hooks.example/in?a=1&b='2'".to_owned(),
        subscription: "lead.completed,research.*".parse().expect("known types"),
        secret: signature::Secret::parse(SECRET).expect("a well-formed secret"),
    }
}

/// Returns an id; ids are ordered by their numbers.
pub(crate) fn endpoint_id(number: u32) -> EndpointId {
    let mut bytes = [0; 16];
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    EndpointId::generate(bytes)
}

/// Returns the `Debug` text of the error and the `Display` texts of it and its causes, as a log would show
/// them.
pub(crate) fn all_of(error: &store::Error) -> String {
    let mut text = format!("{error:?}");
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}
