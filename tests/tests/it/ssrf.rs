//! Tests URLs that lead to internal addresses: no connection is made to them, neither when an endpoint is
//! created nor when an event is delivered. The kernel provides the proof: `strace` records every address that
//! a socket was used with.

mod urls;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use e2e::{Answer, Found, Installation, Names, Receiver, Reply, SOON, Trace, event, wait_for};
use futures_util::{StreamExt as _, stream};
use tokio::net::TcpListener;

use self::urls::{ADDRESSES, LOCAL_NAMES, NAMES, NEVER};

/// The number of commands that run concurrently.
const COMMANDS_MAX: usize = 4;

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

async fn names() -> Names {
    Names::start(|name, _| match NAMES.iter().find(|(known, ..)| *known == name) {
        Some(("alias.example.com", list, _)) => Reply::Alias("inside.example.org", ips(list)),
        Some((_, list, _)) => Reply::Addresses(ips(list)),
        // A client that receives an alias without an address of the requested family asks for the target of
        // the alias.
        None if name == "inside.example.org" => Reply::Addresses(ips(&["127.0.0.1"])),
        None => panic!("asked for {name}"),
    })
    .await
}

/// Returns the URLs that can be stored only if their network is allowed, each with a word from the reason for
/// its refusal.
fn storable() -> Vec<(String, &'static str)> {
    let addresses = ADDRESSES.iter().map(|(url, word)| ((*url).to_owned(), *word));
    let names = NAMES
        .iter()
        .map(|(name, _, word)| (format!("http://{name}/hook"), *word));
    let local = LOCAL_NAMES.iter().map(|url| ((*url).to_owned(), "loopback"));
    let all: Vec<_> = addresses.chain(names).chain(local).collect();
    assert!(all.len() >= 100, "only {} URLs", all.len());
    all
}

/// Creates an installation that allows only these networks.
async fn installation(name: &str, allow: &str, names: &Names) -> Installation {
    let mut installation = Installation::with_delays(name, &[100]).await;
    installation.set("MAGNETITE_EGRESS__ALLOW", allow);
    installation.set("MAGNETITE_EGRESS__NAME_SERVERS", &names.address().to_string());
    installation
}

/// Runs `endpoint create` for each URL, a few concurrently, for the organizations `org_0`, `org_1` and so on.
/// If `traced`, each command is traced into a separate file.
async fn create(
    installation: &Installation,
    urls: Vec<String>,
    traced: bool,
) -> Vec<(std::process::Output, Option<Trace>)> {
    let creating = urls.into_iter().enumerate().map(|(number, url)| async move {
        let organization = format!("org_{number}");
        let mut command = installation.command(&[
            "endpoint",
            "create",
            "--org",
            &organization,
            "--url",
            &url,
            "--json",
        ]);
        if traced {
            let (mut command, trace) = Trace::of(&command, trace_file(installation, number));
            (command.output().await.unwrap(), Some(trace))
        } else {
            (command.output().await.unwrap(), None)
        }
    });
    stream::iter(creating).buffered(COMMANDS_MAX).collect().await
}

/// Returns an event about `lead` for each of the organizations `org_0`, `org_1` and so on.
fn events(organizations: usize, lead: &str) -> Vec<String> {
    (0..organizations)
        .map(|number| event(&format!("org_{number}"), lead))
        .collect()
}

fn trace_file(installation: &Installation, number: usize) -> PathBuf {
    installation.directory().join(format!("create-{number}.strace"))
}

/// Panics if a socket was used with any address other than those of the broker, the name server and `more`.
fn assert_only(trace: &Trace, what: &str, broker: Option<&Installation>, names: &Names, more: &[SocketAddr]) {
    let broker_port = broker.map(Installation::broker_port);
    for socket in trace.sockets() {
        let is_known = if socket.is_tcp {
            Some(socket.to.port()) == broker_port || more.contains(&socket.to)
        } else {
            socket.to == names.address()
        };
        assert!(is_known, "{what}: {socket:?}");
    }
}

/// Panics unless two attempts failed as the endpoint's failure, before any connection was made.
fn assert_refused(letter: &Found, what: &str, word: &str) {
    let error = letter.header("magnetite-last-error");
    assert!(
        error.starts_with("address_refused in resolve: "),
        "{what}: {error}"
    );
    assert!(error.contains(word), "{what}: {error}");
    for (name, value) in [
        ("magnetite-reason", "exhausted"),
        ("magnetite-attempts", "2"),
        ("magnetite-last-status", ""),
    ] {
        assert_eq!(letter.header(name), value, "{what}: {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hostile_url_becomes_an_endpoint_and_none_is_connected_to_to_find_out() {
    Trace::need().await;
    let names = names().await;
    let installation = installation("ssrf-create", "", &names).await;
    let mut refused = storable();
    refused.extend(NEVER.iter().map(|(url, word)| ((*url).to_owned(), *word)));
    let urls = refused.iter().map(|(url, _)| url.clone()).collect();
    let mut asked = 0;
    for ((url, word), (output, trace)) in refused.iter().zip(create(&installation, urls, true).await) {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{url}: {stderr}");
        assert!(stderr.contains(word), "{url}: {stderr}");
        let trace = trace.unwrap();
        assert_only(&trace, url, None, &names, &[]);
        asked += usize::from(!trace.sockets().is_empty());
    }
    assert_eq!(asked, NAMES.len(), "the trace shows whose name was looked up");
    assert_eq!(installation.cli_ok(&["endpoint", "list", "--json"]).await, "");
    installation.delete().await;
}

/// Uses the same URLs, stored while every network was allowed.
#[tokio::test(flavor = "multi_thread")]
async fn no_hostile_url_in_the_store_is_connected_to_at_sending() {
    Trace::need().await;
    let names = names().await;
    let mut installation = installation("ssrf-send", "0.0.0.0/0,::/0", &names).await;
    let refused = storable();
    let urls = refused.iter().map(|(url, _)| url.clone()).collect();
    let mut ids = Vec::new();
    for ((url, _), (output, _)) in refused.iter().zip(create(&installation, urls, false).await) {
        assert!(output.status.success(), "{url}: {output:?}");
        let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        ids.push(printed["id"].as_str().unwrap().to_owned());
    }
    let never: Vec<_> = NEVER.iter().map(|(url, _)| (*url).to_owned()).collect();
    for ((url, word), (output, _)) in NEVER.iter().zip(create(&installation, never, false).await) {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && stderr.contains(word),
            "{url}: {stderr}"
        );
    }

    installation.set("MAGNETITE_EGRESS__ALLOW", "");
    let (worker, trace) = installation.traced_worker().await;
    let events = events(refused.len(), "lead_1");
    installation.amqp().publish(&events).await;
    installation
        .amqp()
        .wait_for_ready("dead", refused.len() as u32, SOON)
        .await;
    let letters = installation.amqp().dead_letters().await;
    for ((url, word), id) in refused.iter().zip(&ids) {
        assert_refused(&letters[id], url, word);
    }
    assert!(worker.terminate().await);
    assert_only(&trace, "the worker", Some(&installation), &names, &[]);
    let sockets = trace.sockets();
    assert!(
        sockets.iter().any(|socket| socket.is_tcp) && sockets.iter().any(|socket| !socket.is_tcp),
        "the trace shows neither the broker nor the name server"
    );
    installation.delete().await;
}

/// Sockets on the same port of several addresses of this machine. The first one is the endpoint; requests to
/// the others are counted.
struct Neighbours {
    served: Receiver,
    address: SocketAddr,
    others: Vec<Receiver>,
}

impl Neighbours {
    async fn listen(serves: &str, others: &[&str]) -> Self {
        'ports: loop {
            let listener = TcpListener::bind((serves, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut receivers = Vec::new();
            for other in others {
                // Another process uses this port, so try the next one.
                let Ok(listener) = TcpListener::bind((*other, address.port())).await else {
                    continue 'ports;
                };
                receivers.push(Receiver::at(listener, |_, _| Answer::status(200)));
            }
            // Closes the connection, so that every attempt resolves the name again.
            let served = Receiver::at(listener, |_, _| {
                Answer::Status(200, vec![("connection", "close".to_owned())])
            });
            return Self {
                served,
                address,
                others: receivers,
            };
        }
    }

    fn assert_others_unasked(&self) {
        assert!(self.others.iter().all(|other| other.count() == 0));
    }
}

/// The names lead to public addresses when the endpoint is created, and to this machine when an event is
/// delivered.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_public_at_creation_is_not_connected_to_once_it_leads_inside() {
    const REBOUND: [(&str, &[&str], &str); 5] = [
        ("one.rebind.example.com", &["127.0.0.1"], "loopback"),
        ("two.rebind.example.com", &["::1"], "loopback"),
        ("three.rebind.example.com", &["::ffff:127.0.0.1"], "loopback"),
        (
            "four.rebind.example.com",
            &["169.254.169.254", "127.0.0.1"],
            "link-local",
        ),
        ("five.rebind.example.com", &["10.0.0.1", "fd00::1"], "private"),
    ];
    Trace::need().await;
    let inside = Arc::new(AtomicBool::new(false));
    let is_inside = Arc::clone(&inside);
    let names = Names::start(move |name, _| {
        let (_, list, _) = REBOUND.iter().find(|(known, ..)| *known == name).unwrap();
        Reply::Addresses(ips(if is_inside.load(Ordering::SeqCst) {
            list
        } else {
            &["93.184.216.34", "2606:4700:4700::1111"]
        }))
    })
    .await;
    let mut installation = installation("ssrf-rebind", "", &names).await;
    installation.set("MAGNETITE_EGRESS__ALLOW_HTTP", "true");
    let listening = Neighbours::listen("127.0.0.1", &["::1"]).await;
    let urls = REBOUND.map(|(name, ..)| format!("http://{name}:{}/hook", listening.address.port()));
    let mut ids = Vec::new();
    for ((output, trace), url) in create(&installation, urls.to_vec(), true)
        .await
        .into_iter()
        .zip(&urls)
    {
        assert!(output.status.success(), "{url}: {output:?}");
        let tcp = trace
            .unwrap()
            .sockets()
            .into_iter()
            .filter(|socket| socket.is_tcp);
        assert_eq!(tcp.collect::<Vec<_>>(), [], "{url}");
        let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        ids.push(printed["id"].as_str().unwrap().to_owned());
    }
    inside.store(true, Ordering::SeqCst);
    let (worker, trace) = installation.traced_worker().await;
    let events = events(REBOUND.len(), "lead_1");
    installation.amqp().publish(&events).await;
    let amqp = installation.amqp();
    amqp.wait_for_ready("dead", REBOUND.len() as u32, SOON).await;
    let letters = amqp.dead_letters().await;
    for ((name, _, word), id) in REBOUND.iter().zip(&ids) {
        assert_refused(&letters[id], name, word);
        assert!(letters[id].header("magnetite-last-error").contains(name));
    }
    assert!(worker.terminate().await);
    assert_only(&trace, "the worker", Some(&installation), &names, &[]);
    assert_eq!(listening.served.count(), 0);
    listening.assert_others_unasked();
    installation.delete().await;
}

/// Represents the public address, because only this address is allowed. All other addresses of this machine
/// are internal.
const OUTSIDE: &str = "127.9.9.9";
/// Names that lead outside and inside: in turn, at once, and in different address families.
const MIXED: [&str; 3] = [
    "alternates.example.com",
    "mixes.example.com",
    "families.example.com",
];

async fn mixing_names() -> Names {
    Names::start(|name, before| {
        Reply::Addresses(ips(match (name, before / 2 % 2) {
            ("alternates.example.com", 0) => &[OUTSIDE],
            ("alternates.example.com", _) => &["127.0.0.1"],
            ("mixes.example.com", _) => &["10.0.0.1", "127.0.0.1", OUTSIDE, "::1", "::ffff:127.0.0.1"],
            ("families.example.com", _) => &[OUTSIDE, "::1"],
            _ => panic!("asked for {name}"),
        }))
    })
    .await
}

/// Publishes an event for each of [`MIXED`] again and again, until each name was connected to often and the
/// one that alternates was refused often. Returns the number of events.
async fn publish_until_used_and_refused(installation: &Installation, served: &Receiver) -> usize {
    let published = std::cell::Cell::new(0_usize);
    wait_for("the answer was used and refused in turn, twice", SOON, || async {
        let events = events(MIXED.len(), &published.get().to_string());
        installation.amqp().publish(&events).await;
        published.set(published.get() + 1);
        let requests = served.requests();
        let from = |name: &str| {
            requests
                .iter()
                .filter(|request| request.header("host").starts_with(name))
                .count()
        };
        let counts = MIXED.map(from);
        let dead = installation.amqp().ready("dead").await;
        if counts.iter().all(|count| *count >= 20) && dead >= 20 {
            Ok(())
        } else {
            Err(format!("{counts:?} served, {dead} dead"))
        }
    })
    .await;
    MIXED.len() * published.get()
}

/// Waits until this many events are delivered or dead.
async fn wait_until_ended(installation: &Installation, served: &Receiver, total: usize) {
    wait_for("each is delivered or dead", SOON, || async {
        let (served, dead) = (served.distinct(), installation.amqp().ready("dead").await);
        if served + dead as usize >= total {
            Ok(())
        } else {
            Err(format!("{served} served and {dead} dead of {total}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_changes_or_mixes_its_answers_gets_nobody_connected_to_what_is_inside() {
    Trace::need().await;
    let names = mixing_names().await;
    let installation = installation("ssrf-mixed", &format!("{OUTSIDE}/32"), &names).await;
    let listening = Neighbours::listen(OUTSIDE, &["127.0.0.1", "::1"]).await;
    let urls = MIXED.map(|name| format!("http://{name}:{}/hook", listening.address.port()));
    for (output, trace) in create(&installation, urls.to_vec(), true).await {
        assert!(output.status.success(), "{output:?}");
        assert!(trace.unwrap().sockets().iter().all(|socket| !socket.is_tcp));
    }
    let (worker, trace) = installation.traced_worker().await;
    let total = publish_until_used_and_refused(&installation, &listening.served).await;
    wait_until_ended(&installation, &listening.served, total).await;
    assert!(worker.terminate().await);
    let letters = installation.amqp().drain("dead").await;
    for letter in &letters {
        assert_refused(
            letter,
            "alternates.example.com",
            "alternates.example.com resolves to 127.0.0.1",
        );
    }
    assert_eq!(
        listening.served.distinct() + letters.len(),
        total,
        "each was delivered or is dead"
    );
    assert_only(
        &trace,
        "the worker",
        Some(&installation),
        &names,
        &[listening.address],
    );
    let sockets = trace.sockets();
    let seen = sockets.iter().filter(|socket| socket.to == listening.address);
    assert!(
        seen.count() >= 60,
        "the trace does not show what was connected to"
    );
    listening.assert_others_unasked();
    installation.delete().await;
}
