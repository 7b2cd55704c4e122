//! The behavior of name servers.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use egress::{Class, Config, Egress, Fault, Refusal};
use tokio::time::timeout;
use webhook::{AttemptResult, FailureKind, Phase};

use crate::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().expect("an address")).collect()
}

fn named(url: &str, host: &str) -> String {
    url.replace("127.0.0.1", host)
}

#[tokio::test]
async fn a_name_is_looked_up_as_it_is_without_search_domains() {
    let names = NameServer::start(|name, _| match name {
        "hooks.example.com." => Reply::Addresses(ips(&["127.0.0.1"])),
        other => panic!("asked for {other}"),
    })
    .await;
    let url = named(&responder(OK).await, "hooks.example.com");
    assert_eq!(answer(&names.egress(), &url).await.status, 200);
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_the_endpoints_failure() {
    let names = NameServer::start(|_, _| Reply::NoName).await;
    let failure = failure(&names.egress(), "https://gone.example.com/secret").await;
    assert_eq!(
        (failure.kind, failure.phase),
        (FailureKind::NameNotFound, Phase::Resolve)
    );
    assert!(
        failure.detail.starts_with("gone.example.com has no address"),
        "{}",
        failure.detail
    );
}

#[tokio::test]
async fn a_name_without_an_address_is_the_endpoints_failure() {
    let names = NameServer::start(|_, _| Reply::Addresses(Vec::new())).await;
    let failure = failure(&names.egress(), "https://mail.example.com/secret").await;
    assert_eq!(
        (failure.kind, failure.phase),
        (FailureKind::NameNotFound, Phase::Resolve)
    );
}

#[tokio::test]
async fn a_name_server_that_fails_is_our_fault() {
    let names = NameServer::start(|_, _| Reply::ServerFailure).await;
    let fault = post(&names.egress(), "https://hooks.example.com/secret")
        .await
        .expect_err("a fault");
    assert!(
        matches!(&fault, Fault::Resolver { host, .. } if host == "hooks.example.com"),
        "{fault:?}"
    );
    assert!(!format!("{fault:?}").contains("secret"));
}

/// Returns the failure of an attempt at a name for which the name server has this trouble. It knows no other
/// names.
async fn failure_at_one(trouble: Reply) -> webhook::Failure {
    let names = NameServer::start(move |name, _| match name {
        "broken.example.com." => trouble.clone(),
        _ => Reply::NoName,
    })
    .await;
    failure(&names.egress(), "https://broken.example.com/secret").await
}

#[tokio::test]
async fn name_servers_that_fail_for_one_name_alone_are_the_endpoints_failure() {
    let begun = Instant::now();
    for trouble in [Reply::ServerFailure, Reply::Silence] {
        let failure = failure_at_one(trouble.clone()).await;
        assert_eq!(
            (failure.kind, failure.phase),
            (FailureKind::NameServerFailed, Phase::Resolve),
            "{trouble:?}"
        );
        assert!(
            failure.detail.contains("broken.example.com"),
            "{}",
            failure.detail
        );
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_name_that_was_answered_before_is_evidence_as_long_as_it_is_answered() {
    let all_fail = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&all_fail);
    let names = NameServer::start(move |name, _| match name {
        "hooks.example.com." if !told.load(SeqCst) => Reply::Addresses(ips(&["127.0.0.1"])),
        _ => Reply::ServerFailure,
    })
    .await;
    let (egress, broken) = (names.egress(), "https://broken.example.org/secret");
    assert!(
        matches!(post(&egress, broken).await, Err(Fault::Resolver { .. })),
        "no evidence"
    );
    answer(&egress, &named(&responder(OK).await, "hooks.example.com")).await;
    let failed = failure(&egress, broken).await;
    assert_eq!(failed.kind, FailureKind::NameServerFailed);
    all_fail.store(true, SeqCst);
    // The evidence is old now: the name is looked up again, even if it is in the cache.
    assert!(
        matches!(post(&egress, broken).await, Err(Fault::Resolver { .. })),
        "old evidence"
    );
}

#[tokio::test]
async fn name_servers_that_recover_while_the_failure_is_investigated_are_our_fault() {
    let is_back = AtomicBool::new(false);
    let names = NameServer::start(move |name, _| match name {
        "broken.example.com." if is_back.load(SeqCst) => Reply::Addresses(ips(&["127.0.0.1"])),
        "broken.example.com." => Reply::ServerFailure,
        _ => {
            is_back.store(true, SeqCst);
            Reply::NoName
        }
    })
    .await;
    let attempted = post(&names.egress(), "https://broken.example.com/secret").await;
    assert!(matches!(attempted, Err(Fault::Resolver { .. })), "{attempted:?}");
}

#[tokio::test]
async fn name_servers_that_fail_while_the_failure_is_investigated_are_our_fault() {
    let (is_investigated, is_down) = (AtomicBool::new(false), AtomicBool::new(false));
    let names = NameServer::start(move |name, _| match name {
        "broken.example.com." => {
            is_down.store(is_investigated.load(SeqCst), SeqCst);
            Reply::ServerFailure
        }
        _ if is_down.load(SeqCst) => Reply::ServerFailure,
        _ => {
            is_investigated.store(true, SeqCst);
            Reply::NoName
        }
    })
    .await;
    let attempted = post(&names.egress(), "https://broken.example.com/secret").await;
    assert!(matches!(attempted, Err(Fault::Resolver { .. })), "{attempted:?}");
}

#[tokio::test]
async fn a_missing_route_is_the_endpoints_failure_if_others_are_there() {
    // No connection can be made to the broadcast address, and the routing table says so.
    let config = Config {
        allow: ["127.0.0.0/8", "255.255.255.255/32"]
            .map(|network| network.parse().expect("a network"))
            .to_vec(),
        ..config()
    };
    let (egress, url) = (
        Egress::new(&config).expect("an egress"),
        "http://255.255.255.255:9/secret",
    );
    let fault = post(&egress, url).await.expect_err("without evidence it is ours");
    assert!(matches!(fault, Fault::NoRoute { .. }), "{fault:?}");
    answer(&egress, &responder(OK).await).await;
    let failure = failure(&egress, url).await;
    assert_eq!(
        (failure.kind, failure.phase),
        (FailureKind::ConnectionRefused, Phase::Connect)
    );
}

#[tokio::test]
async fn a_name_server_that_says_nothing_is_our_fault_after_a_few_seconds() {
    let names = NameServer::start(|_, _| Reply::Silence).await;
    let begun = Instant::now();
    let fault = post(&names.egress(), "https://hooks.example.com/")
        .await
        .expect_err("a fault");
    assert!(matches!(fault, Fault::Resolver { .. }), "{fault:?}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_name_server_that_is_not_there_is_our_fault() {
    let fault = post(&egress(), "https://hooks.example.com/")
        .await
        .expect_err("a fault");
    assert!(matches!(fault, Fault::Resolver { .. }), "{fault:?}");
}

#[tokio::test]
async fn a_deadline_that_passes_during_the_lookup_is_our_fault() {
    let names = NameServer::start(|_, _| Reply::Silence).await;
    let config = Config {
        attempt_timeout: Duration::from_millis(200),
        ..names.config()
    };
    let egress = Egress::new(&config).expect("an egress");
    let fault = post(&egress, "https://hooks.example.com/")
        .await
        .expect_err("a fault");
    assert!(matches!(fault, Fault::Resolver { .. }), "{fault:?}");
}

#[tokio::test]
async fn a_name_of_a_private_address_is_refused() {
    for (address, class) in [
        ("10.0.0.1", Class::Private),
        ("169.254.169.254", Class::LinkLocal),
        ("::1", Class::Loopback),
        ("::ffff:192.168.0.1", Class::Private),
        ("64:ff9b::7f00:1", Class::Nat64),
        ("fd00:ec2::254", Class::UniqueLocal),
    ] {
        let names = NameServer::start(move |_, _| Reply::Addresses(ips(&[address]))).await;
        let egress = names.egress();
        let failure = failure(&egress, "https://hooks.example.com/secret").await;
        assert_eq!(
            (failure.kind, failure.phase),
            (FailureKind::AddressRefused, Phase::Resolve),
            "{address}"
        );
        let refusal = egress
            .check_endpoint("https://hooks.example.com/")
            .await
            .expect_err("a refusal");
        assert!(
            matches!(refusal, Refusal::Resolved { class: found, .. } if found == class),
            "{refusal}"
        );
    }
}

#[tokio::test]
async fn only_the_addresses_that_passed_are_connected_to() {
    let list = ips(&["10.0.0.1", "127.0.0.1", "192.168.0.1", "fd00::1"]);
    let names = NameServer::start(move |_, _| Reply::Addresses(list.clone())).await;
    let egress = names.egress();
    let url = named(&responder(OK).await, "hooks.example.com");
    // Each lookup's list begins with another address.
    for _ in 0..4 {
        assert_eq!(answer(&egress, &url).await.status, 200);
    }
    egress
        .check_endpoint(&url)
        .await
        .expect("one good address is enough");
}

#[tokio::test]
async fn http_is_for_names_that_lead_to_allowed_addresses_and_to_no_others() {
    for (list, is_allowed) in [
        (&["127.0.0.1"][..], true),
        (&["127.0.0.1", "127.0.0.2"], true),
        (&["127.0.0.1", "93.184.216.34"], false),
        (&["93.184.216.34"], false),
    ] {
        let addresses = ips(list);
        let names = NameServer::start(move |_, _| Reply::Addresses(addresses.clone())).await;
        let egress = names.egress();
        let plain = egress.check_endpoint("http://hooks.example.com/").await;
        match plain {
            Ok(_) => assert!(is_allowed, "{list:?}"),
            Err(refusal) => assert!(
                !is_allowed && refusal == Refusal::PlainHttp,
                "{list:?}: {refusal}"
            ),
        }
        egress
            .check_endpoint("https://hooks.example.com/")
            .await
            .expect("https is for all");
    }
    let names = NameServer::start(|_, _| Reply::ServerFailure).await;
    let unanswered = names.egress().check_endpoint("http://hooks.example.com/").await;
    assert!(
        matches!(&unanswered, Err(Refusal::PlainHttpUnanswered { host }) if host == "hooks.example.com"),
        "{unanswered:?}"
    );
    for (url, is_allowed) in [
        ("http://127.0.0.1/", true),
        ("http://[::ffff:127.0.0.1]/", true),
        ("http://93.184.216.34/", false),
    ] {
        assert_eq!(
            names.egress().check_endpoint(url).await.is_ok(),
            is_allowed,
            "{url}"
        );
    }
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_judged_again() {
    let names = NameServer::start(|_, asked| {
        // Two queries are one lookup: A and AAAA.
        Reply::Addresses(ips(if asked < 2 { &["127.0.0.1"] } else { &["10.0.0.1"] }))
    })
    .await;
    let egress = names.egress();
    let url = named(&responder(OK).await, "rebind.example.com");
    assert_eq!(answer(&egress, &url).await.status, 200);
    let refused = async {
        // Answers may be cached for a second, although their TTL is 0.
        loop {
            match post(&egress, &url).await.expect("no fault") {
                AttemptResult::Answered(_) => {}
                AttemptResult::Failed(failure) => break failure,
            }
        }
    };
    let failure = timeout(PATIENCE, refused).await.expect("it is looked up again");
    assert_eq!(failure.kind, FailureKind::AddressRefused);
    assert!(names.asked() >= 3);
}

#[tokio::test]
async fn a_query_that_is_never_answered_does_not_hold_up_the_other_familys_answer() {
    let names = NameServer::start(|_, asked| match asked {
        0 => Reply::Silence,
        _ => Reply::Addresses(ips(&["127.0.0.1", "::1"])),
    })
    .await;
    let config = Config {
        allow: vec![
            "127.0.0.0/8".parse().expect("a network"),
            "::1/128".parse().expect("a network"),
        ],
        ..names.config()
    };
    let egress = Egress::new(&config).expect("an egress");
    let begun = Instant::now();
    egress
        .check_endpoint("https://hooks.example.com/")
        .await
        .expect("an endpoint");
    assert!(
        begun.elapsed() < Duration::from_millis(1500),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn an_address_is_looked_up_once_for_many_connections() {
    let names = NameServer::start(|_, _| Reply::Addresses(ips(&["127.0.0.1"]))).await;
    let egress = names.egress();
    let url = named(&responder(OK).await, "hooks.example.com");
    let begun = Instant::now();
    let mut attempts = 0;
    while begun.elapsed() < Duration::from_millis(500) {
        answer(&egress, &url).await;
        attempts += 1;
    }
    assert!(
        names.asked() <= 2,
        "{} questions for {attempts} connections",
        names.asked()
    );
}

#[tokio::test]
async fn the_hosts_file_is_honoured() {
    // There is no name server, so the answer can only come from this machine.
    let url = named(&responder(OK).await, "localhost");
    assert_eq!(answer(&egress(), &url).await.status, 200);
}

#[tokio::test]
async fn an_endpoint_whose_name_does_not_exist_cannot_be_registered() {
    let names = NameServer::start(|_, _| Reply::NoName).await;
    let refusal = names
        .egress()
        .check_endpoint("https://typo.example.com/x")
        .await
        .expect_err("a refusal");
    assert_eq!(
        refusal,
        Refusal::NameNotFound {
            host: "typo.example.com".to_owned()
        }
    );
}

#[tokio::test]
async fn trouble_with_name_servers_does_not_keep_an_endpoint_from_being_registered() {
    let names = NameServer::start(|_, _| Reply::ServerFailure).await;
    names
        .egress()
        .check_endpoint("https://hooks.example.com/x")
        .await
        .expect("it is judged when it is used");
}
