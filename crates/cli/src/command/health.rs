//! `magnetite health`.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time};

use crate::{configuration::Configuration, output};

/// The maximum time to wait for an answer. A role answers from memory.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The maximum size of an answer, which has one line per role.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Health ports to ask instead of the one in health.listen, such as 127.0.0.1:8086
    #[arg(value_name = "ADDRESS")]
    addresses: Vec<SocketAddr>,
}

/// Prints what the roles at each address answer to `/readyz`. Fails unless all of them are ready.
pub(super) async fn run(arguments: Arguments, configuration: &Configuration) -> anyhow::Result<()> {
    match &arguments.addresses[..] {
        [] => {
            let listen = configuration.health_listen.context(
                "health.listen is empty, so no role on this host answers: set it, for example to 127.0.0.1:8085",
            )?;
            ask(reachable(listen), " (health.listen)").await
        }
        [address] => ask(*address, "").await,
        addresses => {
            let mut failed = 0;
            for address in addresses {
                output::unless_left(output::line(&format!("{address}:")))?;
                if let Err(error) = ask(*address, "").await {
                    output::unless_left(output::line(&format!("{error:#}")))?;
                    failed += 1;
                }
            }
            ensure!(
                failed == 0,
                "not every role is ready at {failed} of these addresses"
            );
            Ok(())
        }
    }
}

async fn ask(address: SocketAddr, from: &str) -> anyhow::Result<()> {
    let answered = time::timeout(ANSWER_MAX, ready(address)).await;
    let (status, body) = answered
        .with_context(|| format!("the roles at {address}{from} did not answer within {ANSWER_MAX:?}"))?
        .with_context(|| {
            format!(
                "no role answers at {address}{from}: start one, or name the health ports of the roles on this host, such as \
                 `magnetite health 127.0.0.1:8086`"
            )
        })?;
    output::unless_left(output::line(String::from_utf8_lossy(&body).trim_end()))?;
    ensure!(
        status == StatusCode::OK,
        "not ready: the lines above say which role and why"
    );
    Ok(())
}

async fn ready(address: SocketAddr) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The task ends when the sender is dropped.
    tokio::spawn(connection);
    let request = Request::get("/readyz").header("host", address.to_string());
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    Ok((head.status, body.map_err(anyhow::Error::from_boxed)?.to_bytes()))
}

/// Returns the address at which a client on the same host reaches a listener.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = listen.ip();
    let loopback = if listen.is_ipv4() {
        [127, 0, 0, 1].into()
    } else {
        std::net::Ipv6Addr::LOCALHOST.into()
    };
    SocketAddr::new(if ip.is_unspecified() { loopback } else { ip }, listen.port())
}

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn all_addresses_are_asked_at_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:8085", "127.0.0.1:8085"),
            ("[::]:8085", "[::1]:8085"),
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("127.0.0.1:8085", "127.0.0.1:8085"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
