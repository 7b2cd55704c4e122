//! Tests the probes over a real socket.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use super::*;

struct Served {
    address: SocketAddr,
    readiness: watch::Sender<Option<String>>,
    degraded: watch::Sender<Option<String>>,
    stopping: CancellationToken,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

async fn served(metrics: PrometheusHandle) -> Served {
    let (readiness, receiver) = watch::channel(Some("connecting to the broker".to_owned()));
    let (degraded, is_degraded) = watch::channel(None);
    let (stopping, stop) = (CancellationToken::new(), CancellationToken::new());
    let probes = Probes {
        metrics,
        roles: vec![Role {
            name: "worker",
            readiness: receiver,
            degraded: is_degraded,
        }],
        stopping: stopping.clone(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve(listener, probes, stop.clone()));
    Served {
        address,
        readiness,
        degraded,
        stopping,
        stop,
        serving,
    }
}

fn handle() -> PrometheusHandle {
    builder().unwrap().build_recorder().handle()
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn it_is_alive_while_it_is_not_ready() {
    let served = served(handle()).await;
    assert!(
        get(served.address, "/livez")
            .await
            .starts_with("HTTP/1.1 200 OK\r\n")
    );

    let answer = get(served.address, "/readyz").await;
    assert!(
        answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
        "{answer}"
    );
    assert!(
        answer.ends_with("\r\n\r\nworker: connecting to the broker\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn it_is_ready_when_every_role_is_and_not_any_more_while_it_stops() {
    let served = served(handle()).await;
    served.readiness.send_replace(None);
    let answer = get(served.address, "/readyz").await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ready\n"),
        "{answer}"
    );

    served.stopping.cancel();
    let answer = get(served.address, "/readyz").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.ends_with("shutting down\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_role_that_works_with_less_is_ready_and_says_what_is_missing() {
    let served = served(handle()).await;
    served.readiness.send_replace(None);
    served.degraded.send_replace(Some("cut off".to_owned()));
    let answer = get(served.address, "/readyz").await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ready\ndegraded: worker: cut off\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_role_that_ended_is_not_ready() {
    let served = served(handle()).await;
    served.readiness.send_replace(None);
    drop(served.readiness);
    let answer = get(served.address, "/readyz").await;
    assert!(answer.ends_with("worker: ended\n"), "{answer}");
}

#[tokio::test]
async fn durations_are_counted_in_buckets() {
    let recorder = builder().unwrap().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        metrics::histogram!("magnetite_attempt_duration_seconds").record(0.02);
    });
    let served = served(recorder.handle()).await;

    let answer = get(served.address, "/metrics").await;
    assert!(
        answer.contains("content-type: text/plain; version=0.0.4"),
        "{answer}"
    );
    for line in [
        "magnetite_attempt_duration_seconds_bucket{le=\"0.01\"} 0\n",
        "magnetite_attempt_duration_seconds_bucket{le=\"0.025\"} 1\n",
        "magnetite_attempt_duration_seconds_bucket{le=\"30\"} 1\n",
    ] {
        assert!(answer.contains(line), "{line} is not in {answer}");
    }
}

#[tokio::test]
async fn it_ends_when_it_is_told_to() {
    let served = served(handle()).await;
    served.stop.cancel();
    served.serving.await.unwrap();
}
