//! A PostgreSQL of a test's own, for tests that stop it.

use std::{
    fs::{OpenOptions, Permissions},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
};

use tempfile::TempDir;

use crate::{Certificates, certificates::Issued, script::Script};

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

    /// Has it take connections over TCP with TLS alone, from clients that show a certificate of the
    /// authority.
    pub async fn require_tls(&self, server: &Issued, authority: &Certificates) {
        let data = self.directory.path().join("data");
        let owner = std::fs::metadata(&data).unwrap();
        let (certificate, key) = server.write_pem(&data, "server");
        let roots = data.join("roots.pem");
        authority.write_pem(&roots);
        for file in [&certificate, &key, &roots] {
            chown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        let access = "hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n";
        std::fs::write(data.join("pg_hba.conf"), access).unwrap();
        let settings = "ssl = on\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.key'\nssl_ca_file = 'roots.pem'\n";
        let mut file = OpenOptions::new()
            .append(true)
            .open(data.join("postgresql.conf"))
            .unwrap();
        file.write_all(settings.as_bytes()).unwrap();
        self.stop().await;
        self.start_again().await;
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
