//! Connecting: what is created, what is refused, and that no password is shown.

use std::{error::Error as _, net::TcpListener, os::unix::fs::PermissionsExt as _};

use store::{Error, Store};

fn all_of(error: &Error) -> String {
    format!(
        "{error} / {:?} / {error:?}",
        error.source().map(ToString::to_string)
    )
}

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).expect("exists").permissions().mode() & 0o777
}

#[tokio::test]
async fn sqlite_makes_its_file_and_directories_for_the_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a/b/magnetite.db");
    let store = Store::connect(&format!("sqlite://{}", file.display()), &[])
        .await
        .unwrap();
    store.migrate().await.unwrap();

    assert_eq!(
        (
            mode(&directory.path().join("a")),
            mode(&directory.path().join("a/b"))
        ),
        (0o700, 0o700)
    );
    for name in ["magnetite.db", "magnetite.db-wal", "magnetite.db-shm"] {
        assert_eq!(mode(&file.with_file_name(name)), 0o600, "{name}");
    }
    store.close().await;
    assert!(
        !file.with_file_name("magnetite.db-wal").exists(),
        "closing empties the log"
    );
}

/// All stores try to switch the new file to the write-ahead log. SQLite does not wait for that lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_may_connect_to_a_new_sqlite_file_at_once() {
    for _ in 0..40 {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/new.db", directory.path().display());
        let tasks = [(); 12].map(|()| {
            let url = url.clone();
            tokio::spawn(async move { Store::connect(&url, &[]).await?.migrate().await })
        });
        let mut applied = 0;
        for task in tasks {
            applied += usize::from(!task.await.unwrap().unwrap().is_empty());
        }
        assert_eq!(applied, 1);
    }
}

#[tokio::test]
async fn what_cannot_be_sqlites_file_is_refused_by_name_and_not_as_unavailable() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("notes.txt");
    std::fs::write(
        &text,
        "not a database, and long enough to be read as the header of one".repeat(20),
    )
    .unwrap();
    for path in [
        text.clone(),
        text.join("below-a-file.db"),
        directory.path().to_owned(),
    ] {
        let error = Store::connect(&format!("sqlite://{}", path.display()), &[])
            .await
            .unwrap_err();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            all_of(&error).contains("notes.txt") || all_of(&error).contains(&name),
            "{}",
            all_of(&error)
        );
    }
    let error = Store::connect(&format!("sqlite://{}", text.display()), &[])
        .await
        .unwrap_err();
    assert!(!error.is_unavailable(), "{}", all_of(&error));
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_unavailable_and_the_password_stays_hidden() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = Store::connect(&format!("postgres://u:hunter2@127.0.0.1:{port}/hooks"), &[])
        .await
        .unwrap_err();
    let text = all_of(&error);
    assert!(error.is_unavailable(), "{text}");
    assert!(
        text.contains("refused") && text.contains(&format!("127.0.0.1:{port}/hooks")),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
}

/// The clock is paused. It advances to the timeout as soon as all tasks are idle.
#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let error = Store::connect(&format!("postgres://u:hunter2@127.0.0.1:{port}/hooks"), &[])
        .await
        .unwrap_err();
    let text = all_of(&error);
    assert!(
        matches!(error, Error::ConnectTimedOut { .. }) && error.is_unavailable(),
        "{text}"
    );
    assert!(text.contains("within 5 s") && !text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn a_store_shows_where_it_is_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/m.db", directory.path().display());
    let store = Store::connect(&url, &[]).await.unwrap();
    assert_eq!(format!("{store:?}"), format!("Store({url:?})"));
}
