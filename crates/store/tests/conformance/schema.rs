//! Migrations, and the results of `check`.

use store::{Error, SchemaState};

use super::bed::{Bed, endpoint_id, new_endpoint, on_both_databases, on_postgres_with};

on_both_databases! {
    migrating_names_what_it_applied_and_then_finds_nothing_to_do,
    four_processes_that_migrate_at_once_apply_each_migration_once,
    checking_names_the_server_and_changes_nothing,
    a_database_from_the_future_is_left_alone,
    a_migration_that_was_edited_is_noticed,
    a_store_without_tables_says_so_and_not_that_it_is_away,
}

/// The names of all migrations.
pub(crate) const ALL: &[&str] = &[
    "0001_endpoints",
    "0002_journal",
    "0003_sealed_secrets",
    "0004_api_keys",
    "0006_retention",
    "0008_endpoint_limits",
    "0010_roles",
    "0011_endpoint_history",
    "0014_installation",
    "0015_batches",
    "0016_in_hand",
    "0017_seen_and_totals",
    "0018_reports",
    "0019_recorded",
    "0020_clocks",
    "0021_platform_keys",
    "0022_undelivered_by_organization",
    "0023_relays",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_database_that_is_not_utf8_is_refused_with_what_to_do() {
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let options = format!("ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        on_postgres_with(&options, |bed| async move {
            let store = bed.connect().await;
            for refused in [
                store.migrate().await.map(drop).unwrap_err(),
                store.check().await.map(drop).unwrap_err(),
            ] {
                assert!(matches!(refused, Error::NotUtf8 { .. }), "{refused}");
                assert!(!refused.is_unavailable());
                assert!(refused.to_string().contains("--encoding=UTF8"), "{refused}");
            }
            let tables = "SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'public'";
            assert_eq!(bed.number(tables).await, 0, "nothing was made");
        })
        .await;
    }
}

async fn migrating_names_what_it_applied_and_then_finds_nothing_to_do(bed: Bed) {
    let store = bed.connect().await;
    assert_eq!(store.migrate().await.unwrap(), ALL);
    store
        .create_endpoint(new_endpoint("org_1"), endpoint_id(1), 1)
        .await
        .unwrap();
    assert!(store.migrate().await.unwrap().is_empty());
    assert_eq!(store.load_registry().await.unwrap().endpoints.len(), 1);
}

async fn four_processes_that_migrate_at_once_apply_each_migration_once(bed: Bed) {
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let bed = bed.clone();
            tokio::spawn(async move { bed.connect().await.migrate().await.unwrap() })
        })
        .collect();
    let mut applied = Vec::new();
    for task in tasks {
        applied.extend(task.await.unwrap());
    }
    assert_eq!(applied, ALL);
    assert_eq!(
        bed.connect().await.check().await.unwrap().state,
        SchemaState::UpToDate
    );
}

async fn checking_names_the_server_and_changes_nothing(bed: Bed) {
    let store = bed.connect().await;
    let pending = SchemaState::NeedsMigration {
        pending: ALL.iter().map(ToString::to_string).collect(),
    };
    for _ in 0..2 {
        let schema = store.check().await.unwrap();
        let name = if bed.sqlite_path().is_some() {
            "SQLite 3."
        } else {
            "PostgreSQL 1"
        };
        assert!(schema.server.starts_with(name), "{}", schema.server);
        assert_eq!(schema.state, pending);
    }
    store.migrate().await.unwrap();
    assert_eq!(store.check().await.unwrap().state, SchemaState::UpToDate);
}

async fn a_database_from_the_future_is_left_alone(bed: Bed) {
    let store = bed.migrated().await;
    bed.execute(
        "INSERT INTO magnetite_migrations (version, description, success, checksum, execution_time) \
         SELECT 9000, 'flying_cars', success, checksum, 0 FROM magnetite_migrations WHERE version = 1",
    )
    .await;
    let unknown = vec!["9000_flying_cars".to_owned()];
    assert_eq!(store.check().await.unwrap().state, SchemaState::Newer { unknown });
    let error = store.migrate().await.unwrap_err();
    assert!(matches!(error, Error::SchemaNewer { .. }), "{error:?}");
    assert!(error.to_string().contains("9000_flying_cars"), "{error}");
    assert!(!error.is_unavailable());
}

async fn a_migration_that_was_edited_is_noticed(bed: Bed) {
    let store = bed.migrated().await;
    let bytes = if bed.sqlite_path().is_some() {
        "x'00'"
    } else {
        r"'\x00'"
    };
    bed.execute(&format!(
        "UPDATE magnetite_migrations SET checksum = {bytes} WHERE version = 1"
    ))
    .await;
    let altered = vec![ALL[0].to_owned()];
    assert_eq!(
        store.check().await.unwrap().state,
        SchemaState::Altered { altered }
    );
    let error = store.migrate().await.unwrap_err();
    assert!(matches!(error, Error::SchemaAltered { .. }), "{error:?}");
}

async fn a_store_without_tables_says_so_and_not_that_it_is_away(bed: Bed) {
    let error = bed.connect().await.registry_position().await.unwrap_err();
    assert!(super::bed::all_of(&error).contains("registry"), "{error:?}");
    assert!(!error.is_unavailable());
}
