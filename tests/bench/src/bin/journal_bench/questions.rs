//! Measures how fast a full journal answers whole commands, as an operator runs them.

use std::{fmt, time::Instant};

use e2e::Installation;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::lag::percentiles;

/// How many times each command is run, each time for a different id.
const TIMES: usize = 20;

/// For each command, the median, the 99th percentile and the maximum, in milliseconds.
pub(crate) struct Answers(Vec<(&'static str, [f64; 3])>);

/// Runs the commands. Panics if a command fails, or if the audit does not balance.
pub(crate) async fn run(installation: &Installation, url: &str) -> Answers {
    let mut database = PgConnection::connect(url).await.unwrap();
    let events = ids(&mut database, "events", "id").await;
    let leads = ids(&mut database, "events", "lead_id").await;
    let endpoints = ids(&mut database, "endpoints", "id").await;
    let hour = vec!["1h".to_owned(); TIMES];
    let mut answers = Vec::new();
    for (command, values) in [
        ("event show", events),
        ("event list --lead", leads),
        ("audit --since", hour),
        ("delivery list --endpoint", endpoints.clone()),
        ("endpoint show", endpoints),
    ] {
        let mut took_ms = Vec::new();
        for value in &values {
            let arguments: Vec<_> = command.split(' ').chain([value.as_str()]).collect();
            let began = Instant::now();
            let printed = installation.cli_ok(&arguments).await;
            took_ms.push(began.elapsed().as_secs_f64() * 1e3);
            assert!(!printed.is_empty(), "{arguments:?} prints something");
        }
        answers.push((command, percentiles(&mut took_ms)));
    }
    Answers(answers)
}

/// Returns [`TIMES`] values of a column, from rows that are as far apart in the table as possible.
async fn ids(database: &mut PgConnection, table: &str, column: &str) -> Vec<String> {
    let rows = format!("SELECT {column} AS id, NTILE({TIMES}) OVER (ORDER BY ctid) AS part FROM {table}");
    let one_of_each = format!("SELECT MIN(id) FROM ({rows}) parts GROUP BY part");
    let ids: Vec<String> = sqlx::query_scalar(AssertSqlSafe(one_of_each))
        .fetch_all(database)
        .await
        .unwrap();
    assert_eq!(ids.len(), TIMES);
    ids
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "| command, {TIMES} times | median ms | max ms |\n|---|---|---|"
        )?;
        for (command, [median, _, max]) in &self.0 {
            write!(f, "\n| `{command}` ... | {median:.0} | {max:.0} |")?;
        }
        Ok(())
    }
}
