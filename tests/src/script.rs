//! The scripts that start servers.

use std::path::{Path, PathBuf};

use tokio::process::Command;

/// The path of a script, relative to the repository. Its arguments are a verb and a directory, followed by
/// others.
pub(crate) struct Script(pub(crate) &'static str);

impl Script {
    /// Runs the script, and returns its standard output. Panics if the script fails.
    pub(crate) async fn run(&self, verb: &str, directory: &Path, arguments: &[&str]) -> String {
        let output = Command::new(self.path())
            .arg(verb)
            .arg(directory)
            .args(arguments)
            .output()
            .await
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {verb}: {stderr}", self.0);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Runs the script while a value is dropped, and returns its standard output. A failure is ignored,
    /// because nothing can be done about it at that point.
    pub(crate) fn run_last(&self, verb: &str, directory: &Path) -> String {
        let mut command = std::process::Command::new(self.path());
        let output = command.arg(verb).arg(directory).output();
        output.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }

    fn path(&self) -> PathBuf {
        root().join(self.0)
    }
}

/// Returns a free port, which no other test receives soon.
pub fn free_port() -> u16 {
    let script = root().join("deploy/local/free-ports.sh");
    let output = std::process::Command::new(script).arg("1").output().unwrap();
    let port = String::from_utf8_lossy(&output.stdout).trim().parse();
    port.unwrap_or_else(|_| panic!("free-ports.sh: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Returns the path of the repository.
pub fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("the tests' directory has a parent").to_owned()
}
