//! Tests PgBouncer between the roles and PostgreSQL. In session mode, everything works. In transaction mode
//! without prepared statements, every command that detects the mode says what to set.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    process::Stdio,
};

use e2e::{Installation, Postgres, SOON, free_port, shared_broker, wait_for};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::tls::delivered_by_up;

const SERVER_USER: &str = "postgres";

/// A private connection pooler. It is killed when the value is dropped.
struct PgBouncer {
    _directory: TempDir,
    _process: Child,
    url: String,
}

impl PgBouncer {
    /// Starts a pooler in front of this server, with this `pool_mode`.
    async fn start(server: &Postgres, mode: &str) -> Self {
        let directory = TempDir::with_prefix("magnetite-pgbouncer-").unwrap();
        let server_port = port_of(server.url());
        let port = free_port();
        let settings = format!(
            "[databases]\npostgres = host=127.0.0.1 port={server_port} user={SERVER_USER} dbname=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n\
             default_pool_size = 50\n{}",
            unprepared().await
        );
        let file = directory.path().join("pgbouncer.ini");
        fs::write(&file, settings).unwrap();
        // If root starts PgBouncer, it runs as another user, which needs access to this directory.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new("pgbouncer");
        // PgBouncer refuses to run as root, but can switch the user itself.
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            command.args(["-u", SERVER_USER]);
        }
        let process = command
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("pgbouncer: apt-get install pgbouncer");
        wait_for("PgBouncer listens", SOON, || async {
            let connected = TcpStream::connect(("127.0.0.1", port)).await;
            connected.map(drop).map_err(|error| error.to_string())
        })
        .await;
        Self {
            _directory: directory,
            _process: process,
            url: format!("postgres://{SERVER_USER}@127.0.0.1:{port}/postgres"),
        }
    }
}

/// Returns the setting with which PgBouncer keeps no prepared statements. Versions from 1.21 on have a
/// setting, and earlier versions never keep any.
async fn unprepared() -> &'static str {
    let mut command = Command::new("pgbouncer");
    let output = command
        .arg("--version")
        .output()
        .await
        .expect("pgbouncer: apt-get install pgbouncer");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(1).unwrap_or_default();
    let minor: u32 = version
        .split('.')
        .nth(1)
        .and_then(|minor| minor.parse().ok())
        .unwrap_or(0);
    if minor >= 21 {
        "max_prepared_statements = 0\n"
    } else {
        ""
    }
}

fn port_of(url: &str) -> u16 {
    let (_, after) = url.rsplit_once(':').unwrap();
    after.split('/').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn all_roles_run_behind_a_pooler_in_session_mode() {
    let server = Postgres::start().await;
    let pooler = PgBouncer::start(&server, "session").await;
    let settings = [("MAGNETITE_DATABASE__URL", pooler.url.as_str())];
    let installation = Installation::with("pgbouncer", &shared_broker(), &[200], &settings).await;
    delivered_by_up(&installation).await.terminate().await;
    installation.cli_ok(&["doctor"]).await;
    installation.delete().await;
}

#[tokio::test]
async fn a_pooler_that_keeps_no_prepared_statements_is_refused_with_what_to_set() {
    let server = Postgres::start().await;
    let settings = [("MAGNETITE_DATABASE__URL", server.url())];
    let mut installation =
        Installation::with("pgbouncer-transaction", &shared_broker(), &[200], &settings).await;
    let pooler = PgBouncer::start(&server, "transaction").await;
    installation.set("MAGNETITE_DATABASE__URL", &pooler.url);
    // No command has used the pooler before the first one.
    for command in [
        &["migrate"][..],
        &["endpoint", "list"],
        &["doctor"],
        &["worker"],
        &["up"],
    ] {
        let refused = installation.cli_with_input(command, b"").await;
        let said =
            String::from_utf8_lossy(&refused.stdout).into_owned() + &String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{command:?}: {said}");
        // The mode is detected while connecting, or by the first prepared statement that belongs to another
        // client.
        let [refused, noticed] = ["set pool_mode = session", "docs/operations.md, \"PgBouncer\""];
        assert!(
            said.contains(refused) || said.contains(noticed),
            "{command:?}: {said}"
        );
    }
    installation.set("MAGNETITE_DATABASE__URL", server.url());
    installation.delete().await;
}
