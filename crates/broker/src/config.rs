//! Where the broker is and how long it may take.

use std::{fmt, time::Duration};

use lapin::uri::AMQPUri;

/// How to reach the broker. Its `Debug` does not show the password.
#[derive(Clone)]
pub struct Config {
    uri: AMQPUri,
    /// Prefix of every exchange and queue name.
    pub prefix: String,
    /// How long a publish may take from the call to its confirm.
    pub publish_timeout: Duration,
    /// Whether a publish that is under way when a memory or disk alarm begins waits until it ends, however long, instead of
    /// failing in time. For whoever would only publish the same again.
    pub waits_out_alarms: bool,
    /// How many channels publish at once, at most.
    pub channels_max: usize,
}

/// A broker URL that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; expected amqp://user:password@host:5672/vhost or amqps://..., with %2f for the vhost /")]
pub struct BadUrl(String);

impl Config {
    /// Heartbeats when the URL names none: a dead link is noticed within twice that.
    const HEARTBEAT_S: u16 = 10;
    /// The bound on connecting when the URL names none.
    const CONNECT_TIMEOUT_MS: u64 = 5_000;

    /// Reads `amqp://` or `amqps://`. `heartbeat` (seconds) and `connection_timeout` (milliseconds) may be given in the
    /// URL's query and are 10 and 5000 otherwise. A publish has 10 s, and 8 channels publish at once.
    ///
    /// # Errors
    /// When the URL is not an AMQP URL. The text never repeats the URL, which holds a password.
    pub fn new(url: &str, prefix: impl Into<String>) -> Result<Self, BadUrl> {
        let mut uri: AMQPUri = url.parse().map_err(BadUrl)?;
        uri.query.heartbeat.get_or_insert(Self::HEARTBEAT_S);
        uri.query
            .connection_timeout
            .get_or_insert(Self::CONNECT_TIMEOUT_MS);
        Ok(Self {
            uri,
            prefix: prefix.into(),
            publish_timeout: Duration::from_secs(10),
            waits_out_alarms: false,
            channels_max: 8,
        })
    }

    pub(crate) fn uri(&self) -> AMQPUri {
        self.uri.clone()
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(
            self.uri
                .query
                .connection_timeout
                .unwrap_or(Self::CONNECT_TIMEOUT_MS),
        )
    }

    /// `host:port/vhost`, for logs and errors.
    pub fn address(&self) -> String {
        let authority = &self.uri.authority;
        format!(
            "{}:{}/{}",
            authority.host,
            authority.port,
            self.uri.vhost.trim_start_matches('/')
        )
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("address", &self.address())
            .field("user", &self.uri.authority.userinfo.username)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_in_no_text() {
        let config = Config::new("amqp://me:s3cret@mq.example:5673/%2f", "magnetite").unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
        assert_eq!(config.address(), "mq.example:5673/");
    }

    #[test]
    fn what_is_no_amqp_url_is_refused_without_repeating_it() {
        for url in ["", "http://me:s3cret@x/", "mq:5672", "amqp://me:s3cret@x:port/"] {
            let error = Config::new(url, "magnetite").unwrap_err().to_string();
            assert!(error.contains("amqp://user:password@host"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn timeouts_come_from_the_url_or_have_defaults() {
        let named = Config::new("amqp://h/%2f?heartbeat=3&connection_timeout=250", "m").unwrap();
        assert_eq!(named.connect_timeout(), Duration::from_millis(250));
        assert_eq!(named.uri.query.heartbeat, Some(3));
        let default = Config::new("amqp://h/%2f", "m").unwrap();
        assert_eq!(default.uri.query.heartbeat, Some(10));
    }
}
