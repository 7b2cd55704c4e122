//! An installation: its configuration, its database and its processes.

use std::{
    cell::Cell,
    ffi::OsStr,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    Amqp, Node, Role, SmallDisk, Trace,
    proxy::Target,
    role::probed,
    script::root,
    secrets::{SEALING_KEY, Secrets},
    wait_for,
};

/// A configured installation. Its database is migrated and its topology is declared. No role runs until the
/// test starts one.
pub struct Installation {
    directory: TempDir,
    prefix: String,
    broker_url: String,
    settings: Vec<(String, String)>,
    /// The program and the arguments that run each command, such as `nohup`; empty to run commands directly.
    within: Vec<String>,
    delays_ms: Vec<u64>,
    amqp: Amqp,
    secrets: Secrets,
}

/// A registered endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: String,
}

impl Installation {
    /// Creates an installation on the broker of `MAGNETITE_BROKER__URL`, with the retry schedule of the
    /// contract.
    pub async fn new(name: &str) -> Self {
        Self::with(
            name,
            &shared_broker(),
            &[1000, 2000, 4000, 8000, 16000, 30000],
            &[],
        )
        .await
    }

    /// Creates an installation with exactly these delays between attempts, in milliseconds.
    pub async fn with_delays(name: &str, delays_ms: &[u64]) -> Self {
        Self::with(name, &shared_broker(), delays_ms, &[]).await
    }

    /// Creates an installation with additional settings, such as `("MAGNETITE_WORKER__IN_FLIGHT_MAX", "8")`.
    /// `delays_ms` is the retry schedule in milliseconds. The list of the contract's delay queues (1, 2, 4,
    /// 8, 16 and 30 s) selects the contract's schedule.
    pub async fn with(name: &str, broker_url: &str, delays_ms: &[u64], settings: &[(&str, &str)]) -> Self {
        let directory = TempDir::with_prefix("magnetite-e2e-").unwrap();
        let prefix = format!("e2e-{name}-{}", std::process::id());
        let mut settings: Vec<_> = settings
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        if delays_ms != [1000, 2000, 4000, 8000, 16000, 30000] {
            let list: Vec<_> = delays_ms.iter().map(|ms| format!("{ms}ms")).collect();
            settings.push(("MAGNETITE_RETRY__DELAYS".to_owned(), list.join(",")));
        }
        let mut delays_ms = delays_ms.to_vec();
        delays_ms.sort_unstable();
        delays_ms.dedup();
        // With SQLite, the installation generates its own key.
        if settings.iter().any(|(key, _)| key == "MAGNETITE_DATABASE__URL") {
            settings.push(("MAGNETITE_SECRETS__KEYS".to_owned(), SEALING_KEY.to_owned()));
        }
        let amqp = Amqp::connect(broker_url, &prefix).await;
        let this = Self {
            directory,
            prefix,
            broker_url: broker_url.to_owned(),
            settings,
            within: Vec::new(),
            delays_ms,
            amqp,
            secrets: Secrets::default(),
        };
        this.cli_ok(&["migrate"]).await;
        this.cli_ok(&["topology", "declare"]).await;
        this
    }

    /// Returns the installation's connection to the broker.
    pub fn amqp(&self) -> &Amqp {
        &self.amqp
    }

    /// Opens a new connection to the broker, for example after the broker was restarted.
    pub async fn connect(&self) -> Amqp {
        Amqp::connect(&self.broker_url, &self.prefix).await
    }

    /// Returns the prefix of the names on the broker.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the broker's URL.
    pub fn broker_url(&self) -> &str {
        &self.broker_url
    }

    /// Returns the port that the broker listens on.
    pub fn broker_port(&self) -> u16 {
        let target = Target::of(&self.broker_url);
        let (_, port) = target.server().rsplit_once(':').expect("a target has a port");
        port.parse().unwrap()
    }

    /// Returns a directory that is deleted with the installation.
    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Changes a setting for all processes that are started from now on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.push((key.to_owned(), value.to_owned()));
    }

    /// Runs everything that is started from now on by means of this command, such as `nohup`.
    pub fn start_by(&mut self, command: &[&str]) {
        self.within = command.iter().map(|&word| word.to_owned()).collect();
    }

    /// Creates a new, empty database on this disk, and uses it for everything that is started from now on.
    pub async fn move_database_to(&mut self, disk: &SmallDisk) {
        self.within = disk.enter();
        let database = disk.directory().join("magnetite.db");
        self.set(
            "MAGNETITE_DATABASE__URL",
            &format!("sqlite://{}", database.display()),
        );
        self.cli_ok(&["migrate"]).await;
    }

    /// Returns a command that runs `magnetite` with this installation's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(binary(), arguments)
    }

    /// Returns a command that runs another program, with this installation's configuration in its
    /// environment.
    pub fn command_of(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut words = self.within.iter().map(OsStr::new).chain([program.as_ref()]);
        let mut command = Command::new(words.next().expect("a program at least"));
        command
            .args(words)
            .args(arguments)
            .env_clear()
            .envs(
                ["PATH", "HOME", "RUST_BACKTRACE"]
                    .into_iter()
                    .filter_map(|key| Some((key, std::env::var(key).ok()?))),
            )
            .env("MAGNETITE_BROKER__URL", &self.broker_url)
            .env("MAGNETITE_BROKER__PREFIX", &self.prefix)
            .env(
                "MAGNETITE_DATABASE__URL",
                format!("sqlite://{}/magnetite.db", self.directory.path().display()),
            )
            .env("MAGNETITE_EGRESS__ALLOW", "127.0.0.0/8")
            .env("MAGNETITE_HEALTH__LISTEN", "")
            .env("MAGNETITE_API__LISTEN", "")
            .envs(self.settings.iter().map(|(key, value)| (key, value)))
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs `magnetite` with these arguments and with `input` on standard input, and waits until it has
    /// exited.
    pub async fn cli_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        self.logged(with_input(self.command(arguments), input).await)
    }

    /// Runs `magnetite` with these arguments, and waits until it has exited.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        self.logged(self.command(arguments).output().await.unwrap())
    }

    /// Appends a command's standard error to a file that is later searched for secrets.
    fn logged(&self, output: Output) -> Output {
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(self.log("commands"));
        log.unwrap().write_all(&output.stderr).unwrap();
        output
    }

    /// Returns the path of the log file for commands or for a role.
    fn log(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.log"))
    }

    /// Runs `magnetite` with these arguments, and returns its standard output. Panics if the command fails.
    pub async fn cli_ok(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "magnetite {arguments:?}: {}\n{stderr}",
            output.status
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Registers an endpoint for all events of an organization.
    pub async fn endpoint(&self, organization: &str, url: &str) -> Endpoint {
        self.endpoint_with(organization, url, &[]).await
    }

    /// Registers an endpoint with additional arguments of `endpoint create`.
    pub async fn endpoint_with(&self, organization: &str, url: &str, more: &[&str]) -> Endpoint {
        let mut arguments = vec![
            "endpoint",
            "create",
            "--org",
            organization,
            "--url",
            url,
            "--json",
        ];
        arguments.extend(more);
        self.printed_with_secret(&self.cli_ok(&arguments).await)
    }

    /// Runs `endpoint rotate-secret` with additional arguments. Returns the endpoint with its new secret, or,
    /// if the command exits with 1, its standard error.
    pub async fn rotate_secret(&self, id: &str, more: &[&str]) -> Result<Endpoint, String> {
        let mut arguments = vec!["endpoint", "rotate-secret", id, "--json"];
        arguments.extend(more);
        let output = self.cli(&arguments).await;
        if output.status.success() {
            Ok(self.printed_with_secret(&String::from_utf8(output.stdout).unwrap()))
        } else {
            assert_eq!(output.status.code(), Some(1), "{arguments:?}");
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }

    /// Parses the endpoint in a command's JSON output, and registers its secret with
    /// [`Installation::keep_secret`].
    fn printed_with_secret(&self, json: &str) -> Endpoint {
        let printed: Value = serde_json::from_str(json).unwrap();
        let text = |key: &str| printed[key].as_str().unwrap().to_owned();
        self.keep_secret(&text("secret"));
        Endpoint {
            id: text("id"),
            secret: text("secret"),
        }
    }

    /// Creates an API key for the HTTP API.
    pub async fn key(&self, organization: &str, scopes: &str) -> String {
        self.key_of(&["--org", organization], scopes).await
    }

    /// Creates a platform key for the HTTP API.
    pub async fn platform_key(&self, scopes: &str) -> String {
        self.key_of(&["--platform"], scopes).await
    }

    async fn key_of(&self, holder: &[&str], scopes: &str) -> String {
        let new = ["--name", "test", "--scopes", scopes, "--json"];
        let create = [&["api-key", "create"][..], holder, &new].concat();
        let printed: Value = serde_json::from_str(&self.cli_ok(&create).await).unwrap();
        let key = printed["key"].as_str().unwrap().to_owned();
        self.keep_secret(&key);
        key
    }

    /// Registers a secret that must not appear in clear: see [`Installation::assert_nothing_in_clear`]. A
    /// secret consists of a prefix up to `_` and a random part.
    pub fn keep_secret(&self, secret: &str) {
        self.secrets.remember(secret);
    }

    /// Returns the output of `endpoint show --json`.
    pub async fn show(&self, endpoint: &Endpoint) -> Value {
        serde_json::from_str(&self.cli_ok(&["endpoint", "show", &endpoint.id, "--json"]).await).unwrap()
    }

    /// Starts `magnetite worker` and waits until it is ready.
    pub async fn worker(&self) -> Role {
        let role = self.start("worker");
        role.wait_until_ready().await;
        role
    }

    /// Starts `magnetite worker` with the log filter `trace`, and waits until it is ready.
    pub async fn talkative_worker(&self) -> Role {
        let mut command = self.command(&["worker"]);
        command.env("MAGNETITE_LOG__FILTER", "trace");
        let role = self.launch(command, "worker");
        role.wait_until_ready().await;
        role
    }

    /// Starts `magnetite worker` under `strace`, and waits until it is ready.
    pub async fn traced_worker(&self) -> (Role, Trace) {
        let (command, port) = probed(self.command(&["worker"]));
        let (command, trace) = Trace::of(&command, self.directory().join("worker.strace"));
        let role = Role::start(command, port, &self.log("worker"));
        role.wait_until_ready().await;
        (role, trace)
    }

    /// Starts `magnetite recorder` and waits until it is ready.
    pub async fn recorder(&self) -> Role {
        let role = self.start("recorder");
        role.wait_until_ready().await;
        role
    }

    /// Starts a role, without waiting until it is ready.
    pub fn start(&self, role: &str) -> Role {
        self.launch(self.command(&[role]), role)
    }

    /// Starts a role that may open at most this many files and sockets, without waiting until it is ready.
    pub fn start_with_descriptors(&self, role: &str, descriptors: u32) -> Role {
        let script = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
        let mut command = self.command_of("sh", &["-c", &script]);
        command.arg(binary()).arg(role);
        self.launch(command, role)
    }

    /// Starts a role with this log filter and with this file as its standard error, without waiting until it
    /// is ready.
    pub fn start_logging_to(&self, role: &str, stderr: &Path, filter: &str) -> Role {
        let script = format!("exec \"$0\" \"$@\" 2>{}", stderr.display());
        let mut command = self.command_of("sh", &["-c", &script]);
        command
            .arg(binary())
            .arg(role)
            .env("MAGNETITE_LOG__FILTER", filter);
        self.launch(command, role)
    }

    /// Starts a role with this command, without waiting until it is ready. Its log is kept under `name`.
    pub fn launch(&self, command: Command, name: &str) -> Role {
        let (command, port) = probed(command);
        Role::start(command, port, &self.log(name))
    }

    /// Waits until no message is ready in any queue except `dead` and `rejected`.
    ///
    /// Checks many times in a row, so that a delivery that moves from one queue to the next is not
    /// overlooked. A message that a worker holds for longer than these checks take is overlooked: see
    /// [`Installation::wait_until_nothing_is_left`].
    pub async fn wait_until_drained(&self, limit: Duration) {
        const LOOKS: u32 = 20;
        let empty = Cell::new(0);
        wait_for("nothing is ready", limit, || async {
            let mut ready = Vec::new();
            for name in self.work_queues() {
                match self.amqp.ready(&name).await {
                    0 => {}
                    count => ready.push(format!("{count} in {name}")),
                }
            }
            empty.set(if ready.is_empty() { empty.get() + 1 } else { 0 });
            if empty.get() == LOOKS {
                Ok(())
            } else {
                Err(ready.join(", "))
            }
        })
        .await;
    }

    /// Waits until every queue except `dead` and `rejected` is empty, even if crashes have created copies of
    /// messages.
    ///
    /// Terminates the workers, so that no message is unacked, waits until all delayed messages are due, and
    /// then counts the messages. If any are left, starts another worker to process them, and repeats.
    pub async fn wait_until_nothing_is_left(&self, node: &Node, workers: Vec<Role>, limit: Duration) {
        let (amqp, until, mut workers) = (self.connect().await, Instant::now() + limit, workers);
        loop {
            for worker in workers {
                assert!(worker.terminate().await, "a worker shuts down cleanly");
            }
            for name in self
                .work_queues()
                .iter()
                .filter(|name| name.starts_with("delay."))
            {
                amqp.wait_for_ready(name, 0, limit).await;
                node.wait_for_empty(&format!("{}.{name}", self.prefix), limit)
                    .await;
            }
            let left = amqp.ready("due").await + amqp.ready("events").await;
            if left == 0 {
                return;
            }
            assert!(
                Instant::now() < until,
                "{left} messages are left in events and due"
            );
            workers = vec![self.worker().await];
            amqp.wait_for_ready("due", 0, limit).await;
            amqp.wait_for_ready("events", 0, limit).await;
        }
    }

    /// Panics if a file of this installation contains a secret in clear: a secret registered with
    /// [`Installation::keep_secret`], such as an endpoint's, the random part of one, or a key. Searches the
    /// files in its directory: its database, the logs of its processes, and the files that the test has put
    /// there.
    pub fn assert_nothing_in_clear(&self) {
        self.secrets.assert_nothing_in_clear(self.directory.path());
    }

    /// Deletes the installation's queues and exchanges on the broker.
    pub async fn delete(self) {
        self.amqp.delete(&self.delays_ms).await;
    }

    /// Returns the names of all queues that hold deliveries in progress.
    pub fn work_queues(&self) -> Vec<String> {
        let fixed = ["events", "due"].map(str::to_owned);
        fixed
            .into_iter()
            .chain(self.delays_ms.iter().map(|ms| format!("delay.{ms}")))
            .collect()
    }
}

/// Searches for secrets in clear when the test drops the installation, unless the test is already panicking.
impl Drop for Installation {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_nothing_in_clear();
        }
    }
}

/// Returns the URL of the broker that all tests share.
pub fn shared_broker() -> String {
    std::env::var("MAGNETITE_BROKER__URL").expect(
        "MAGNETITE_BROKER__URL is not set: run tests/run.sh, or export the line that `deploy/local/broker.sh start DIR` prints",
    )
}

/// Runs a command with `input` on standard input, and waits until it has exited.
pub async fn with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // An error means that the command did not read all of the input.
    let writing = tokio::spawn(async move { stdin.write_all(&input).await });
    let output = child.wait_with_output().await.unwrap();
    let _ = writing.await;
    output
}

/// Returns the path of the binary that was built together with this program: a test in `target/PROFILE/deps`,
/// or a benchmark in `target/PROFILE`.
pub fn binary() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let mut directories = this.ancestors().skip(1);
    let profile = directories.find(|directory| !directory.ends_with("deps"));
    let profile = profile.expect("a program is below target/PROFILE");
    let binary = profile.join("magnetite");
    assert!(
        binary.exists(),
        "{} is not there: run `cargo build --workspace` in {}",
        binary.display(),
        root().display()
    );
    binary
}
