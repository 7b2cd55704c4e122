//! What one client can take of a process: its connections.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test ends at the first surprise"
)]

use std::{
    fs,
    time::{Duration, Instant},
};

use e2e::{Installation, Receiver, Role, event, report, wait_until};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

const SOON: Duration = Duration::from_secs(20);
/// More than a process may open unless it is told otherwise.
const DESCRIPTORS: u64 = 4096;

fn descriptors(role: &Role) -> usize {
    fs::read_dir(format!("/proc/{}/fd", role.pid())).unwrap().count()
}

mod alone {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn with_1450_connections_that_send_nothing_a_probe_answers_within_a_second() {
        const CONNECTIONS: usize = 1450;
        /// The connections that the port has at once, and a few that are just closing.
        const DESCRIPTORS_MAX: usize = 64 + 32;
        rlimit::increase_nofile_limit(DESCRIPTORS).unwrap();
        let installation = Installation::new("bounds-probes").await;
        let receiver = Receiver::ok().await;
        installation.endpoint("org_1", &receiver.url()).await;
        let worker = installation.worker().await;
        let before = descriptors(&worker);
        let mut silent = Vec::new();
        let (mut most, mut slowest) = (0, Duration::ZERO);
        for number in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(("127.0.0.1", worker.port())).await.unwrap();
            if number % 2 == 0 {
                // Half of them stop in the middle of a header. An error says that it was closed already.
                let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nhost:").await;
            }
            silent.push(stream);
            if number % 50 == 49 {
                let asked = Instant::now();
                let answer = worker.get("/readyz").await.unwrap();
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                slowest = slowest.max(asked.elapsed());
                most = most.max(descriptors(&worker).saturating_sub(before));
            }
        }
        report(
            "1,450 silent connections to the probes' port",
            format!("{most} descriptors at most, a probe answers within {slowest:.1?}"),
        );
        assert!(most <= DESCRIPTORS_MAX, "{most} descriptors are taken");
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
        installation.amqp().publish(&[event("org_1", "lead_1")]).await;
        wait_until("deliveries go on", SOON, || receiver.count() == 1).await;
        assert!(worker.terminate().await);
        installation.delete().await;
    }
}
