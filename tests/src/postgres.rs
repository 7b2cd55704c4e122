//! A private PostgreSQL server, for tests that stop it.

use std::{
    fs::{OpenOptions, Permissions},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
};

use tempfile::TempDir;

use crate::{Certificates, certificates::Issued, script::Script};

const SCRIPT: Script = Script("deploy/local/postgres.sh");

/// A private server. It is stopped and deleted when the value is dropped.
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

    /// Returns the database's URL, which stays the same after a restart.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Restarts the server so that it accepts TCP connections only with TLS, and only from clients that
    /// present a certificate of the authority.
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

    /// Returns the process id of the postmaster, which starts all other processes of the server.
    pub fn pid(&self) -> u32 {
        let file = self.directory.path().join("data/postmaster.pid");
        let text = std::fs::read_to_string(file).unwrap();
        text.lines().next().unwrap().parse().unwrap()
    }

    /// Stops the server in an orderly way, which closes its connections.
    pub async fn stop(&self) {
        SCRIPT.run("stop", self.directory.path(), &[]).await;
    }

    /// Kills the server with SIGKILL.
    pub async fn kill(&self) {
        SCRIPT.run("kill", self.directory.path(), &[]).await;
    }

    /// Starts the server again with its existing data.
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
