//! Creates a journal as it is after a month: by default 5,000,000 attempts. One in fifty deliveries began in
//! the last 25 minutes.

use std::{
    fmt,
    time::{Duration, Instant},
};

use bench::event;
use e2e::{Installation, now_ms};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// What was stored.
pub(crate) struct Stored {
    attempts: i64,
    deliveries: i64,
    size: String,
    took: Duration,
}

const ORGANIZATIONS: i64 = 100;
const ENDPOINTS: i64 = 2_000;
/// The URL of the endpoints, to which nothing is sent.
const UNUSED_URL: &str = "http://127.0.0.1:9/hook";
const LEADS: i64 = 200_000;
/// The length of the text from which the texts of events are cut.
const TEXT_BYTES: usize = 64 * 1024;
const DAY_MS: i64 = 86_400_000;
const MINUTE_MS: i64 = 60_000;

/// Selects all indexes except those of the primary keys. Filling the tables takes many times as long with
/// them in place.
const SELECT_INDEXES: &str = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' \
    AND tablename IN ('events', 'deliveries', 'attempts') AND indexname NOT LIKE '%_pkey'";

/// Fills the migrated tables of a database with this many attempts. 21 of 25 are first attempts, the others
/// are retries.
pub(crate) async fn run(installation: &Installation, url: &str, attempts: i64) -> Stored {
    let began = Instant::now();
    // Registered with the command, because nothing else can encrypt their secrets.
    for number in 0..ENDPOINTS {
        let organization = format!("org_{}", number % ORGANIZATIONS);
        installation
            .endpoint_with(&organization, UNUSED_URL, &["--events", "lead.*"])
            .await;
    }
    let mut database = PgConnection::connect(url).await.unwrap();
    let indexes: Vec<(String, String)> = sqlx::query_as(SELECT_INDEXES)
        .fetch_all(&mut database)
        .await
        .unwrap();
    for (name, _) in &indexes {
        execute(&mut database, &format!("DROP INDEX {name}")).await;
    }
    let deliveries = attempts * 21 / 25;
    fill(&mut database, deliveries).await;
    for (_, definition) in &indexes {
        execute(&mut database, definition).await;
    }
    execute(&mut database, "VACUUM ANALYZE").await;
    let (attempts, size) = sqlx::query_as(
        "SELECT (SELECT COUNT(*) FROM attempts), pg_size_pretty(pg_database_size(current_database()))",
    )
    .fetch_one(&mut database)
    .await
    .unwrap();
    Stored {
        attempts,
        deliveries,
        size,
        took: began.elapsed(),
    }
}

async fn fill(database: &mut PgConnection, deliveries: i64) {
    let now_ms = now_ms() as i64;
    let (oldest_ms, recent_ms, newest_ms) = (
        now_ms - 30 * DAY_MS + 180 * MINUTE_MS,
        now_ms - 25 * MINUTE_MS,
        now_ms - MINUTE_MS,
    );
    let statements = [
        sqlx::query(include_str!("seed/deliveries.sql"))
            .bind(deliveries)
            .bind(ENDPOINTS)
            .bind(ORGANIZATIONS)
            .bind(oldest_ms)
            .bind(recent_ms)
            .bind(newest_ms),
        sqlx::query("ANALYZE deliveries"),
        sqlx::query(include_str!("seed/events.sql"))
            .bind(LEADS)
            .bind(event::text(0, TEXT_BYTES).into_bytes()),
        sqlx::query(include_str!("seed/attempts.sql")),
        sqlx::query(include_str!("seed/totals.sql")),
    ];
    for statement in statements {
        statement.execute(&mut *database).await.unwrap();
    }
}

async fn execute(database: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(database)
        .await
        .unwrap();
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            attempts,
            deliveries,
            size,
            took,
        } = self;
        write!(
            f,
            "Stored in {:.0} s: {attempts} attempts of {deliveries} deliveries to {ENDPOINTS} endpoints of {ORGANIZATIONS} \
            organizations, about {LEADS} leads; {size}.",
            took.as_secs_f64()
        )
    }
}
