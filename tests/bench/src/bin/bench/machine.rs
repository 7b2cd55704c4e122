//! Describes the machine and the software of a measurement, so that results can be told apart later.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

pub(crate) fn machine() -> Value {
    let model = field("/proc/cpuinfo", "model name");
    let memory_kib =
        field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "processor": model,
        "memory_mib": memory_kib.map(|kib| kib / 1024),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()),
        "system": field("/etc/os-release", "PRETTY_NAME").map(|name| name.trim_matches('"').to_owned()),
    })
}

/// Returns the versions of the programs involved; null for a program whose version is unknown.
pub(crate) fn versions(broker: Option<&Path>) -> Value {
    let rabbitmq = broker
        .and_then(|directory| output("deploy/local/broker.sh", &["ctl", directory.to_str()?, "version"]));
    let postgres = "ls /usr/lib/postgresql/*/bin/postgres | sort --version-sort | tail -n 1";
    json!({
        "rustc": output("rustc", &["--version"]),
        "rabbitmq": rabbitmq,
        "postgresql": output("sh", &["-c", &format!("$({postgres}) --version")]),
        "commit": output("git", &["describe", "--always", "--dirty", "--abbrev=12", "--match="]),
    })
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let value = line.split_once([':', '=']).map(|(_, value)| value.trim());
    value.map(str::to_owned)
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
