//! The RabbitMQ and PostgreSQL servers, and their processor time.

use std::time::Duration;

use bench::{installation, process};
use e2e::Installation;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

pub(crate) struct Servers {
    postgres_url: String,
    postgres_pid: u32,
    broker_pid: Option<u32>,
}

impl Servers {
    /// Finds the servers. Panics unless PostgreSQL runs on this machine and this program has full access to
    /// it.
    pub(crate) async fn find(broker_pid: Option<u32>) -> Self {
        let postgres_url = std::env::var("MAGNETITE_TEST_POSTGRES_URL")
            .expect("MAGNETITE_TEST_POSTGRES_URL is set by tests/journal-bench.sh");
        let mut connection = PgConnection::connect(&postgres_url).await.unwrap();
        let file: String = sqlx::query_scalar("SELECT pg_read_file('postmaster.pid')")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let postgres_pid = file.lines().next().unwrap().parse().unwrap();
        Self {
            postgres_url,
            postgres_pid,
            broker_pid,
        }
    }

    /// Creates a new, empty database, and returns its URL.
    pub(crate) async fn database(&self, name: &str) -> String {
        let mut connection = PgConnection::connect(&self.postgres_url).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .unwrap();
        let (server, _) = self.postgres_url.rsplit_once('/').unwrap();
        format!("{server}/{name}")
    }

    /// Creates an installation that uses this database, which is migrated.
    pub(crate) async fn installation(&self, name: &str, database_url: &str) -> Installation {
        let settings = [("MAGNETITE_DATABASE__URL", database_url)];
        installation::create(name, &settings).await
    }

    /// Returns PostgreSQL's processor time so far.
    pub(crate) fn postgres_cpu(&self) -> Duration {
        process::cpu_of_tree(self.postgres_pid)
    }

    /// Returns RabbitMQ's processor time so far; `None` if its process is not known.
    pub(crate) fn broker_cpu(&self) -> Option<Duration> {
        self.broker_pid.map(process::cpu_of_tree)
    }
}
