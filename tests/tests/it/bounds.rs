//! Tests the limits on what one client can use of a process: its connections, slow bodies, pings and
//! endpoints.

use std::{
    fs,
    time::{Duration, Instant},
};

use e2e::{Answer, Api, Installation, Receiver, Role, SOON, event, report, wait_until};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

/// The number of files that this process may open, which is above the usual default.
const DESCRIPTORS: u64 = 4096;

fn descriptors(role: &Role) -> usize {
    fs::read_dir(format!("/proc/{}/fd", role.pid())).unwrap().count()
}

/// Opens a connection and sends the head of a request and the first bytes of its body. A write error is
/// ignored: it means that the connection is already closed.
async fn begin_publish(api: &str, key: &str, length: usize, body: &[u8]) -> TcpStream {
    let address = api.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body).await;
    stream
}

/// Publishes events one after the other and returns the longest time that one took. Panics unless each is
/// confirmed.
async fn publish(api: &Api, key: &str, organization: &str, count: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for number in 0..count {
        let asked = Instant::now();
        let event = event(organization, &format!("lead_{number}"));
        let published = api.send("POST", "/v1/events", key, &[], event).await;
        assert_eq!(published.status, 202, "{published:?}");
        slowest = slowest.max(asked.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_of_an_endpoint_that_hangs_leave_those_of_others_alone() {
    const PINGS: usize = 40;
    let installation = Installation::new("bounds-pings").await;
    let api = Api::start(&installation).await;
    let (worker, recorder) = (installation.worker().await, installation.recorder().await);
    let [hanging, well] = [Receiver::new(|_, _| Answer::Hang).await, Receiver::ok().await];
    let [first, second] = [
        installation.endpoint("org_1", &hanging.url()).await,
        installation.endpoint("org_2", &well.url()).await,
    ];
    let [greedy, other] = [
        installation.key("org_1", "endpoints:write").await,
        installation.key("org_2", "endpoints:write").await,
    ];
    let mut pings = JoinSet::new();
    for _ in 0..PINGS {
        let request = api.request("POST", &format!("/v1/endpoints/{}/ping", first.id), &greedy);
        pings.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    // A key may use 8 of the 32 places.
    let is_refused = async |pings: &mut JoinSet<u16>, count: usize| {
        for _ in 0..count {
            assert_eq!(pings.join_next().await.unwrap().unwrap(), 503);
        }
    };
    is_refused(&mut pings, PINGS - 32).await;
    let path = format!("/v1/endpoints/{}/ping", second.id);
    for _ in 0..3 {
        let pinged = api.send("POST", &path, &other, &[], "").await;
        assert_eq!(
            (pinged.status, &pinged.body["ok"]),
            (200, &json!(true)),
            "{pinged:?}"
        );
    }
    is_refused(&mut pings, 32 - 8).await;
    wait_until("the others wait for the endpoint", SOON, || hanging.count() == 8).await;
    hanging.release();
    while let Some(status) = pings.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert!(worker.terminate().await && recorder.terminate().await && api.role.terminate().await);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_gets_no_more_endpoints_than_it_may_have() {
    let mut installation = Installation::new("bounds-endpoints").await;
    installation.set("MAGNETITE_ENDPOINTS__PER_ORGANIZATION_MAX", "3");
    let api = Api::start(&installation).await;
    let key = installation.key("org_1", "endpoints:write").await;
    let other = installation.key("org_2", "endpoints:write").await;
    let receiver = Receiver::ok().await;
    let json = json!({ "url": receiver.url() }).to_string();
    let create = async |key: &str| api.send("POST", "/v1/endpoints", key, &[], json.clone()).await;
    let first = installation.endpoint("org_1", &receiver.url()).await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let created = create(&key).await;
        statuses.push(created.status);
        if created.status == 409 {
            assert_eq!(created.problem(), "too-many-endpoints", "{created:?}");
        } else {
            installation.keep_secret(created.body["secret"].as_str().unwrap());
        }
    }
    assert_eq!(statuses, [201, 201, 409, 409]);
    let command = ["endpoint", "create", "--org", "org_1", "--url", &receiver.url()];
    let refused = installation.cli(&command).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("organization org_1 has 3 endpoints already"),
        "{said}"
    );
    assert!(said.contains("endpoints.per_organization_max"), "{said}");

    assert_eq!(create(&other).await.status, 201);
    installation.cli_ok(&["endpoint", "delete", &first.id]).await;
    installation.endpoint("org_1", &receiver.url()).await;
    assert!(api.role.terminate().await);
    installation.delete().await;
}

mod alone {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn with_1450_connections_that_send_nothing_a_probe_answers_within_a_second() {
        const CONNECTIONS: usize = 1450;
        /// The maximum number of concurrent connections to the port, plus some that are being closed.
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
                // Half of them stop in the middle of a header. A write error means that the connection is
                // already closed.
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

    #[tokio::test(flavor = "multi_thread")]
    async fn bodies_that_do_not_arrive_refuse_no_publish_of_another_key() {
        const SLOW: usize = 512;
        rlimit::increase_nofile_limit(DESCRIPTORS).unwrap();
        let installation = Installation::new("bounds-slow").await;
        let api = Api::start(&installation).await;
        let greedy = installation.key("org_1", "events:write").await;
        let others = [
            (installation.key("org_1", "events:write").await, "org_1"),
            (installation.key("org_2", "events:write").await, "org_2"),
        ];
        publish(&api, &others[0].0, "org_1", 1).await;
        let began = Instant::now();
        let mut slow = Vec::new();
        for _ in 0..SLOW {
            slow.push(begin_publish(api.url(), &greedy, 1000, b"{").await);
        }
        let mut slowest = Duration::ZERO;
        for (key, organization) in &others {
            slowest = slowest.max(publish(&api, key, organization, 100).await);
        }
        let lasted = began.elapsed();
        assert!(
            lasted < Duration::from_secs(4),
            "the bodies were given up before: {lasted:?}"
        );
        report(
            "512 bodies that do not arrive",
            format!("a publish took {slowest:.1?} at most"),
        );
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
        // The connection is closed long before the 10 s that a body may take.
        let mut answer = String::new();
        slow[0].read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
        drop(slow);
        publish(&api, &greedy, "org_1", 1).await;
        assert!(api.role.terminate().await);
        installation.delete().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn large_bodies_of_one_key_take_a_share_of_the_memory_for_bodies() {
        const BODIES: usize = 300;
        const MIB: usize = 1024 * 1024;
        rlimit::increase_nofile_limit(DESCRIPTORS).unwrap();
        let installation = Installation::new("bounds-large").await;
        let api = Api::start(&installation).await;
        let [greedy, other] = [
            installation.key("org_1", "events:write").await,
            installation.key("org_2", "events:write").await,
        ];
        publish(&api, &other, "org_2", 1).await;
        let before_mib = api.role.memory_max_mib();
        // Sends all but the last byte of all bodies at once.
        let mut sending = JoinSet::new();
        for _ in 0..BODIES {
            let (api, greedy) = (api.url().to_owned(), greedy.clone());
            sending.spawn(async move { begin_publish(&api, &greedy, MIB, &vec![b' '; MIB - 1]).await });
        }
        let mut open = Vec::new();
        while let Some(stream) = sending.join_next().await {
            open.push(stream.unwrap());
        }
        let slowest = publish(&api, &other, "org_2", 20).await;
        let grown_mib = api.role.memory_max_mib().saturating_sub(before_mib);
        report(
            "300 bodies of 1 MiB that lack a byte",
            format!("{grown_mib} MiB more at most, a publish of another key took {slowest:.1?} at most"),
        );
        // A key's share is 32 MiB. The buffers of sockets and of the allocator add to it.
        assert!(grown_mib < 128, "{grown_mib} MiB");
        drop(open);
        assert!(api.role.terminate().await);
        installation.delete().await;
    }
}
