//! Tests relays while parts of the system are away: the API, the worker and the broker. What was published is received
//! when they are back.

use std::time::Duration;

use client::{OpenRelay, RelayAnswer, RelayClosed, RelayConnection};
use e2e::{Api, Cut, Installation, Node, Proxy, Role, SOON, event, free_port};
use tokio::time::timeout;

use super::{Rig, TOLD_MAX, client};

/// Delays that bridge a restart.
const DELAYS_MS: [u64; 8] = [200, 500, 1000, 2000, 4000, 4000, 8000, 8000];
const LONG: Duration = Duration::from_mins(2);

/// Starts the API at this port, and waits until it is ready.
async fn api_at(installation: &Installation, port: u16) -> Role {
    let mut command = installation.command(&["api"]);
    command.env("MAGNETITE_API__LISTEN", format!("127.0.0.1:{port}"));
    let role = installation.launch(command, "api");
    role.wait_until_ready().await;
    role
}

/// Waits for a request about this lead, and answers every request with 200.
async fn receives(connection: &mut RelayConnection, lead: &str) {
    let receiving = async {
        loop {
            let request = connection.next().await.unwrap().expect("the connection goes on");
            let is_it = request.body.contains(&format!("\"{lead}\""));
            let answer = RelayAnswer {
                request: request.request,
                status: Some(200),
                retry_after: None,
                body: String::new(),
            };
            connection.answer(&answer).await.unwrap();
            if is_it {
                return;
            }
        }
    };
    timeout(SOON, receiving).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn listen_connects_again_to_an_api_that_was_restarted() {
    let installation = Installation::with_delays("relay-api", &DELAYS_MS).await;
    let (port, rig) = (free_port(), Rig::on(installation).await);
    let url = format!("http://127.0.0.1:{port}");
    for kill in [false, true] {
        let api = api_at(&rig.installation, port).await;
        let mut listen = rig.listen_at(&url, &rig.key, &[]).await;
        rig.publish("lead_before").await;
        listen.prints_lead("lead_before").await;
        if kill {
            api.kill().await;
        } else {
            assert!(api.terminate().await);
        }
        listen.tells("the connection to the API was lost", SOON).await;
        // Meanwhile, its attempts fail and are repeated.
        let meanwhile = format!("lead_meanwhile_{kill}");
        rig.publish(&meanwhile).await;
        let api = api_at(&rig.installation, port).await;
        listen.tells("connected again", SOON).await;
        listen.prints_lead(&meanwhile).await;
        listen.signal("TERM").await;
        let endpoint = listen.endpoint.clone();
        assert_eq!(listen.ends().await.0, Some(0));
        assert!(rig.is_gone(&endpoint).await, "it is the same endpoint to the end");
        assert!(api.terminate().await);
    }
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_moves_from_one_api_process_to_another() {
    let installation = Installation::with_delays("relay-two", &DELAYS_MS).await;
    let rig = Rig::on(installation).await;
    let other = Api::start(&rig.installation).await;
    let [one, two] = [&rig.api, &other].map(|api| client(api.url(), &rig.key));
    let relay = one.open_relay(&OpenRelay::default()).await.unwrap();
    let mut at_one = one.connect_relay(&relay.id).await.unwrap();
    rig.publish("lead_1").await;
    receives(&mut at_one, "lead_1").await;

    // A second connection waits for the end of the first one, and is refused if that does not end.
    let refused = two.connect_relay(&relay.id).await.unwrap_err();
    assert_eq!(refused.problem().unwrap().name(), "overloaded", "{refused}");
    let (at_two, ()) = tokio::join!(two.connect_relay(&relay.id), at_one.close());
    let mut at_two = at_two.unwrap();
    rig.publish("lead_2").await;
    receives(&mut at_two, "lead_2").await;

    assert!(other.role.terminate().await);
    let closed = timeout(SOON, at_two.next()).await.unwrap().unwrap_err();
    assert!(matches!(closed, RelayClosed::Restart { .. }), "{closed:?}");
    let mut at_one = one.connect_relay(&relay.id).await.unwrap();
    rig.publish("lead_3").await;
    receives(&mut at_one, "lead_3").await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_leaves_behind_is_received_from_the_next_one() {
    let installation = Installation::with_delays("relay-worker", &DELAYS_MS).await;
    let mut rig = Rig::on(installation).await;
    let mut listen = rig.listen(&[]).await;
    for kill in [false, true] {
        let worker = rig.worker;
        if kill {
            worker.kill().await;
        } else {
            assert!(worker.terminate().await);
        }
        let [meanwhile, after] = ["meanwhile", "after"].map(|when| format!("lead_{when}_{kill}"));
        rig.installation
            .amqp()
            .publish(&[event("org_1", &meanwhile)])
            .await;
        rig.worker = rig.installation.worker().await;
        listen.prints_lead(&meanwhile).await;
        let id = rig.publish(&after).await;
        listen.prints_lead(&after).await;
        rig.delivery(&id, "delivered").await;
    }
    drop(listen);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listen_goes_on_after_the_broker_was_killed() {
    let node = Node::start().await;
    let installation = Installation::with("relay-broker", node.url(), &DELAYS_MS, &[]).await;
    let rig = Rig::on(installation).await;
    let mut listen = rig.listen(&[]).await;
    rig.publish("lead_before").await;
    listen.prints_lead("lead_before").await;
    node.kill().await;
    listen.tells("the connection to the API was lost", SOON).await;
    node.start_again().await;
    listen.tells("connected again", LONG).await;
    let amqp = rig.installation.connect().await;
    amqp.publish(&[event("org_1", "lead_after")]).await;
    listen.prints_lead("lead_after").await;
    drop((listen, amqp));
    for role in [rig.api.role, rig.worker, rig.recorder] {
        assert!(role.terminate().await);
    }
}

/// The network loses the connection without a word, as when a laptop leaves its network.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_half_open_is_given_up_on_both_sides() {
    let installation = Installation::with_delays("relay-stalled", &DELAYS_MS).await;
    let rig = Rig::on(installation).await;
    let proxy = Proxy::to(rig.api.url()).await;
    let mut listen = rig.listen_at(&proxy.url(), &rig.key, &[]).await;
    rig.publish("lead_before").await;
    listen.prints_lead("lead_before").await;
    proxy.stall();
    listen.tells("the connection to the API was lost", SOON).await;
    proxy.resume();
    listen.tells("connected again", LONG).await;
    rig.publish("lead_after").await;
    listen.prints_lead("lead_after").await;
    drop(listen);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_is_made_again_each_time() {
    let installation = Installation::with_delays("relay-cut", &DELAYS_MS).await;
    let rig = Rig::on(installation).await;
    let proxy = Proxy::to(rig.api.url()).await;
    let mut listen = rig.listen_at(&proxy.url(), &rig.key, &[]).await;
    for (number, how) in [Cut::Reset, Cut::Close, Cut::Reset].into_iter().enumerate() {
        proxy.cut(how);
        listen.tells("the connection to the API was lost", SOON).await;
        let lead = format!("lead_{number}");
        rig.publish(&lead).await;
        listen.tells("connected again", TOLD_MAX).await;
        listen.prints_lead(&lead).await;
    }
    drop(listen);
    rig.end().await;
}
