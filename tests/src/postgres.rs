//! A PostgreSQL of a test's own, for tests that stop it.

use tempfile::TempDir;

use crate::script::Script;

const SCRIPT: Script = Script("deploy/local/postgres.sh");

/// A private server; stopped and deleted when dropped.
pub struct Postgres {
    directory: TempDir,
    url: String,
}

impl Postgres {
    /// Starts a server with an empty database on a free port.
    pub async fn start() -> Self {
        let directory = TempDir::with_prefix("magnetite-postgres-").unwrap();
        let url = SCRIPT.run("start", directory.path(), &[]).await;
        Self { directory, url }
    }

    /// The database's URL, the same after every start.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The process that starts all others of the server.
    pub fn pid(&self) -> u32 {
        let file = self.directory.path().join("data/postmaster.pid");
        let text = std::fs::read_to_string(file).unwrap();
        text.lines().next().unwrap().parse().unwrap()
    }

    /// Stops it in an orderly way: connections are closed.
    pub async fn stop(&self) {
        SCRIPT.run("stop", self.directory.path(), &[]).await;
    }

    /// SIGKILL.
    pub async fn kill(&self) {
        SCRIPT.run("kill", self.directory.path(), &[]).await;
    }

    /// Starts it again with the data that it had.
    pub async fn start_again(&self) {
        let url = SCRIPT.run("start", self.directory.path(), &[]).await;
        assert_eq!(url, self.url, "the server keeps its port");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        SCRIPT.run_last("stop", self.directory.path());
    }
}
