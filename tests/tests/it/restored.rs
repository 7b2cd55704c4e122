//! Tests a database that is restored from a backup while workers run, or that has removed deleted rows.
//! Workers act on its present contents, even if its version counter does not show the change.

use e2e::{Installation, Postgres, Receiver, Role, SOON, event, shared_broker, wait_for, wait_until};
use tokio::process::Command;

const DELAYS_MS: [u64; 6] = [1000, 2000, 4000, 8000, 16000, 30000];

/// Backs up a database and restores the backup with the database's own tools, while clients are connected.
trait Database {
    async fn back_up(&self);
    async fn restore(&self);
}

struct Sqlite<'a>(&'a Installation);

impl Sqlite<'_> {
    /// Copies a database with SQLite's online backup.
    async fn copy(&self, from: &str, to: &str) {
        let script = "import sqlite3, sys\n\
                      source, target = [sqlite3.connect(path, timeout=20) for path in sys.argv[1:]]\n\
                      source.backup(target)\n";
        let mut python = Command::new("python3");
        let ran = python
            .args(["-c", script, from, to])
            .current_dir(self.0.directory())
            .status();
        assert!(ran.await.unwrap().success());
    }
}

impl Database for Sqlite<'_> {
    async fn back_up(&self) {
        self.copy("magnetite.db", "backup.db").await;
    }

    async fn restore(&self) {
        self.copy("backup.db", "magnetite.db").await;
    }
}

struct Dump<'a>(&'a Installation, &'a str);

impl Dump<'_> {
    async fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        let ran = command
            .args(arguments)
            .arg(self.1)
            .current_dir(self.0.directory())
            .status();
        assert!(ran.await.unwrap().success(), "{program} {arguments:?}");
    }
}

impl Database for Dump<'_> {
    async fn back_up(&self) {
        let arguments = ["--clean", "--if-exists", "--file=backup.sql"];
        self.run("pg_dump", &arguments).await;
    }

    async fn restore(&self) {
        let arguments = ["--quiet", "--single-transaction", "--file=backup.sql"];
        self.run("psql", &arguments).await;
    }
}

async fn acts_on(worker: &Role, version: u64) {
    wait_for("the worker acts on the version", SOON, || async {
        let found = worker.metric("magnetite_registry_version", "").await as u64;
        if found == version {
            Ok(())
        } else {
            Err(format!("{found}"))
        }
    })
    .await;
}

/// After the restore, as many endpoints are created as the worker has seen before, so that the version
/// counter has the same value again.
async fn the_restored_truth_is_acted_on(installation: &Installation, database: impl Database) {
    let [kept, lost, made] = [Receiver::ok().await, Receiver::ok().await, Receiver::ok().await];
    installation.endpoint("org_1", &kept.url()).await;
    let worker = installation.worker().await;
    database.back_up().await;
    installation.endpoint("org_1", &lost.url()).await;
    acts_on(&worker, 2).await;
    installation.amqp().publish(&[event("org_1", "before")]).await;
    wait_until("both have it", SOON, || kept.count() + lost.count() == 2).await;

    // The worker is stopped, because it could otherwise look between the two steps and see the counter go
    // back. The test is about the case in which it does not.
    worker.signal("STOP").await;
    database.restore().await;
    installation.endpoint("org_1", &made.url()).await;
    worker.signal("CONT").await;
    acts_on(&worker, 2).await;

    let lead = |number| format!("after_{number}");
    let mut number = 0;
    wait_for(
        "the endpoint that was made after the restore gets events",
        SOON,
        || {
            number += 1;
            let event = event("org_1", &lead(number));
            let (made, installation) = (&made, installation);
            async move {
                installation.amqp().publish(&[event]).await;
                if made.count() > 0 {
                    Ok(())
                } else {
                    Err("none".to_owned())
                }
            }
        },
    )
    .await;
    let before = lost.count();
    installation.amqp().publish(&[event("org_1", "last")]).await;
    wait_until("the last one arrives", SOON, || {
        made.receipts().contains_key("last") && kept.receipts().contains_key("last")
    })
    .await;
    assert_eq!(
        lost.count(),
        before,
        "the endpoint is not in the database any more"
    );
    assert!(worker.terminate().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_acts_on_a_restored_sqlite_file_whose_counter_stands_where_it_stood() {
    let installation = Installation::new("restored").await;
    the_restored_truth_is_acted_on(&installation, Sqlite(&installation)).await;
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_acts_on_a_restored_postgresql_whose_counter_stands_where_it_stood() {
    let postgres = Postgres::start().await;
    let settings = [("MAGNETITE_DATABASE__URL", postgres.url())];
    let installation = Installation::with("restored-pg", &shared_broker(), &DELAYS_MS, &settings).await;
    let dump = Dump(&installation, postgres.url());
    the_restored_truth_is_acted_on(&installation, dump).await;
    installation.delete().await;
}

/// Runs a statement in the installation's SQLite file. Returns the first column of its first row, such as a
/// count, or the number of rows that it has written.
async fn in_sqlite(installation: &Installation, sql: &str) -> i64 {
    let script = "import sqlite3, sys\n\
                  with sqlite3.connect('magnetite.db', timeout=20) as database:\n    \
                      cursor = database.execute(sys.argv[1])\n    \
                      row = cursor.fetchone()\n    \
                      print(row[0] if row else cursor.rowcount)\n";
    let mut python = Command::new("python3");
    let ran = python
        .args(["-c", script, sql])
        .current_dir(installation.directory())
        .output();
    let ran = ran.await.unwrap();
    let printed = String::from_utf8(ran.stdout).unwrap();
    let failed = String::from_utf8_lossy(&ran.stderr).into_owned();
    printed
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{sql}: {failed}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_slept_until_a_deletion_was_forgotten_delivers_nothing_to_the_deleted_endpoint() {
    let installation = Installation::new("forgotten").await;
    let [kept, deleted] = [Receiver::ok().await, Receiver::ok().await];
    installation.endpoint("org_1", &kept.url()).await;
    let id = installation.endpoint("org_1", &deleted.url()).await.id;
    let worker = installation.worker().await;
    acts_on(&worker, 2).await;
    worker.signal("STOP").await;
    installation.cli_ok(&["endpoint", "delete", &id]).await;
    // Longer ago than `retention.age`, which is 30 days.
    let aged =
        "UPDATE endpoints SET deleted_at_ms = deleted_at_ms - 31 * 86400000 WHERE deleted_at_ms IS NOT NULL";
    assert_eq!(in_sqlite(&installation, aged).await, 1);
    let recorder = installation.recorder().await;
    wait_for("its row is removed", SOON, || async {
        match in_sqlite(&installation, "SELECT COUNT(*) FROM endpoints").await {
            1 => Ok(()),
            rows => Err(rows.to_string()),
        }
    })
    .await;
    worker.signal("CONT").await;
    acts_on(&worker, 3).await;
    installation.amqp().publish(&[event("org_1", "lead_1")]).await;
    wait_until("the other endpoint has it", SOON, || kept.count() == 1).await;
    installation
        .wait_until_recorded(&[&worker], &recorder, SOON)
        .await;
    assert_eq!(deleted.count(), 0);
    assert!(worker.terminate().await && recorder.terminate().await);
    installation.delete().await;
}
