//! The receivers of docs/receiving.md, and how to run each of them.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
};

use e2e::{SOON, free_port, wait_for};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

/// A receiver as a customer would copy it.
pub(crate) struct Program {
    pub(crate) language: &'static str,
    /// The path, relative to the repository.
    pub(crate) file: &'static str,
    /// Returns the commands of its processes, given the file, a directory for its own files, and a port. The
    /// first process listens on the port.
    commands: fn(&Path, &Path, u16) -> Vec<Command>,
}

/// The signature that a receiver verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// The three headers of Standard Webhooks.
    Standard,
    /// `X-Magnetite-Signature`.
    Simple,
}

/// A receiver, running or not. The record of what it has processed outlives its processes.
pub(crate) struct Receiver {
    program: &'static Program,
    pub(crate) scheme: Scheme,
    pub(crate) port: u16,
    /// The directory of its own files.
    pub(crate) directory: PathBuf,
    children: Vec<Child>,
    processed: Arc<Mutex<Vec<String>>>,
}

pub(crate) const PROGRAMS: [Program; 5] = [
    Program {
        language: "js",
        file: "tests/receivers/node/receiver.js",
        commands: node,
    },
    Program {
        language: "python",
        file: "tests/receivers/python/receiver.py",
        commands: python,
    },
    Program {
        language: "rust",
        file: "crates/signature/examples/receiver.rs",
        commands: rust,
    },
    Program {
        language: "php",
        file: "tests/receivers/php/receiver.php",
        commands: php,
    },
    Program {
        language: "go",
        file: "tests/receivers/go/receiver.go",
        commands: go,
    },
];

/// Returns every program with both schemes. None of them is running yet. Their files are in `directory`.
pub(crate) async fn receivers(directory: &Path) -> Vec<Receiver> {
    build_go(directory).await;
    let pairs = PROGRAMS.iter().flat_map(|program| {
        let schemes = [Scheme::Standard, Scheme::Simple];
        schemes.map(|scheme| (program, scheme))
    });
    pairs
        .map(|(program, scheme)| Receiver {
            program,
            scheme,
            port: free_port(),
            directory: directory.to_owned(),
            children: Vec::new(),
            processed: Arc::default(),
        })
        .collect()
}

impl Receiver {
    pub(crate) fn name(&self) -> String {
        format!("{} ({:?})", self.program.file, self.scheme)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/webhook", self.port)
    }

    /// Returns the ids of the events that it has processed, in order.
    pub(crate) fn processed(&self) -> Vec<String> {
        self.processed.lock().unwrap().clone()
    }

    /// Starts the receiver with these secrets. If it is running, it is stopped first.
    pub(crate) async fn run(&mut self, secrets: &str) {
        self.end().await;
        for mut command in
            (self.program.commands)(&root().join(self.program.file), &self.directory, self.port)
        {
            self.children.push(self.spawn(&mut command, secrets));
        }
        wait_for(&format!("{} listens", self.name()), SOON, || async {
            let connected = TcpStream::connect(("127.0.0.1", self.port)).await;
            connected.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }

    pub(crate) async fn end(&mut self) {
        for mut child in self.children.drain(..) {
            child.kill().await.unwrap();
        }
    }

    fn spawn(&self, command: &mut Command, secrets: &str) -> Child {
        let kept = ["PATH", "HOME"].into_iter();
        let scheme = match self.scheme {
            Scheme::Standard => "",
            Scheme::Simple => "x-magnetite-signature",
        };
        let database = self.directory.join(format!("{}.db", self.port));
        let mut child = command
            .env_clear()
            .envs(kept.filter_map(|key| Some((key, std::env::var(key).ok()?))))
            .env("NODE_PATH", variable("MAGNETITE_TEST_NODE_PATH"))
            .env("WEBHOOK_SECRET", secrets)
            .env("WEBHOOK_SCHEME", scheme)
            .env("PORT", self.port.to_string())
            .env("EVENTS_DB", database)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{}: {error}: run tests/run.sh, which installs what it needs",
                    self.name()
                )
            });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let processed = Arc::clone(&self.processed);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(id) = line
                    .strip_prefix("processed ")
                    .and_then(|rest| rest.split(' ').next())
                {
                    processed.lock().unwrap().push(id.to_owned());
                }
            }
        });
        child
    }
}

/// Returns the path of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run tests/run.sh, which installs what it names"))
}

fn command(program: impl AsRef<std::ffi::OsStr>, arguments: &[&Path]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn node(file: &Path, _: &Path, _: u16) -> Vec<Command> {
    vec![command("node", &[file])]
}

fn python(file: &Path, _: &Path, _: u16) -> Vec<Command> {
    vec![command(variable("MAGNETITE_TEST_PYTHON"), &[file])]
}

fn php(file: &Path, _: &Path, port: u16) -> Vec<Command> {
    // With `display_errors`, PHP by default answers 200 to a request that ends in an error.
    let mut listening = Command::new("php");
    listening
        .args(["-d", "display_errors=1", "-S", &format!("127.0.0.1:{port}")])
        .arg(file);
    vec![listening, command("php", &[file])]
}

fn go(_: &Path, directory: &Path, _: u16) -> Vec<Command> {
    vec![Command::new(go_program(directory))]
}

/// Returns the Rust receiver, which is built together with the tests, from the same sources.
fn rust(_: &Path, _: &Path, _: u16) -> Vec<Command> {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).expect("a test is in target/PROFILE/deps");
    let program = profile.join("examples/receiver");
    assert!(
        program.exists(),
        "{} is not there: run `cargo build -p magnetite-signature --examples`",
        program.display()
    );
    vec![Command::new(program)]
}

fn go_program(directory: &Path) -> PathBuf {
    directory.join("receiver-in-go")
}

async fn build_go(directory: &Path) {
    let mut command = Command::new("go");
    command
        .args(["build", "-o"])
        .args([
            &go_program(directory),
            &root().join("tests/receivers/go/receiver.go"),
        ])
        .env("GOPROXY", "off");
    let built = command.output().await;
    let built = built.unwrap_or_else(|error| panic!("go: {error}: run tests/run.sh, which installs it"));
    assert!(
        built.status.success(),
        "go build: {}",
        String::from_utf8_lossy(&built.stderr)
    );
}
