//! The broker connection of commands, whose waits are bounded, and what to do if there is none.

use std::time::Duration;

use anyhow::anyhow;
use broker::{Config, Link, Server};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::NoConnection;

/// The maximum time for a login at each of the broker's addresses. A failed connection is retried within this
/// time.
const LOGIN_MAX: Duration = Duration::from_secs(5);

/// An established connection.
pub(crate) struct BrokerLink {
    pub(crate) link: Link,
    stop: CancellationToken,
}

/// The broker refused the login, or did not answer it.
#[derive(Debug, thiserror::Error)]
#[error("cannot log in to the broker at {address}: {why}")]
pub(crate) struct NotLoggedIn {
    address: String,
    why: String,
}

impl NotLoggedIn {
    pub(crate) fn fix(&self) -> &'static str {
        fix(&self.why).unwrap_or(
            "correct user, password and vhost in broker.url, and grant the user configure, write and read",
        )
    }

    /// Returns the error of a command: what happened, and what to do.
    pub(crate) fn told(&self) -> anyhow::Error {
        NoConnection(format!("{self}; {}", self.fix())).into()
    }
}

impl BrokerLink {
    /// Connects and logs in. The error says which of the two failed.
    pub(crate) async fn open(config: &Config) -> anyhow::Result<Self> {
        // This reports a refused connection at once, whereas a link would keep reconnecting.
        Server::of(config).await.map_err(|error| {
            let detail = format!("{:#}", anyhow!(error));
            let fix =
                fix(&detail).unwrap_or("start the broker, or correct broker.url (MAGNETITE_BROKER__URL)");
            NoConnection(format!("{detail}; {fix}"))
        })?;
        Self::log_in(config).await.map_err(|refused| refused.told())
    }

    /// Logs in to a broker that is known to be reachable. If there is only one broker address and it refuses
    /// the login, returns the error at once.
    pub(crate) async fn log_in(config: &Config) -> Result<Self, NotLoggedIn> {
        let stop = CancellationToken::new();
        let link = Link::open(config, "magnetite command", stop.clone());
        let limit = LOGIN_MAX * config.addresses_count();
        let refused = tokio::select! {
            up = timeout(limit, link.connection()) => match up {
                Ok(_) => return Ok(Self { link, stop }),
                Err(_) => NotLoggedIn {
                    address: config.address(),
                    why: link.failure().unwrap_or_else(|| format!("no answer within {limit:?}")),
                },
            },
            refused = refusal(&link, config) => refused,
        };
        stop.cancel();
        Err(refused)
    }

    /// Closes the connection properly, so that the broker does not log a lost connection.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        self.link.closed().await;
    }
}

/// Waits until the broker refuses the connection for a reason that trying again does not remove. With several
/// addresses this never ends, because another one may accept.
pub(crate) async fn refusal(link: &Link, config: &Config) -> NotLoggedIn {
    if config.addresses_count() > 1 {
        return std::future::pending().await;
    }
    let mut link = link.clone();
    loop {
        if let Some(why) = link.failure().filter(|why| is_lasting(why)) {
            let address = config.address();
            return NotLoggedIn { address, why };
        }
        link.changed().await;
    }
}

/// What RabbitMQ says of a vhost that starts, or has failed.
const VHOST_DOWN: &str = "is down";
/// What RabbitMQ says if a vhost, a user or a node has as many connections as it may have.
const CONNECTION_LIMIT: &str = "connection limit";
/// What the C library says if no name server has answered.
const NO_NAME_SERVER: &str = "Temporary failure in name resolution";

/// Returns whether a failure to connect or to log in stays until a setting is corrected.
fn is_lasting(failure: &str) -> bool {
    let passes = [VHOST_DOWN, CONNECTION_LIMIT, NO_NAME_SERVER];
    fix(failure).is_some() && !passes.iter().any(|words| failure.contains(words))
}

/// Returns what to do about a failure to connect or to log in; `None` if the broker is not running or the cause
/// is unknown. `failure` is the message of RabbitMQ, of the C library, or of this program about TLS.
pub(crate) fn fix(failure: &str) -> Option<&'static str> {
    let says = |words: &str| failure.contains(words);
    Some(if says("vhost") && says("not found") {
        "correct the vhost in broker.url (the default one is written /%2f), or create it: rabbitmqctl add_vhost NAME"
    } else if says(VHOST_DOWN) {
        "try again; if it stays down, see the broker's log, and run: rabbitmqctl restart_vhost --vhost NAME"
    } else if says(CONNECTION_LIMIT) {
        "close connections that are not needed, or raise the limit that is named (rabbitmqctl set_vhost_limits, set_user_limits)"
    } else if says("vhost") && says("refused") {
        "grant the user access to the vhost: rabbitmqctl set_permissions --vhost NAME USER '.*' '.*' '.*'"
    } else if says("ACCESS_REFUSED") || says("ACCESS-REFUSED") {
        "correct user and password in broker.url (in a URL, characters such as / and @ are percent-encoded)"
    } else if says("NOT_ALLOWED") {
        "correct user and vhost in broker.url"
    } else if says("expects TLS") || says("does not speak TLS") {
        "correct scheme and port in broker.url (MAGNETITE_BROKER__URL): amqp:// usually has port 5672, and amqps:// 5671"
    } else if says("trusted authority") {
        "set broker.tls.root_certificates (MAGNETITE_BROKER__TLS__ROOT_CERTIFICATES) to the PEM file of the broker's authority"
    } else if says("certificate is not valid for") {
        "correct the host in broker.url, or set broker.tls.server_name (MAGNETITE_BROKER__TLS__SERVER_NAME) to a name in the certificate"
    } else if says("client certificate") {
        "set broker.tls.certificate and broker.tls.key to a client certificate that the broker accepts"
    } else if says(NO_NAME_SERVER) {
        "try again; if it lasts, check the name servers of this host (/etc/resolv.conf)"
    } else if says("failed to lookup address") {
        "correct the host in broker.url (MAGNETITE_BROKER__URL), or its DNS records"
    } else {
        return None;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_in_the_settings_has_a_fix_of_its_own() {
        for (failure, words) in [
            ("protocol error: NOT_ALLOWED - vhost nope not found", "add_vhost"),
            (
                "protocol error: NOT_ALLOWED - access to vhost 'v' refused for user 'u'",
                "set_permissions",
            ),
            (
                "protocol error: ACCESS_REFUSED - Login was refused",
                "user and password",
            ),
            (
                "IO error: this port expects TLS: use amqps:// in broker.url",
                "amqps:// 5671",
            ),
            (
                "this port does not speak TLS: set broker.url",
                "amqp:// usually has port 5672",
            ),
            (
                "the broker's certificate is not issued by a trusted authority",
                "root_certificates",
            ),
            ("the broker's certificate is not valid for mq", "server_name"),
            (
                "failed to lookup address information: Name or service not known",
                "correct the host",
            ),
            (
                "received fatal alert: CertificateRequired: if the broker requires a client certificate",
                "broker.tls.key",
            ),
        ] {
            let fix = fix(failure).expect(failure);
            assert!(fix.contains(words), "{failure}: {fix}");
            assert!(!fix.contains("apt-get"), "{failure}: {fix}");
            assert!(is_lasting(failure), "{failure}");
        }
    }

    #[test]
    fn what_passes_by_itself_has_a_fix_and_is_tried_again() {
        for (failure, words) in [
            (
                "NOT_ALLOWED - access to vhost 'v' refused for user 'u': vhost 'v' is down",
                "restart_vhost",
            ),
            (
                "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (1) is reached",
                "raise the limit",
            ),
            (
                "NOT_ALLOWED - connection refused for user 'u': user connection limit (1) is reached",
                "raise the limit",
            ),
            (
                "failed to lookup address information: Temporary failure in name resolution",
                "name servers",
            ),
        ] {
            let fix = fix(failure).expect(failure);
            assert!(fix.contains(words), "{failure}: {fix}");
            assert!(!is_lasting(failure), "{failure}");
        }
    }

    #[test]
    fn a_broker_that_is_not_running_is_no_mistake_in_the_settings() {
        assert_eq!(fix("IO error: Connection refused (os error 111)"), None);
        assert_eq!(fix("no answer within 5s"), None);
    }
}
