//! Tests many relays at once, and one that floods the API: they delay no other endpoint.

/// Tests that measure under load. No other test runs at the same time.
mod alone {
    use std::{
        collections::HashMap,
        sync::{Arc, Mutex},
        time::{Duration, Instant},
    };

    use client::{Client, CreateApiKey, OpenRelay, RelayAnswer, Scope};
    use e2e::{
        Alone, Api, Installation, Load, Receiver, Role, SOON, percentile, report, scaled, wait_for,
        wait_until,
    };
    use futures_util::future::join_all;
    use serde_json::{Value, json};
    use tokio::task::JoinSet;

    use super::super::{
        client,
        frames::{CLOSE, PING, PONG, Raw, TEXT, masked},
    };

    /// The leads of the events that a relay has received, and when it received each for the first time.
    type Seen = Arc<Mutex<HashMap<String, Instant>>>;

    const HEALTHY_PER_SECOND: u32 = 100;
    const ORGANIZATIONS: usize = 4;
    const RELAYS_PER_ORGANIZATION: usize = 50;
    const P99_MAX_MS: f64 = 50.0;
    /// The number of answers to requests that never were.
    const FLOOD: usize = 100_000;

    /// A system with a healthy endpoint, and the measurement of its latency.
    struct Measured {
        installation: Installation,
        api: Api,
        worker: Role,
        recorder: Role,
        healthy: Receiver,
    }

    impl Measured {
        async fn new(name: &str) -> Self {
            let installation = Installation::new(name).await;
            let (api, worker) = (Api::start(&installation).await, installation.worker().await);
            let healthy = Receiver::ok().await;
            installation.endpoint("org_healthy", &healthy.url()).await;
            Self {
                recorder: installation.recorder().await,
                installation,
                api,
                worker,
                healthy,
            }
        }

        /// Publishes events for the healthy endpoint until `until`, and asserts that they arrive in time. Returns the
        /// maximum for the p99 of a latency at that time, in milliseconds.
        async fn stays_fast(&self, campaign: &str, until: impl Future<Output = ()>) -> f64 {
            let alone = Alone::start(&self.installation).await;
            let (began, load) = (
                Instant::now(),
                Load::start(&self.installation, "org_healthy", HEALTHY_PER_SECOND),
            );
            until.await;
            let published = load.stop().await;
            let ended = Instant::now();
            wait_until("the healthy endpoint has everything", SOON, || {
                self.healthy.accepted() == published.len()
            })
            .await;
            let mut latencies = self.healthy.latencies_ms(&published);
            let p99_ms = percentile(&mut latencies, 99.0);
            let alone_ms = alone.late_ms(99.0, |due| due < ended);
            let lasted = ended - began;
            report(
                campaign,
                format!(
                    "{lasted:.0?}, {HEALTHY_PER_SECOND}/s to a healthy endpoint: p99 {p99_ms:.1} ms (of the broker alone {alone_ms:.1} ms)"
                ),
            );
            let max_ms = P99_MAX_MS + scaled(alone_ms, 0.0);
            assert!(p99_ms <= max_ms, "{p99_ms:.1} ms");
            max_ms
        }

        async fn end(self) {
            for role in [self.api.role, self.worker, self.recorder] {
                assert!(role.terminate().await);
            }
            self.installation.delete().await;
        }
    }

    /// A key of an organization that may open relays.
    async fn new_key(installation: &Installation, admin: &Client) -> String {
        let new = CreateApiKey::new("a laptop", [Scope::EndpointsWrite]);
        let key = admin.create_api_key(&new).await.unwrap().key.unwrap().0;
        installation.keep_secret(&key);
        key
    }

    /// Opens a relay, and answers its requests until the task is ended. Returns the events that it receives.
    async fn connect(client: Client, programs: &mut JoinSet<()>) -> Seen {
        let relay = client.open_relay(&OpenRelay::default()).await.unwrap();
        let mut connection = client.connect_relay(&relay.id).await.unwrap();
        let seen = Seen::default();
        let seeing = Arc::clone(&seen);
        programs.spawn(async move {
            while let Some(request) = connection.next().await.unwrap() {
                let now = Instant::now();
                let event: Value = serde_json::from_str(&request.body).unwrap();
                let lead = event["lead_id"].as_str().unwrap().to_owned();
                seeing.lock().unwrap().entry(lead).or_insert(now);
                let answer = RelayAnswer {
                    request: request.request,
                    status: Some(200),
                    retry_after: None,
                    body: String::new(),
                };
                connection.answer(&answer).await.unwrap();
            }
        });
        seen
    }

    /// Returns how many of these events a relay has not received.
    fn missing(published: &[(String, Instant)], seen: &Seen) -> usize {
        let seen = seen.lock().unwrap();
        let missing = published.iter().filter(|(lead, _)| !seen.contains_key(lead));
        missing.count()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn beside_200_relays_the_p99_of_a_healthy_endpoint_stays_below_50_ms() {
        let measured = Measured::new("relays").await;
        let (installation, api) = (&measured.installation, &measured.api);
        let lasts = scaled(Duration::from_secs(12), Duration::from_mins(1));
        let (mut programs, mut events) = (JoinSet::new(), Vec::new());
        for organization in 0..ORGANIZATIONS {
            let admin = installation.key(&format!("org_{organization}"), "admin").await;
            let admin = client(api.url(), &admin);
            let mut of_organization = Vec::new();
            for _ in 0..RELAYS_PER_ORGANIZATION {
                let key = new_key(installation, &admin).await;
                of_organization.push(connect(client(api.url(), &key), &mut programs).await);
            }
            events.push(of_organization);
        }
        let noise: Vec<_> = (0..ORGANIZATIONS)
            .map(|organization| Load::start(installation, &format!("org_{organization}"), 1))
            .collect();
        let began = Instant::now();
        let lasting = wait_until("the load has lasted", lasts + SOON, || began.elapsed() >= lasts);
        measured.stays_fast("200 relays", lasting).await;
        let published = join_all(noise.into_iter().map(Load::stop)).await;
        for (published, events) in published.iter().zip(&events) {
            assert!(published.len() >= 5, "{}", published.len());
            wait_for("every relay has all of its events", SOON, || async {
                let missing: Vec<_> = events.iter().map(|seen| missing(published, seen)).collect();
                let has_all = missing.iter().all(|missing| *missing == 0);
                has_all
                    .then_some(())
                    .ok_or_else(|| format!("of {} are missing: {missing:?}", published.len()))
            })
            .await;
        }
        assert!(programs.try_join_next().is_none(), "a program was disconnected");
        programs.shutdown().await;
        measured.end().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_flood_of_answers_delays_neither_another_relay_nor_a_healthy_endpoint() {
        let measured = Measured::new("relay-flood").await;
        let (installation, api) = (&measured.installation, &measured.api);
        let flooding = installation.key("org_1", "endpoints:write").await;
        let relay = client(api.url(), &flooding)
            .open_relay(&OpenRelay::default())
            .await
            .unwrap();
        let mut raw = Raw::connected(api.url(), &flooding, &relay.id).await;
        let (mut programs, other) = (JoinSet::new(), installation.key("org_2", "endpoints:write").await);
        let seen = connect(client(api.url(), &other), &mut programs).await;
        let noise = Load::start(installation, "org_2", 10);
        let flood = async {
            let body = "x".repeat(1000);
            for number in 0..FLOOD {
                let answer = json!({ "request": number.to_string(), "status": 200, "body": body });
                raw.write(&masked(TEXT, answer.to_string().as_bytes())).await;
            }
            // The answer to this ping says that the API has read all of them.
            raw.send(PING, b"the end").await;
            loop {
                let frame = raw.read().await.expect("the API has not ended the connection");
                assert_ne!(frame.first, CLOSE, "{:?}", frame.payload);
                if frame.first == PONG && frame.payload == b"the end" {
                    return;
                }
            }
        };
        let max_ms = measured.stays_fast("a flood of answers", flood).await;
        let published = noise.stop().await;
        wait_until("the other relay has all of its events", SOON, || {
            missing(&published, &seen) == 0
        })
        .await;
        let mut latencies: Vec<_> = {
            let seen = seen.lock().unwrap();
            let took = published.iter().map(|(lead, at)| seen[lead] - *at);
            took.map(|took| took.as_secs_f64() * 1000.0).collect()
        };
        let p99_ms = percentile(&mut latencies, 99.0);
        assert!(p99_ms <= max_ms, "{p99_ms:.1} ms to the other relay");
        assert!(
            programs.try_join_next().is_none(),
            "the other program was disconnected"
        );
        programs.shutdown().await;
        measured.end().await;
    }
}
