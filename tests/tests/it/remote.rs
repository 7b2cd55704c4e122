//! Tests commands over the HTTP API: on a machine that reaches neither the broker nor the database, they print
//! the same and exit with the same codes as on the database.

mod api_keys;
mod endpoints;
mod events;
mod login;
mod publish;
mod recovery;
mod refusals;
mod session;
mod status;
mod tail;

use std::process::{Output, Stdio};

use e2e::{Api, Installation, Role, binary, with_input};
use tempfile::TempDir;
use tokio::process::Command;

/// A machine with the program, a key, and no configuration.
struct Laptop {
    directory: TempDir,
    url: String,
    key: String,
    /// The organization that a platform key acts for; empty for none.
    organization: String,
}

/// A running system, and a machine from which it is used.
struct Rig {
    installation: Installation,
    api: Api,
    worker: Role,
    recorder: Role,
    laptop: Laptop,
}

impl Laptop {
    fn new(url: &str, key: &str) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            url: url.to_owned(),
            key: key.to_owned(),
            organization: String::new(),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .env_clear()
            .env("MAGNETITE_API_URL", &self.url)
            .env("MAGNETITE_API_KEY", &self.key)
            .env("MAGNETITE_ORGANIZATION", &self.organization)
            // A command that read these settings would refuse them.
            .env("MAGNETITE_BROKER__URL", "none")
            .env("MAGNETITE_DATABASE__URL", "none")
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        self.checked(self.command(arguments).output().await.unwrap())
    }

    /// Runs a command with `input` on standard input.
    async fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        self.checked(with_input(self.command(arguments), input.as_bytes()).await)
    }

    /// Panics if a command has shown the key.
    fn checked(&self, output: Output) -> Output {
        let told = stderr(&output);
        assert!(self.key.is_empty() || !told.contains(&self.key), "{told}");
        output
    }

    /// Runs a command that fails with this exit code and prints nothing. Returns the error, which is one line.
    async fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert_eq!(stdout(&output), "", "{arguments:?}");
        assert_eq!(told.lines().count(), 1, "{arguments:?}: {told}");
        told
    }
}

impl Rig {
    /// Starts a system with one retry, and a machine with a key of `org_1` for everything.
    async fn new(name: &str) -> Self {
        let installation = Installation::with_delays(name, &[200]).await;
        let api = Api::start(&installation).await;
        let key = installation.key("org_1", "admin").await;
        Self {
            laptop: Laptop::new(api.url(), &key),
            worker: installation.worker().await,
            recorder: installation.recorder().await,
            api,
            installation,
        }
    }

    /// Runs a command in both ways, for text and for JSON. Panics unless both print the same and exit with this
    /// code. Returns what the command reported over the API as text.
    async fn same(&self, code: i32, arguments: &[&str]) -> String {
        let mut told = String::new();
        for more in [&["--json"][..], &[]] {
            let arguments = [arguments, more].concat();
            let (direct, remote) = self.both(code, &arguments, &arguments).await;
            assert_eq!(stdout(&direct), stdout(&remote), "{arguments:?}");
            told = stderr(&remote);
        }
        told
    }

    /// Runs a command for the first id on the database, and for the second one over the API. Panics unless both
    /// print the same, apart from ids, secrets, times and other numbers, and exit with this code.
    async fn alike(&self, code: i32, ids: [&str; 2], before: &[&str], after: &[&str]) {
        for more in [&["--json"][..], &[]] {
            let [direct, remote] = ids.map(|id| {
                let id: Vec<_> = [id].into_iter().filter(|id| !id.is_empty()).collect();
                [before, id.as_slice(), after, more].concat()
            });
            let (of_direct, of_remote) = self.both(code, &direct, &remote).await;
            for output in [&of_direct, &of_remote] {
                self.keep_secrets(&stdout(output));
            }
            assert_eq!(
                masked(&stdout(&of_direct)),
                masked(&stdout(&of_remote)),
                "{remote:?}"
            );
        }
    }

    async fn both(&self, code: i32, direct: &[&str], remote: &[&str]) -> (Output, Output) {
        let of_direct = self.installation.cli(direct).await;
        let of_remote = self.laptop.run(remote).await;
        for (output, arguments) in [(&of_direct, direct), (&of_remote, remote)] {
            let told = stderr(output);
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        }
        (of_direct, of_remote)
    }

    fn keep_secrets(&self, printed: &str) {
        let words = printed.split(|char: char| char.is_whitespace() || char == '"');
        // Shorter words are the beginnings by which people recognize keys.
        let secrets = words
            .filter(|word| word.starts_with("whsec_") || word.starts_with("mgk_"))
            .filter(|word| word.len() > 40);
        for secret in secrets {
            self.installation.keep_secret(secret);
        }
    }

    async fn end(self) {
        for role in [self.api.role, self.worker, self.recorder] {
            assert!(role.terminate().await);
        }
        self.installation.delete().await;
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Replaces everything that differs between two objects of the same kind: ids, secrets, and words that begin
/// with a digit. A duration may be in seconds or in milliseconds.
fn masked(text: &str) -> String {
    const KINDS: [&str; 6] = ["ep_", "dlv_", "ping_", "key_", "whsec_", "mgk_"];
    let is_gap = |char: char| !(char.is_ascii_alphanumeric() || "_-+/=.".contains(char));
    let parts = text.split_inclusive(is_gap).map(|part| {
        let word = part.trim_end_matches(is_gap);
        let kind = KINDS.into_iter().find(|kind| word.starts_with(kind));
        let masked = match kind {
            Some(kind) => kind,
            None if word.starts_with(|char: char| char.is_ascii_digit()) => "0",
            None if word == "ms" => "s",
            None => word,
        };
        format!("{masked}{}", &part[word.len()..])
    });
    parts.collect()
}
