//! Measures what a process costs, according to the kernel.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use e2e::{memory_kib, wait_until};
use tokio::process::{Child, Command};

/// A process that is measured from its start to its exit.
pub struct Process {
    child: Child,
    pid: u32,
}

/// What a process has cost, from its start to its exit.
pub struct Cost {
    /// The user and system time of all threads.
    pub cpu: Duration,
    /// The peak memory (resident set).
    pub peak_bytes: u64,
}

/// The unit of times in `/proc/PID/stat`: `USER_HZ`, which is 100 on every Linux that Rust runs on.
const TICK: Duration = Duration::from_millis(10);
/// The time limit for the exit of a process. It is longer than an idle worker takes.
const END_MAX: Duration = Duration::from_secs(30);

impl Process {
    /// Starts the command. The process is killed when the value is dropped.
    pub fn start(command: &mut Command) -> Self {
        let child = command.kill_on_drop(true).spawn().unwrap();
        let pid = child.id().unwrap();
        Self { child, pid }
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends SIGTERM, waits until the process has exited, and returns its total cost. Panics if the exit code
    /// is not 0.
    pub async fn end(mut self) -> Cost {
        let peak_bytes = memory_kib(self.pid, "VmHWM") * 1024;
        let pid = self.pid.to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
        assert!(sent.success(), "kill -TERM {pid}");
        // The exit status has not been collected yet, so the times can still be read after the exit.
        wait_until("the client has ended", END_MAX, || {
            stat(self.pid).unwrap()[0] == "Z"
        })
        .await;
        let cpu = cpu(self.pid);
        assert!(self.child.wait().await.unwrap().success(), "the client failed");
        Cost { cpu, peak_bytes }
    }
}

/// Returns the fields of `/proc/PID/stat` from the state on (proc(5)). With the state at index 0, user time
/// is at index 11 and system time at index 12. Those of children that have exited follow.
fn stat(pid: u32) -> io::Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after_name) = stat.rsplit_once(')').expect("the name is in brackets");
    Ok(after_name.split_whitespace().map(str::to_owned).collect())
}

/// Returns the sum of fields that contain times.
fn times(stat: &[String], fields: &[usize]) -> Duration {
    let ticks = fields.iter().map(|at| stat[*at].parse::<u32>().unwrap());
    TICK * ticks.sum::<u32>()
}

/// Returns the processor time so far of a process and its descendants, including those that have exited.
pub fn cpu_of_tree(pid: u32) -> Duration {
    // A child may exit during this loop; then its time is included in its parent's.
    let Ok(children) = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) else {
        return Duration::ZERO;
    };
    let children = children.split_whitespace().map(|child| child.parse().unwrap());
    let of_children = children.map(cpu_of_tree).sum::<Duration>();
    of_children + stat(pid).map_or(Duration::ZERO, |stat| times(&stat, &[11, 12, 13, 14]))
}

/// Returns the processor time so far of a process, without its children.
pub fn cpu(pid: u32) -> Duration {
    times(&stat(pid).unwrap(), &[11, 12])
}

/// Returns the process id of the broker that `deploy/local/broker.sh` has started in this directory, or
/// `None` if it runs in a container.
pub fn broker_pid(directory: &Path) -> Option<u32> {
    let noted = fs::read_to_string(directory.join("broker.pid")).ok()?;
    noted.split_whitespace().next()?.parse().ok()
}

/// Returns the path of this program.
pub fn this() -> PathBuf {
    std::env::current_exe().unwrap()
}
