//! One installation: configuration, database, processes.

use std::{
    ffi::OsStr,
    fs,
    path::PathBuf,
    process::{Output, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{Amqp, Node, Trace, proxy::Target, script::root, wait_for};

/// A configured installation. Its database is migrated and its topology declared; no role runs until one is started.
pub struct Installation {
    directory: TempDir,
    prefix: String,
    broker_url: String,
    settings: Vec<(String, String)>,
    delays_ms: Vec<u64>,
    amqp: Amqp,
    /// What nobody is to find in clear.
    secrets: Mutex<Vec<String>>,
}

/// A running role; killed when dropped.
pub struct Role {
    child: Child,
    port: u16,
}

/// A registered endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: String,
}

/// What secrets in PostgreSQL are sealed with.
const SEALING_KEY: &str = "mgsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

const READY: Duration = Duration::from_secs(30);

impl Installation {
    /// On the broker of `MAGNETITE_BROKER__URL`, with the retry schedule of the contract.
    pub async fn new(name: &str) -> Self {
        Self::with(
            name,
            &shared_broker(),
            &[1000, 2000, 4000, 8000, 16000, 30000],
            &[],
        )
        .await
    }

    /// With exactly these delays between attempts, in milliseconds.
    pub async fn with_delays(name: &str, delays_ms: &[u64]) -> Self {
        Self::with(name, &shared_broker(), delays_ms, &[]).await
    }

    /// With further settings, such as `("MAGNETITE_WORKER__IN_FLIGHT_MAX", "8")`. `delays_ms` is the retry schedule, or
    /// the delay queues of the contract's.
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
        // SQLite brings its own.
        if settings.iter().any(|(key, _)| key == "MAGNETITE_DATABASE__URL") {
            settings.push(("MAGNETITE_SECRETS__KEYS".to_owned(), SEALING_KEY.to_owned()));
        }
        let amqp = Amqp::connect(broker_url, &prefix).await;
        let this = Self {
            directory,
            prefix,
            broker_url: broker_url.to_owned(),
            settings,
            delays_ms,
            amqp,
            secrets: Mutex::default(),
        };
        this.cli_ok(&["migrate"]).await;
        this.cli_ok(&["topology", "declare"]).await;
        this
    }

    /// The installation's connection to the broker.
    pub fn amqp(&self) -> &Amqp {
        &self.amqp
    }

    /// A new connection, after the broker was restarted.
    pub async fn connect(&self) -> Amqp {
        Amqp::connect(&self.broker_url, &self.prefix).await
    }

    /// The names' prefix on the broker.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The broker's URL.
    pub fn broker_url(&self) -> &str {
        &self.broker_url
    }

    /// The port that the broker listens on.
    pub fn broker_port(&self) -> u16 {
        let target = Target::of(&self.broker_url);
        let (_, port) = target.server().rsplit_once(':').expect("a target has a port");
        port.parse().unwrap()
    }

    /// A directory that is deleted with the installation.
    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Changes a setting for what is started from now on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.push((key.to_owned(), value.to_owned()));
    }

    /// `magnetite` with this installation's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(binary(), arguments)
    }

    fn command_of(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
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
            .envs(self.settings.iter().map(|(key, value)| (key, value)))
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end, with `input` on standard input.
    pub async fn cli_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
        // An error is the command's not reading to the end.
        let writing = tokio::spawn(async move { stdin.write_all(&input).await });
        let output = child.wait_with_output().await.unwrap();
        let _ = writing.await;
        output
    }

    /// Runs a command to its end.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().await.unwrap()
    }

    /// Runs a command that has to succeed, and returns its standard output.
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

    /// Registers an endpoint for everything of an organization.
    pub async fn endpoint(&self, organization: &str, url: &str) -> Endpoint {
        self.endpoint_with(organization, url, &[]).await
    }

    /// Registers an endpoint with further arguments of `endpoint create`.
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
        let printed: Value = serde_json::from_str(&self.cli_ok(&arguments).await).unwrap();
        let text = |key: &str| printed[key].as_str().unwrap().to_owned();
        self.secrets.lock().unwrap().push(text("secret"));
        Endpoint {
            id: text("id"),
            secret: text("secret"),
        }
    }

    /// What `endpoint show --json` prints.
    pub async fn show(&self, endpoint: &Endpoint) -> Value {
        serde_json::from_str(&self.cli_ok(&["endpoint", "show", &endpoint.id, "--json"]).await).unwrap()
    }

    /// Starts `magnetite worker` and waits until it is ready. Its log goes to this process's standard error, which the test
    /// runner shows when the test fails.
    pub async fn worker(&self) -> Role {
        let role = self.start("worker");
        role.wait_until_ready().await;
        role
    }

    /// The same, with its log in a file of the installation's directory.
    pub async fn logged_worker(&self, name: &str) -> Role {
        let log = fs::File::create(self.directory().join(name)).unwrap();
        let mut command = self.command(&["worker"]);
        command.env("MAGNETITE_LOG__FILTER", "trace").stderr(log);
        let role = Role::start(command);
        role.wait_until_ready().await;
        role
    }

    /// The same, under `strace`.
    pub async fn traced_worker(&self) -> (Role, Trace) {
        let (command, port) = probed(self.command(&["worker"]));
        let (mut command, trace) = Trace::of(&command, self.directory().join("worker.strace"));
        let child = command.spawn().unwrap();
        let role = Role { child, port };
        role.wait_until_ready().await;
        (role, trace)
    }

    /// Starts `magnetite recorder` and waits until it is ready.
    pub async fn recorder(&self) -> Role {
        let role = self.start("recorder");
        role.wait_until_ready().await;
        role
    }

    /// Starts a role without waiting for it.
    pub fn start(&self, role: &str) -> Role {
        Role::start(self.command(&[role]))
    }

    /// Starts a role that may open no more than so many files and sockets, without waiting for it.
    pub fn start_with_descriptors(&self, role: &str, descriptors: u32) -> Role {
        let script = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
        let mut command = self.command_of("sh", &["-c", &script]);
        command.arg(binary()).arg(role);
        Role::start(command)
    }

    /// Waits until nothing is ready in any queue but `dead` and `rejected`, seen in one look at all of them. A delivery that
    /// goes from one queue to the next meanwhile can hide from it: for that see [`Installation::wait_until_nothing_is_left`].
    pub async fn wait_until_drained(&self, limit: Duration) {
        wait_for("nothing is ready", limit, || async {
            let mut ready = Vec::new();
            for name in self.work_queues() {
                match self.amqp.ready(&name).await {
                    0 => {}
                    count => ready.push(format!("{count} in {name}")),
                }
            }
            if ready.is_empty() {
                Ok(())
            } else {
                Err(ready.join(", "))
            }
        })
        .await;
    }

    /// Waits until every queue but `dead` and `rejected` is empty, whatever copies crashes have made. It ends the workers, so
    /// that nothing is in anyone's hands, lets what is delayed come due, and looks; what is left another worker is given.
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

    /// Panics when a file of this installation, of the database and of whatever was put into its directory, but for the key's own,
    /// has a secret of an endpoint, a part of it, or the key in it.
    pub fn assert_nothing_in_clear(&self) {
        let mut secrets = self.secrets.lock().unwrap().clone();
        let mut files = Vec::new();
        for entry in fs::read_dir(self.directory.path()).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                Some(extension) if extension == "key" => {
                    secrets.push(fs::read_to_string(&path).unwrap().trim().to_owned());
                }
                Some(extension) if extension == "secret" => {}
                _ if path.is_file() => files.push(path),
                _ => {}
            }
        }
        for path in files {
            let bytes = fs::read(&path).unwrap();
            for secret in &secrets {
                let (_, encoded) = secret.split_once('_').expect("secrets and keys have a prefix");
                let found = memchr::memmem::find(&bytes, encoded.as_bytes()).is_some();
                assert!(!found, "{} has a secret in it", path.display());
            }
        }
    }

    /// Deletes what the installation has on the broker, after a last look for secrets.
    pub async fn delete(self) {
        self.assert_nothing_in_clear();
        self.amqp.delete(&self.delays_ms).await;
    }

    /// Every queue in which deliveries are under way.
    pub fn work_queues(&self) -> Vec<String> {
        let fixed = ["events", "due"].map(str::to_owned);
        fixed
            .into_iter()
            .chain(self.delays_ms.iter().map(|ms| format!("delay.{ms}")))
            .collect()
    }
}

impl Role {
    fn start(command: Command) -> Self {
        let (mut command, port) = probed(command);
        let child = command.spawn().unwrap();
        Self { child, port }
    }

    /// Waits until `/readyz` says 200.
    pub async fn wait_until_ready(&self) {
        wait_for("the role is ready", READY, || async {
            match self.get("/readyz").await {
                Ok(response) if response.starts_with("HTTP/1.1 200") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// A metric's value, the sum over its labels that contain `label`.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let metrics = self.get("/metrics").await.unwrap();
        let lines = metrics.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
                && line.contains(label)
        });
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// An HTTP response of the health port, whole.
    pub async fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        Ok(response)
    }

    /// How many messages it holds unacked.
    pub async fn unacked(&self) -> u64 {
        self.metric("magnetite_messages_unacked", "").await as u64
    }

    /// Waits until it holds `count` messages of the queues whose names contain `queue` unacked.
    pub async fn wait_for_unacked(&self, queue: &str, count: u64, limit: Duration) {
        wait_for(&format!("{count} unacked of {queue:?}"), limit, || async {
            let unacked = self.metric("magnetite_messages_unacked", queue).await as u64;
            if unacked == count {
                Ok(())
            } else {
                Err(format!("{unacked}"))
            }
        })
        .await;
    }

    /// The most memory it has had (resident set), in MiB.
    pub fn memory_max_mib(&self) -> u64 {
        memory_kib(self.pid(), "VmHWM") / 1024
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it has not ended yet")
    }

    /// SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM, and waits for the end; returns whether the exit code was 0.
    pub async fn terminate(mut self) -> bool {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
        assert!(sent.success(), "kill -TERM {pid}");
        self.child.wait().await.unwrap().success()
    }
}

/// A process's memory in KiB, as proc(5) has it: `VmRSS` now, `VmHWM` at most so far.
pub fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).unwrap();
    kib.parse().unwrap()
}

/// A role's command with a port for its probes.
fn probed(mut command: Command) -> (Command, u16) {
    let port = free_port();
    let filter = std::env::var("E2E_LOG").unwrap_or_else(|_| "warn".to_owned());
    command
        .env("MAGNETITE_HEALTH__LISTEN", format!("127.0.0.1:{port}"))
        .env("MAGNETITE_LOG__FILTER", filter);
    (command, port)
}

/// The broker that all tests share.
pub fn shared_broker() -> String {
    std::env::var("MAGNETITE_BROKER__URL").expect(
        "MAGNETITE_BROKER__URL is not set: run tests/run.sh, or export the line that `deploy/local/broker.sh start DIR` prints",
    )
}

/// The binary that was built together with this test.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).expect("a test is in target/PROFILE/deps");
    let binary = profile.join("magnetite");
    assert!(
        binary.exists(),
        "{} is not there: run `cargo build --workspace` in {}",
        binary.display(),
        root().display()
    );
    binary
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
