//! Tests a standard error that is full, has no reader, or is blocked: the work continues, and lost lines are
//! counted.

use std::path::Path;

use e2e::{Answer, Collector, Installation, Receiver, Role, SOON, event, wait_for, wait_until};
use tokio::{io::AsyncReadExt as _, time::timeout};

const EVENTS: usize = 50;
/// With this filter, every attempt logs at least one line.
const FILTER: &str = "info";

/// A worker whose endpoint fails once for each event, and a recorder.
struct Scene {
    installation: Installation,
    receiver: Receiver,
    roles: [Role; 2],
    published: usize,
}

impl Scene {
    async fn set(name: &str, stderr: &Path, filter: &str) -> Self {
        let installation = Installation::with_delays(name, &[200]).await;
        let receiver = Receiver::new(|_, before| Answer::status(if before == 0 { 500 } else { 200 })).await;
        installation.endpoint("org_1", &receiver.url()).await;
        let roles = ["worker", "recorder"].map(|role| installation.start_logging_to(role, stderr, filter));
        for role in &roles {
            role.wait_until_ready().await;
        }
        Self {
            installation,
            receiver,
            roles,
            published: 0,
        }
    }

    /// Publishes events, and waits until each is delivered with its second attempt.
    async fn deliver(&mut self) {
        let leads = self.published..self.published + EVENTS;
        let events: Vec<_> = leads
            .map(|lead| event("org_1", &format!("lead_{lead}")))
            .collect();
        self.installation.amqp().publish(&events).await;
        self.published += EVENTS;
        wait_until("all are delivered", SOON, || {
            self.receiver.accepted() == self.published
        })
        .await;
        self.receiver.assert_attempts(&[1, 2]);
    }

    async fn lost(&self) -> f64 {
        self.roles[0].metric("magnetite_log_lines_lost_total", "").await
    }

    async fn loses_lines(&self) {
        wait_for("lines are lost and counted", SOON, || async {
            let lost = self.lost().await;
            if lost > 0.0 {
                Ok(())
            } else {
                Err(format!("{lost}"))
            }
        })
        .await;
    }

    /// Waits until everything is recorded, and terminates the roles, which exit as usual.
    async fn end(self) {
        let published = self.published as u64;
        wait_for("the journal has all", SOON, || async {
            let audit = self.installation.audit().await;
            let delivered = audit.number("/deliveries/delivered");
            if delivered == published {
                Ok(())
            } else {
                Err(format!("{delivered} of {published}"))
            }
        })
        .await;
        for role in self.roles {
            assert!(role.get("/readyz").await.unwrap().contains("200 OK"));
            assert!(role.terminate().await, "it ends in order");
        }
        self.installation.delete().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_log_stops_nothing() {
    let mut scene = Scene::set("logfull", Path::new("/dev/full"), FILTER).await;
    scene.deliver().await;
    scene.loses_lines().await;
    scene.deliver().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_collector_that_goes_away_stops_nothing_and_learns_later_what_it_missed() {
    let mut collector = Collector::new();
    let mut scene = Scene::set("loggone", &collector.path(), FILTER).await;
    collector.leave();
    scene.deliver().await;
    scene.loses_lines().await;

    collector.come_back();
    scene.deliver().await;
    let (mut reader, mut read) = (collector.reader.take().unwrap(), Vec::new());
    let says = async {
        while !String::from_utf8_lossy(&read).contains("log lines were lost") {
            assert_ne!(
                reader.read_buf(&mut read).await.unwrap(),
                0,
                "the roles write to it"
            );
        }
    };
    let told = timeout(SOON, says).await;
    assert!(told.is_ok(), "nothing says that lines were lost");
    drop(reader);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_collector_that_reads_nothing_stops_nothing() {
    let collector = Collector::new();
    let everything = "trace";
    let mut scene = Scene::set("logstuck", &collector.path(), everything).await;
    while scene.lost().await == 0.0 {
        assert!(scene.published < 100 * EVENTS, "the pipe takes everything");
        scene.deliver().await;
    }
    scene.deliver().await;
    scene.end().await;
    drop(collector);
}
