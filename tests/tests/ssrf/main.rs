//! URLs that lead inside: none is connected to, at creation or at sending. The proof is the kernel's: every address that the
//! program pointed a socket at, by `strace`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test ends at the first surprise"
)]

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use e2e::{Answer, Found, Installation, Names, Receiver, Reply, Trace, event, wait_for};
use tokio::{net::TcpListener, sync::Semaphore};

const SOON: Duration = Duration::from_secs(20);
/// How many commands run at once.
const COMMANDS_MAX: usize = 4;

/// Addresses in every spelling, and what each is refused as.
#[rustfmt::skip]
const ADDRESSES: [(&str, &str); 83] = [
    ("http://127.0.0.1", "loopback"),
    ("http://127.0.0.1:8080/", "loopback"),
    ("http://127.255.255.254/", "loopback"),
    ("https://127.0.0.1:22/", "loopback"),
    // Short, decimal, hexadecimal, octal, mixed, padded.
    ("http://127.1/", "loopback"),
    ("http://127.0.1/", "loopback"),
    ("http://2130706433/", "loopback"),
    ("http://0x7f000001/", "loopback"),
    ("http://0x7f.1/", "loopback"),
    ("http://0x7F.0x0.0x0.0x1/", "loopback"),
    ("http://0177.0.0.1/", "loopback"),
    ("http://017700000001/", "loopback"),
    ("http://0177.0x0.0.1/", "loopback"),
    ("http://127.000.000.001/", "loopback"),
    ("http://127.0.0.1./", "loopback"),
    // Percent signs, fullwidth, ideographic full stops, circled and superscript digits, bold digits, a soft hyphen.
    ("http://%31%32%37.0.0.1/", "loopback"),
    ("http://127%2E0%2E0%2E1/", "loopback"),
    ("http://１２７.０.０.１/", "loopback"),
    ("http://127。0。0。1/", "loopback"),
    ("http://127．0｡0．1/", "loopback"),
    ("http://①②⑦.⓪.⓪.①/", "loopback"),
    ("http://¹²⁷.⁰.⁰.¹/", "loopback"),
    ("http://𝟭𝟮𝟳.𝟬.𝟬.𝟭/", "loopback"),
    ("http://127.0.0\u{ad}.1/", "loopback"),
    ("http://０ｘ７ｆ.1/", "loopback"),
    // What browsers forgive.
    ("http:\\\\127.0.0.1\\", "loopback"),
    ("http:127.0.0.1", "loopback"),
    ("http:///127.0.0.1", "loopback"),
    ("HTTP://127.0.0.1", "loopback"),
    ("http://[::1]/", "loopback"),
    ("http://[0:0:0:0:0:0:0:1]/", "loopback"),
    ("http://[0000::0001]:443/", "loopback"),
    // IPv4 in IPv6.
    ("http://[::ffff:127.0.0.1]/", "loopback"),
    ("http://[::ffff:7f00:1]/", "loopback"),
    ("http://[::FFFF:7F00:0001]/", "loopback"),
    ("http://[0:0:0:0:0:ffff:127.0.0.1]/", "loopback"),
    ("http://[::ffff:10.0.0.1]/", "private"),
    ("http://[::ffff:a9fe:a9fe]/", "link-local"),
    ("http://[::127.0.0.1]/", "IPv4-compatible"),
    ("http://[::7f00:1]/", "IPv4-compatible"),
    ("http://[64:ff9b::7f00:1]/", "NAT64"),
    ("http://[64:ff9b::169.254.169.254]/", "NAT64"),
    ("http://[64:ff9b:1::10.0.0.1]/", "NAT64"),
    ("http://[2002:7f00:1::]/", "6to4"),
    ("http://[2002:a9fe:a9fe::1]/", "6to4"),
    ("http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/", "Teredo"),
    ("http://[::ffff:0:7f00:1]/", "reserved"),
    ("http://[::]/", "unspecified"),
    ("http://0/", "unspecified"),
    ("http://0.0.0.0/", "unspecified"),
    ("http://0.1.2.3/", "unspecified"),
    ("http://10.0.0.1/", "private"),
    ("http://167772161/", "private"),
    ("http://172.16.0.1/", "private"),
    ("http://172.31.255.255/", "private"),
    ("http://192.168.1.1/", "private"),
    ("http://0300.0250.1.1/", "private"),
    // The clouds' metadata services and host agents.
    ("http://169.254.169.254/latest/meta-data/", "link-local"),
    ("http://0xa9fea9fe/", "link-local"),
    ("http://169.254.43518/", "link-local"),
    ("http://169.254.170.2/v2/credentials", "link-local"),
    ("http://100.100.100.200/", "carrier-grade NAT"),
    ("http://[fd00:ec2::254]/", "unique local"),
    ("http://168.63.129.16/", "cloud platform"),
    ("http://192.0.0.192/", "reserved"),
    ("http://[fe80::1]/", "link-local"),
    ("http://[febf::1]/", "link-local"),
    ("http://[fec0::1]/", "site-local"),
    ("http://[fc00::1]/", "unique local"),
    ("http://100.64.0.1/", "carrier-grade NAT"),
    ("http://203.0.113.1/", "documentation"),
    ("http://[2001:db8::1]/", "documentation"),
    ("http://198.18.0.1/", "benchmarking"),
    ("http://192.88.99.1/", "6to4"),
    ("http://224.0.0.1/", "multicast"),
    ("http://[ff02::1]/", "multicast"),
    ("http://240.0.0.1/", "reserved"),
    ("http://255.255.255.255/", "broadcast"),
    ("http://4294967295/", "broadcast"),
    ("http://[100::1]/", "discard-only"),
    ("http://[2001:20::1]/", "ORCHID"),
    ("http://[4000::1]/", "reserved"),
    ("http://[a000::1]/", "reserved"),
];

/// Names, where each leads, and what it is refused as.
#[rustfmt::skip]
const NAMES: [(&str, &[&str], &str); 22] = [
    ("loopback.example.com", &["127.0.0.1"], "loopback"),
    ("127.0.0.1.nip.example.com", &["127.0.0.1"], "loopback"),
    ("loopback6.example.com", &["::1"], "loopback"),
    ("both.example.com", &["127.0.0.1", "::1"], "loopback"),
    ("unspecified.example.com", &["0.0.0.0"], "unspecified"),
    ("unspecified6.example.com", &["::"], "unspecified"),
    ("ten.example.com", &["10.0.0.1"], "private"),
    ("several.example.com", &["10.0.0.1", "192.168.0.1", "172.16.0.1", "127.0.0.1"], "private"),
    ("metadata.google.internal", &["169.254.169.254"], "link-local"),
    ("metadata6.example.com", &["fd00:ec2::254"], "unique local"),
    ("kubernetes.default.svc.cluster.local", &["10.96.0.1"], "private"),
    ("carrier.example.com", &["100.64.0.1"], "carrier-grade NAT"),
    ("mapped.example.com", &["::ffff:127.0.0.1"], "loopback"),
    ("mapped-private.example.com", &["::ffff:192.168.0.1"], "private"),
    ("compatible.example.com", &["::127.0.0.1"], "IPv4-compatible"),
    ("translated.example.com", &["64:ff9b::7f00:1"], "NAT64"),
    ("tunnelled.example.com", &["2002:7f00:1::1"], "6to4"),
    ("teredo.example.com", &["2001:0:4136:e378:8000:63bf:80ff:fffe"], "Teredo"),
    ("multicast.example.com", &["224.0.0.1"], "multicast"),
    ("broadcast.example.com", &["255.255.255.255"], "broadcast"),
    ("xn--bcher-kva.example", &["127.0.0.1"], "loopback"),
    // An alias of a name inside.
    ("alias.example.com", &["127.0.0.1"], "loopback"),
];

/// Names of this machine in its own hosts file, which no name server is asked for.
const LOCAL_NAMES: [&str; 4] = [
    "http://localhost/",
    "http://LOCALHOST:8080/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "http://local\u{ad}host/",
];

/// What is refused wherever it leads: no setting lets it into the store, so that it cannot come to be sent to.
#[rustfmt::skip]
const NEVER: [(&str, &str); 30] = [
    ("gopher://127.0.0.1:6379/_INFO", "the scheme \"gopher\" is not supported"),
    ("file:///etc/passwd", "the scheme \"file\""),
    ("ftp://127.0.0.1/", "the scheme \"ftp\""),
    ("dict://127.0.0.1:11211/stats", "the scheme \"dict\""),
    ("ldap://127.0.0.1/", "the scheme \"ldap\""),
    ("tftp://127.0.0.1/", "the scheme \"tftp\""),
    ("ws://127.0.0.1/", "the scheme \"ws\""),
    ("unix:/run/docker.sock", "the scheme \"unix\""),
    ("jar:http://127.0.0.1!/", "the scheme \"jar\""),
    ("javascript:alert(1)", "the scheme \"javascript\""),
    ("data:text/plain,x", "the scheme \"data\""),
    ("http://example.com@127.0.0.1/", "user name or password"),
    ("http://example.com:80@127.0.0.1/", "user name or password"),
    ("http://127.0.0.1@93.184.216.34/", "user name or password"),
    ("http://127.0.0.1:80\\@93.184.216.34/#", "fragment"),
    ("http://93.184.216.34#@127.0.0.1/", "fragment"),
    ("http://93.184.216.34 @127.0.0.1/", "a space or a control character"),
    ("http://127.0.0.1\t/", "a space or a control character"),
    ("http://93.184.216.34/\r\nHost: 127.0.0.1", "a space or a control character"),
    ("http://127.0.0.1:0/", "port 0"),
    ("http://127.0.0.1:65536/", "not an absolute URL"),
    ("//127.0.0.1/", "not an absolute URL"),
    ("127.0.0.1/hook", "not an absolute URL"),
    ("http://256.0.0.1/", "not an absolute URL"),
    ("http://0x100000000/", "not an absolute URL"),
    ("http://127.0.0.1%00.example.com/", "not an absolute URL"),
    ("http://[::1%25lo]/", "not an absolute URL"),
    ("http://[::1/", "not an absolute URL"),
    ("http://localhost./", "not a DNS name"),
    ("http://.localhost/", "not a DNS name"),
];

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

async fn names() -> Names {
    Names::start(|name, _| match NAMES.iter().find(|(known, ..)| *known == name) {
        Some(("alias.example.com", list, _)) => Reply::Alias("inside.example.org", ips(list)),
        Some((_, list, _)) => Reply::Addresses(ips(list)),
        // Who gets an alias without an address of the wanted family asks for what it is an alias of.
        None if name == "inside.example.org" => Reply::Addresses(ips(&["127.0.0.1"])),
        None => panic!("asked for {name}"),
    })
    .await
}

/// The URLs that only an allowed network can get into the store, and what each is refused as.
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

/// An installation that allows no network but these.
async fn installation(name: &str, allow: &str, names: &Names) -> Installation {
    let mut installation = Installation::with_delays(name, &[100]).await;
    installation.set("MAGNETITE_EGRESS__ALLOW", allow);
    installation.set("MAGNETITE_EGRESS__NAME_SERVERS", &names.address().to_string());
    installation
}

/// Runs `endpoint create` for each URL, a few at once, each for an organization of its own: `org_0`, `org_1` and so on. Each
/// is traced into a file of its own if `traced`.
async fn create(
    installation: &Installation,
    urls: Vec<String>,
    traced: bool,
) -> Vec<(std::process::Output, Option<Trace>)> {
    let slots = Arc::new(Semaphore::new(COMMANDS_MAX));
    let creating = urls.into_iter().enumerate().map(|(number, url)| {
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
        let (slots, file) = (Arc::clone(&slots), trace_file(installation, number));
        tokio::spawn(async move {
            let _slot = slots.acquire().await.unwrap();
            if traced {
                let (mut command, trace) = Trace::of(&command, file);
                (command.output().await.unwrap(), Some(trace))
            } else {
                (command.output().await.unwrap(), None)
            }
        })
    });
    let mut outputs = Vec::new();
    for created in creating.collect::<Vec<_>>() {
        outputs.push(created.await.unwrap());
    }
    outputs
}

fn trace_file(installation: &Installation, number: usize) -> PathBuf {
    installation.directory().join(format!("create-{number}.strace"))
}

/// Panics if a socket was pointed at anything but the broker, the name server and `more`.
fn assert_only(trace: &Trace, what: &str, broker: Option<&Installation>, names: &Names, more: &[SocketAddr]) {
    let broker_port: Option<u16> = broker.map(|installation| {
        let url = installation.broker_url();
        let (_, authority) = url.rsplit_once('@').or(url.split_once("://")).unwrap();
        let authority = authority.split(['/', '?']).next().unwrap();
        let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        port.unwrap_or(5672)
    });
    for socket in trace.sockets() {
        let is_known = if socket.is_tcp {
            Some(socket.to.port()) == broker_port || more.contains(&socket.to)
        } else {
            socket.to == names.address()
        };
        assert!(is_known, "{what}: {socket:?}");
    }
}

fn by_endpoint(letters: Vec<Found>) -> HashMap<String, Found> {
    letters
        .into_iter()
        .map(|letter| (letter.header("magnetite-endpoint"), letter))
        .collect()
}

/// Charged as the endpoint's failure, twice, before anything was connected to.
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

/// The same URLs, stored while every network was allowed.
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
    let events: Vec<_> = (0..refused.len())
        .map(|number| event(&format!("org_{number}"), "lead_1"))
        .collect();
    installation.amqp().publish(&events).await;
    installation
        .amqp()
        .wait_for_ready("dead", refused.len() as u32, SOON)
        .await;
    let letters = by_endpoint(installation.amqp().drain("dead").await);
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

/// Sockets at one port of several addresses of this machine, the first of which serves; whoever connects to the others is
/// counted.
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
                // Taken by somebody else: another port.
                let Ok(listener) = TcpListener::bind((*other, address.port())).await else {
                    continue 'ports;
                };
                receivers.push(Receiver::at(listener, |_, _| Answer::status(200)));
            }
            // Closed, so that every attempt looks the name up again.
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

/// Public when the endpoint is created, this machine when it is sent to.
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
    let installation = installation("ssrf-rebind", "", &names).await;
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
    let events: Vec<_> = (0..REBOUND.len())
        .map(|number| event(&format!("org_{number}"), "lead_1"))
        .collect();
    installation.amqp().publish(&events).await;
    let amqp = installation.amqp();
    amqp.wait_for_ready("dead", REBOUND.len() as u32, SOON).await;
    let letters = by_endpoint(amqp.drain("dead").await);
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

/// 127.9.9.9 plays the public address, because it alone is allowed; everything else on this machine is inside.
#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_changes_or_mixes_its_answers_gets_nobody_connected_to_what_is_inside() {
    const OUTSIDE: &str = "127.9.9.9";
    const MIXED: [&str; 3] = [
        "alternates.example.com",
        "mixes.example.com",
        "families.example.com",
    ];
    Trace::need().await;
    let names = Names::start(|name, before| {
        Reply::Addresses(ips(match (name, before / 2 % 2) {
            ("alternates.example.com", 0) => &[OUTSIDE],
            ("alternates.example.com", _) => &["127.0.0.1"],
            ("mixes.example.com", _) => &["10.0.0.1", "127.0.0.1", OUTSIDE, "::1", "::ffff:127.0.0.1"],
            ("families.example.com", _) => &[OUTSIDE, "::1"],
            _ => panic!("asked for {name}"),
        }))
    })
    .await;
    let installation = installation("ssrf-mixed", &format!("{OUTSIDE}/32"), &names).await;
    let listening = Neighbours::listen(OUTSIDE, &["127.0.0.1", "::1"]).await;
    let urls = MIXED.map(|name| format!("http://{name}:{}/hook", listening.address.port()));
    for (output, trace) in create(&installation, urls.to_vec(), true).await {
        assert!(output.status.success(), "{output:?}");
        assert!(trace.unwrap().sockets().iter().all(|socket| !socket.is_tcp));
    }
    let (worker, trace) = installation.traced_worker().await;
    let published = std::cell::Cell::new(0);
    wait_for("the answer was used and refused in turn, twice", SOON, || async {
        let lead = published.get().to_string();
        let events: Vec<_> = (0..MIXED.len())
            .map(|number| event(&format!("org_{number}"), &lead))
            .collect();
        installation.amqp().publish(&events).await;
        published.set(published.get() + 1);
        let served = listening.served.requests();
        let from = |name: &str| {
            served
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
    installation.wait_until_drained(SOON).await;
    assert!(worker.terminate().await);
    let letters = installation.amqp().drain("dead").await;
    for letter in &letters {
        assert_refused(
            letter,
            "alternates.example.com",
            "alternates.example.com resolves to 127.0.0.1",
        );
    }
    let total = MIXED.len() * published.get();
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
