//! Records which network addresses a process uses, by tracing its system calls with `strace`. The record does
//! not depend on what the process reports about itself.

use std::{net::SocketAddr, path::PathBuf};

use tokio::process::Command;

/// The file to which the system calls of a traced process are written.
#[derive(Clone, Debug)]
pub struct Trace(PathBuf);

/// A socket and the address that `connect` or `sendto` has used it with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Socket {
    /// Whether the socket is a TCP socket; otherwise it is a UDP socket.
    pub is_tcp: bool,
    /// The address.
    pub to: SocketAddr,
}

impl Trace {
    /// Returns the same command under `strace`, which writes to `file`. The child process is the command
    /// itself, so its process id, its signals and its exit code are those of the command.
    pub fn of(command: &Command, file: PathBuf) -> (Command, Self) {
        let (inner, mut traced) = (command.as_std(), Command::new("strace"));
        // -D runs strace as a grandchild, -f traces all threads, and -yy prints the protocol of each socket.
        traced
            .args(["-D", "-f", "--seccomp-bpf", "-qqq", "-yy", "-e", "signal=none"])
            .args(["-e", "trace=connect,sendto,sendmsg,sendmmsg", "-s", "0", "-o"])
            .arg(&file)
            .arg("--")
            .arg(inner.get_program())
            .args(inner.get_args())
            .env_clear()
            .envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))))
            .current_dir(inner.get_current_dir().unwrap())
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        (traced, Self(file))
    }

    /// Panics if `strace` is missing or not allowed to trace processes. The message says how to get it.
    pub async fn need() {
        let tried = Command::new("strace")
            .args(["-f", "--seccomp-bpf", "-qqq", "-o", "/dev/null", "true"])
            .output()
            .await;
        assert!(
            tried.as_ref().is_ok_and(|output| output.status.success()),
            "strace does not work ({tried:?}): run tests/run.sh, or `apt-get install strace`; in a container it needs \
             the capability SYS_PTRACE"
        );
    }

    /// Returns every IPv4 or IPv6 address that a socket has used so far, in order.
    pub fn sockets(&self) -> Vec<Socket> {
        let text = std::fs::read_to_string(&self.0).unwrap();
        text.lines().filter_map(socket).collect()
    }
}

/// Returns the socket and the address in a line of the trace, or `None` if the line has none. An example of a
/// line: `71 connect(9<TCPv6:[4]>, {sa_family=AF_INET6, sin6_port=htons(80), ..., inet_pton(AF_INET6, "::1",
/// &sin6_addr), ...}, 28) = 0`.
fn socket(line: &str) -> Option<Socket> {
    let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
    // A resumed line completes a call that another thread's line interrupted. The first line has the
    // arguments.
    if call.starts_with("<...") || !line.contains("sa_family=AF_INET") {
        return None;
    }
    let between = |from: &str, to: &str| {
        let (_, rest) = line.split_once(from)?;
        Some(rest.split_once(to)?.0.to_owned())
    };
    let protocol = between("<", ":[").unwrap_or_else(|| panic!("no protocol: {line}"));
    assert!(
        ["TCP", "TCPv6", "UDP", "UDPv6"].contains(&protocol.as_str()),
        "neither TCP nor UDP: {line}"
    );
    let ip = between("inet_addr(\"", "\"").or_else(|| between("inet_pton(AF_INET6, \"", "\""));
    let port = between("_port=htons(", ")");
    let (ip, port) = ip.zip(port).unwrap_or_else(|| panic!("no address: {line}"));
    Some(Socket {
        is_tcp: protocol.starts_with("TCP"),
        to: SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_trace_are_read() {
        for (line, expected) in [
            (
                r#"7 connect(3<TCP:[23638]>, {sa_family=AF_INET, sin_port=htons(1), sin_addr=inet_addr("127.0.0.1")}, 16) = -1 ECONNREFUSED (Connection refused)"#,
                Some((true, "127.0.0.1:1")),
            ),
            (
                r#"7 connect(4<UDPv6:[9]>, {sa_family=AF_INET6, sin6_port=htons(9), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "::1", &sin6_addr), sin6_scope_id=0}, 28 <unfinished ...>"#,
                Some((false, "[::1]:9")),
            ),
            (r"7 <... connect resumed>) = -1 EINPROGRESS", None),
            (
                r#"7 connect(3<UNIX-STREAM:[9]>, {sa_family=AF_UNIX, sun_path="/run/x"}, 12) = 0"#,
                None,
            ),
            (
                r#"7 sendto(4<UDP:[9]>, ""..., 1, 0, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("127.0.0.1")}, 16) = 1"#,
                Some((false, "127.0.0.1:53")),
            ),
        ] {
            let expected = expected.map(|(is_tcp, to)| Socket {
                is_tcp,
                to: to.parse().unwrap(),
            });
            assert_eq!(socket(line), expected, "{line}");
        }
    }
}
