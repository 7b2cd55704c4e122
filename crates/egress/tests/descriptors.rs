//! This test runs in a process of its own, because it uses up the file descriptors that other tests need.

use std::fs::File;

use egress::{Config, Egress, Fault};

#[tokio::test]
async fn file_descriptors_that_run_out_are_our_fault() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}/secret", listener.local_addr().expect("its address"));
    let config = Config {
        allow: vec!["127.0.0.0/8".parse().expect("a network")],
        name_servers: vec!["127.0.0.1:9".parse().expect("an address")],
        ..Config::default()
    };
    let egress = Egress::new(&config).expect("an egress");

    rlimit::setrlimit(rlimit::Resource::NOFILE, 64, 64).expect("a lower limit");
    let held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let literal = egress.post(&egress.target(&url), Vec::new(), "{}".into()).await;
    let by_name = egress.target("http://hooks.example.com/secret");
    let named = egress.post(&by_name, Vec::new(), "{}".into()).await;
    drop(held);

    assert!(matches!(literal, Err(Fault::Socket { .. })), "{literal:?}");
    assert!(matches!(named, Err(Fault::Resolver { .. })), "{named:?}");
    assert!(!format!("{literal:?} {named:?}").contains("secret"));
}
