//! The addresses of the broker, and the timeouts and limits of its clients.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};
use url::{Host, ParseError, Url};

use crate::tls::{BadTls, Connector, Tls};

/// The connection settings of the broker. `Debug` does not show the password.
#[derive(Clone)]
pub struct Config {
    /// The nodes of the cluster, at least one.
    nodes: Vec<Node>,
    /// The URLs of the management HTTP API, with user and password; empty if it is not used.
    management: Vec<Url>,
    /// The TLS configuration of both AMQP and the management API.
    tls: Connector,
    /// The prefix of every exchange and queue name.
    pub prefix: String,
    /// How long a publish may take from the call to its confirm. Time during which the process is suspended
    /// does not count.
    pub publish_timeout: Duration,
    /// How long a publish that must not be repeated waits for its confirm before the connection is replaced.
    /// This is well below the 30 minutes after which RabbitMQ closes the channel of a consumer that has not
    /// acknowledged a message.
    pub confirm_age_max: Duration,
    /// The maximum number of channels that publish at the same time.
    pub channels_max: usize,
}

/// One URL of a [`Config`]: a node of the broker's cluster, or a load balancer in front of it.
#[derive(Clone)]
pub(crate) struct Node(AMQPUri);

/// An invalid broker URL. The message contains nothing of the URL except the name of a parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// It is not an AMQP URL.
    #[error(
        "expected amqp://user:password@host:5672/vhost or amqps://..., with %2f for the vhost /, or several URLs separated by \
         commas (a comma inside a URL is written %2C)"
    )]
    Malformed,
    /// One of its parts cannot be used. The text says which one, and what is expected.
    #[error("{0}")]
    Part(&'static str),
    /// A parameter in its query has a value that cannot be used.
    #[error("expected {expected} as {name}, after the ?")]
    Parameter {
        /// The name of the parameter.
        name: &'static str,
        /// The values that it may have.
        expected: &'static str,
    },
    /// Its query has a parameter that would be ignored.
    #[error(
        "expected no parameter {0:?} after the ?: the known parameters are heartbeat (in seconds), connection_timeout (in \
         milliseconds), frame_max, channel_max and auth_mechanism"
    )]
    UnknownParameter(String),
}

const BAD_SCHEME: BadUrl = BadUrl::Part(
    "expected amqp:// or amqps:// at the beginning of each URL; several URLs are separated by commas, and a comma inside a URL is \
     written %2C",
);
const BAD_USER: BadUrl = BadUrl::Part(
    "expected no @ after the host: percent-encode characters such as / (%2F), ? (%3F), # (%23) and @ (%40) in user, password and vhost",
);
const BAD_HOST: BadUrl =
    BadUrl::Part("expected brackets around an IPv6 address, as in amqp://[::1]:5672/%2f");
const BAD_PORT: BadUrl = BadUrl::Part(
    "expected a number as the port after the host; a / , or : in user and password is percent-encoded (%2F, %2C, %3A)",
);

/// A parameter that the query of a URL may set.
struct Parameter {
    name: &'static str,
    /// The values that it may have.
    expected: &'static str,
    is_valid: fn(&str) -> bool,
}

/// An invalid URL of the management API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected http://user:password@host:15672 or https://..., or several URLs separated by commas")]
pub struct BadManagementUrl;

impl Config {
    /// Parses one or more `amqp://` or `amqps://` URLs, separated by commas. Several URLs are the nodes of
    /// one cluster, and a connection to any of them will do. A comma inside a URL is written `%2C`.
    ///
    /// The query of each URL may set `heartbeat` (seconds, 10 by default) and `connection_timeout`
    /// (milliseconds, 5000 by default). A publish times out after 10 s, and at most 8 channels publish at the
    /// same time.
    ///
    /// # Errors
    /// Returns an error if a URL is not an AMQP URL, or has an unknown parameter. The message never contains
    /// the URL, because the URL contains a password.
    pub fn new(urls: &str, prefix: impl Into<String>) -> Result<Self, BadUrl> {
        let nodes = urls.split(',').map(|url| url.trim().parse());
        let nodes = nodes.collect::<Result<Vec<Node>, _>>()?;
        Ok(Self {
            management: nodes.iter().filter_map(Node::management).collect(),
            nodes,
            tls: Connector::default(),
            prefix: prefix.into(),
            publish_timeout: Duration::from_secs(10),
            confirm_age_max: Duration::from_mins(5),
            channels_max: 8,
        })
    }

    /// Sets the URLs of the management HTTP API: one, several separated by commas, or none (an empty string).
    /// A URL without a user gets the user and password of the first broker URL.
    ///
    /// # Errors
    /// Returns an error if one of them is not an HTTP URL. The message never contains the URL.
    pub fn with_management(mut self, urls: &str) -> Result<Self, BadManagementUrl> {
        let read = |url: &str| {
            let mut url: Url = url.trim().parse().ok()?;
            if url.username().is_empty() {
                self.nodes.first()?.log_in_at(&mut url)?;
            }
            (["http", "https"].contains(&url.scheme()) && url.has_host()).then_some(url)
        };
        let urls = urls.split(',').filter(|url| !url.trim().is_empty());
        self.management = urls.map(read).collect::<Option<_>>().ok_or(BadManagementUrl)?;
        Ok(self)
    }

    /// Sets the TLS configuration of AMQP connections and of connections to the management URLs that were set
    /// before. [`Tls::server_name`] applies to AMQP only.
    ///
    /// # Errors
    /// Returns an error if a part of `tls` cannot be used, or if there is no TLS connection to apply the
    /// settings to. The message names the part and contains no key.
    pub fn with_tls(mut self, tls: &Tls) -> Result<Self, BadTls> {
        let by_amqp = self.nodes.iter().any(Node::is_secured);
        let by_http = self.management.iter().any(|url| url.scheme() == "https");
        let is_used = by_amqp || (by_http && tls.server_name.is_none());
        if *tls != Tls::default() && !is_used {
            return Err(BadTls::NoTls);
        }
        self.tls = Connector::new(tls)?;
        Ok(self)
    }

    pub(crate) fn tls(&self) -> &Connector {
        &self.tls
    }

    pub(crate) fn management(&self) -> &[Url] {
        &self.management
    }

    /// Returns the virtual host of the first URL. All URLs must name the same one.
    pub(crate) fn vhost(&self) -> String {
        self.nodes
            .first()
            .map(|node| node.0.vhost.clone())
            .unwrap_or_default()
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the number of broker addresses, at least one.
    pub fn addresses_count(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    /// Returns `host:port/vhost`, for logs and errors; for several nodes, separated by commas.
    pub fn address(&self) -> String {
        let addresses: Vec<_> = self.nodes.iter().map(Node::address).collect();
        addresses.join(", ")
    }
}

impl Node {
    /// The heartbeat interval in seconds if the URL sets none. A dead connection is detected within twice
    /// this time.
    const HEARTBEAT_S: u16 = 10;
    /// The connection timeout in milliseconds if the URL sets none.
    const CONNECT_TIMEOUT_MS: u64 = 5_000;
    const PARAMETERS: &'static [Parameter] = &[
        Parameter {
            name: "heartbeat",
            expected: "a number of seconds",
            is_valid: is_a::<u16>,
        },
        Parameter {
            name: "connection_timeout",
            expected: "a number of milliseconds",
            is_valid: is_a::<u64>,
        },
        Parameter {
            name: "frame_max",
            expected: "a number of bytes",
            is_valid: is_a::<u32>,
        },
        Parameter {
            name: "channel_max",
            expected: "a number up to 65535",
            is_valid: is_a::<u16>,
        },
        Parameter {
            name: "auth_mechanism",
            expected: "plain, amqplain, external, anonymous or rabbit-cr-demo",
            is_valid: is_a::<SASLMechanism>,
        },
    ];
    /// The distance between the AMQP port and the port of the management API.
    const MANAGEMENT_ABOVE: u16 = 10_000;

    pub(crate) fn uri(&self) -> AMQPUri {
        self.0.clone()
    }

    /// Returns whether the node is reached over TLS.
    pub(crate) fn is_secured(&self) -> bool {
        matches!(self.0.scheme, AMQPScheme::AMQPS)
    }

    /// Returns the maximum time from the first packet until the broker has accepted the login. It covers more
    /// than the TCP connection, because a node that hangs still accepts connections.
    pub(crate) fn connect_timeout(&self) -> Duration {
        let timeout_ms = self.0.query.connection_timeout;
        Duration::from_millis(timeout_ms.unwrap_or(Self::CONNECT_TIMEOUT_MS))
    }

    /// Returns the default URL of RabbitMQ's management API for this AMQP port: 15672 for 5672, and 15671 for
    /// 5671.
    fn management(&self) -> Option<Url> {
        let authority = &self.0.authority;
        let scheme = if self.is_secured() { "https" } else { "http" };
        let port = authority.port.checked_add(Self::MANAGEMENT_ABOVE)?;
        let mut url = Url::parse(&format!("{scheme}://{}:{port}", in_brackets(&authority.host))).ok()?;
        self.log_in_at(&mut url)?;
        Some(url)
    }

    fn log_in_at(&self, url: &mut Url) -> Option<()> {
        let user = &self.0.authority.userinfo;
        url.set_username(&user.username.replace('%', "%25")).ok()?;
        url.set_password(Some(&user.password.replace('%', "%25"))).ok()
    }

    pub(crate) fn address(&self) -> String {
        let (authority, vhost) = (&self.0.authority, &self.0.vhost);
        let (host, port) = (in_brackets(&authority.host), authority.port);
        if vhost.is_empty() {
            return format!("{host}:{port}/ (an empty vhost: the default one is written /%2f)");
        }
        format!("{host}:{port}/{}", vhost.trim_start_matches('/'))
    }
}

impl FromStr for Node {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        check_authority(text)?;
        let url = Url::parse(text).map_err(|error| match error {
            ParseError::InvalidPort => BAD_PORT,
            ParseError::InvalidIpv6Address => BAD_HOST,
            _ => BadUrl::Malformed,
        })?;
        check_parameters(&url)?;
        let mut uri: AMQPUri = text.parse().map_err(|_| BadUrl::Malformed)?;
        // lapin's parser takes an IPv6 address for a missing host, and uses localhost.
        if let Some(Host::Ipv6(address)) = url.host() {
            uri.authority.host = address.to_string();
        }
        uri.query.heartbeat.get_or_insert(Self::HEARTBEAT_S);
        uri.query
            .connection_timeout
            .get_or_insert(Self::CONNECT_TIMEOUT_MS);
        Ok(Self(uri))
    }
}

/// Checks the scheme, and the part between it and the path. The parsers accept some mistakes there, such as a
/// password with an unencoded `/`, whose beginning they take for the port.
fn check_authority(url: &str) -> Result<(), BadUrl> {
    let (scheme, rest) = url.split_once("://").ok_or(BAD_SCHEME)?;
    if !["amqp", "amqps"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known))
    {
        return Err(BAD_SCHEME);
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // A password follows a `:`, so without one the @ is a part of the vhost.
    let before_at = rest.rsplit_once('@').map_or("", |(before, _)| before);
    if !authority.contains('@') && before_at.contains(':') {
        return Err(BAD_USER);
    }
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if !host.starts_with('[') && host.matches(':').count() > 1 {
        return Err(BAD_HOST);
    }
    Ok(())
}

/// Refuses unknown parameters, and values that cannot be used.
fn check_parameters(url: &Url) -> Result<(), BadUrl> {
    for (name, value) in url.query_pairs() {
        let known = Node::PARAMETERS.iter().find(|known| known.name == name);
        match known {
            Some(known) if (known.is_valid)(&value) => {}
            Some(&Parameter { name, expected, .. }) => return Err(BadUrl::Parameter { name, expected }),
            None => return Err(unknown_parameter(&name)),
        }
    }
    Ok(())
}

/// Returns the error for an unknown parameter. If a password contains an unescaped question mark, the name is
/// a part of the password, and is shown only if it cannot be that.
fn unknown_parameter(name: &str) -> BadUrl {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    if !name.is_empty() && name.bytes().all(is_letter) {
        BadUrl::UnknownParameter(name.to_owned())
    } else {
        BadUrl::Malformed
    }
}

fn is_a<T: FromStr>(text: &str) -> bool {
    text.parse::<T>().is_ok()
}

/// Returns the host as it is written in a URL.
fn in_brackets(host: &str) -> String {
    match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("address", &self.address())
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
    fn several_urls_are_several_nodes() {
        let urls = "amqp://me:s3cret@mq1/%2f, amqps://me:a%2Cb@mq2:5671/v?heartbeat=3,amqp://mq3/%2f";
        let config = Config::new(urls, "magnetite").unwrap();
        assert_eq!(config.address(), "mq1:5672/, mq2:5671/v, mq3:5672/");
        assert_eq!(config.addresses_count(), 3);
        let text = format!("{config:?}");
        assert!(!text.contains("s3cret") && !text.contains("a,b"), "{text}");
        let second = config.nodes()[1].uri();
        assert_eq!(second.authority.userinfo.password, "a,b");
        assert_eq!(second.query.heartbeat, Some(3));
    }

    #[test]
    fn the_part_that_is_wrong_is_named_without_repeating_it() {
        for (url, expected) in [
            ("", BAD_SCHEME),
            ("http://me:s3cret@x/v", BAD_SCHEME),
            ("mq:5672", BAD_SCHEME),
            ("amqp://me:s3cret@x/v,", BAD_SCHEME),
            ("amqp://me:s3cret@x/v,y", BAD_SCHEME),
            ("amqp://me:s3cret@x:port/v", BAD_PORT),
            ("amqp://me:s3cret,s3cret@x/v", BAD_PORT),
            ("amqp://me:s3cret@[::1/v", BAD_HOST),
            ("amqp://me:s3cret@::1:5672/v", BAD_HOST),
            ("amqp://me:?s3cret@x/v", BAD_USER),
            ("amqp://me:4711?s3cret@x/v", BAD_USER),
            ("amqp://me:p/s3cret@x/v", BAD_USER),
            ("amqp://me:4711/s3cret@x/v", BAD_USER),
            ("amqp://x:5672/my@vhost", BAD_USER),
            ("amqp://me:s3cret@x/v?4711", BadUrl::Malformed),
        ] {
            let error = Config::new(url, "magnetite").expect_err(url);
            assert_eq!(error, expected, "{url}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_parameter_with_a_bad_value_is_named() {
        for (query, name) in [
            ("heartbeat=s3cret", "heartbeat"),
            ("heartbeat=3&connection_timeout=5s", "connection_timeout"),
            ("frame_max=-1", "frame_max"),
            ("channel_max=70000", "channel_max"),
            ("auth_mechanism=gssapi", "auth_mechanism"),
        ] {
            let error = Config::new(&format!("amqp://x/v?{query}"), "magnetite").expect_err(query);
            let is_named = matches!(error, BadUrl::Parameter { name: named, .. } if named == name);
            assert!(is_named, "{query}: {error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        let refused = |url| Config::new(url, "magnetite").unwrap_err();
        for (url, name) in [
            ("amqps://x/v?cacertfile=/ca.pem", "cacertfile"),
            ("amqp://x/v?heartbeat=3&verify=s3cret", "verify"),
            ("amqp://x/v?Heartbeat=3", "Heartbeat"),
        ] {
            let error = refused(url);
            assert_eq!(error, BadUrl::UnknownParameter(name.to_owned()));
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    /// RabbitMQ has no vhost with an empty name; the user most likely forgot to write `%2f`.
    #[test]
    fn the_empty_vhost_is_not_shown_as_the_default_one() {
        let address = |url| Config::new(url, "magnetite").unwrap().address();
        assert_eq!(address("amqp://x/%2f"), "x:5672/");
        assert_eq!(address("amqp://x"), "x:5672/");
        assert_eq!(
            address("amqp://x/"),
            "x:5672/ (an empty vhost: the default one is written /%2f)"
        );
    }

    #[test]
    fn a_vhost_may_have_an_at_sign() {
        let address = |url| Config::new(url, "magnetite").unwrap().address();
        assert_eq!(address("amqp://x/my@vhost"), "x:5672/my@vhost");
        assert_eq!(address("amqp://x:5672/my%40vhost"), "x:5672/my@vhost");
        assert_eq!(address("amqp://me:s3cret@x:5672/my@vhost"), "x:5672/my@vhost");
    }

    #[test]
    fn an_address_of_ipv6_is_a_host() {
        let config = Config::new("amqp://me:p@[2001:db8::7]:5673/v,amqps://me:p@[::1]", "m").unwrap();
        assert_eq!(config.address(), "[2001:db8::7]:5673/v, [::1]:5671/");
        assert_eq!(config.nodes()[0].uri().authority.host, "2001:db8::7");
        let management: Vec<_> = config.management().iter().map(Url::to_string).collect();
        assert_eq!(
            management,
            ["http://me:p@[2001:db8::7]:15673/", "https://me:p@[::1]:15671/"]
        );
    }

    #[test]
    fn the_management_api_is_10000_ports_above_amqp_unless_named() {
        let texts = |config: &Config| {
            let urls = config.management().iter().map(Url::to_string);
            urls.collect::<Vec<_>>().join(" ")
        };
        let urls = "amqp://me:p%25%40@mq1/%2f,amqps://me:p@mq2:5671/v,amqp://me:p@mq3:60000/v";
        let config = Config::new(urls, "m").unwrap();
        assert_eq!(
            texts(&config),
            "http://me:p%25%40@mq1:15672/ https://me:p@mq2:15671/"
        );
        let named = config
            .clone()
            .with_management("https://you:q@a/x, http://b:1")
            .unwrap();
        assert_eq!(texts(&named), "https://you:q@a/x http://me:p%25%40@b:1/");
        assert_eq!(texts(&config.clone().with_management("").unwrap()), "");
        for bad in ["mq:15672", "amqp://h", "http://", "http://a,x"] {
            assert!(config.clone().with_management(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn timeouts_come_from_the_url_or_have_defaults() {
        let node: Node = "amqp://h/%2f?heartbeat=3&connection_timeout=250".parse().unwrap();
        assert_eq!(node.connect_timeout(), Duration::from_millis(250));
        assert_eq!(node.uri().query.heartbeat, Some(3));
        let default: Node = "amqp://h/%2f".parse().unwrap();
        assert_eq!(default.uri().query.heartbeat, Some(10));
        assert_eq!(default.connect_timeout(), Duration::from_secs(5));
    }
}
