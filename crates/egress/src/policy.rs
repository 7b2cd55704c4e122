//! Which URLs and addresses may be reached, and what to tell who asked for another.

use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

use crate::address::{self, Class, Special};

/// The longest URL, in bytes. Long enough for any endpoint; short enough to keep 100,000 of them in memory.
pub const URL_BYTES_MAX: usize = 2048;

/// The longest DNS name, in bytes (RFC 1035 section 2.3.4, as text without the final dot).
const NAME_BYTES_MAX: usize = 253;
/// The longest part of a DNS name, in bytes (RFC 1035 section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// Public addresses over https, and what the operator allowed besides.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    allowed: Vec<IpNet>,
    plain_http: bool,
}

/// What customers are told of an address that may not be reached: they cannot change what is allowed, and are
/// not to learn where a name leads in our network.
pub const NOT_PUBLIC: &str =
    "the URL leads to an address that is not public, and webhooks are sent to public addresses only";

/// Why a URL or an address may not be used. The text is for whoever asked for it: it names what was refused,
/// and the setting that would allow it where there is one. It never holds the URL's path or query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Longer than [`URL_BYTES_MAX`].
    #[error("the URL is {bytes} bytes long; {URL_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Parsers drop such characters in silence, so that what is stored would not be what was written.
    #[error("the URL contains a space or a control character; percent-encode it")]
    BadCharacter,
    /// Not a URL.
    #[error("not an absolute URL: {reason}")]
    Unparsable {
        /// The parser's words.
        reason: url::ParseError,
    },
    /// Neither http nor https.
    #[error("the scheme {scheme:?} is not supported; use https")]
    BadScheme {
        /// The scheme, without the colon.
        scheme: String,
    },
    /// http, which anyone on the network path can read and change.
    #[error(
        "webhooks are sent over https, and this URL has http. To allow http, set `egress.allow_http = true` or \
         MAGNETITE_EGRESS__ALLOW_HTTP=true; at addresses that `egress.allow` names it is allowed"
    )]
    PlainHttp,
    /// An http URL, and its name servers do not tell whether it is at an address where that is allowed.
    #[error(
        "whether {host} may have http cannot be told, because its name servers do not answer; use https, or try again"
    )]
    PlainHttpUnanswered {
        /// The name.
        host: String,
    },
    /// `https://user:password@host`.
    #[error(
        "the URL contains a user name or password; they would be readable to everyone who can list endpoints. \
         Verify the signature instead"
    )]
    UserInfo,
    /// Nothing to connect to.
    #[error("the URL has no host")]
    NoHost,
    /// No name server could be asked for it.
    #[error(
        "{host:?} is not a DNS name: letters, digits, '-' and '_' in parts of 1 to 63, no dot at the end"
    )]
    BadHost {
        /// The host as parsed.
        host: String,
    },
    /// Port 0 cannot be connected to.
    #[error("port 0 cannot be connected to")]
    PortZero,
    /// Never sent to a server: whoever wrote one expects something that will not happen.
    #[error("the URL has a fragment ('#' and what follows), which is never sent; remove it")]
    Fragment,
    /// Not public, and not allowed.
    #[error("{address} is a {class} address ({network}), and webhooks are sent to public addresses only{}", hint(*allowance))]
    Address {
        /// The refused address.
        address: IpAddr,
        /// What it is for.
        class: Class,
        /// The network that is refused.
        network: IpNet,
        /// What to allow to reach it, if it can be reached at all.
        allowance: Option<IpNet>,
    },
    /// The name has addresses, and none of them may be reached.
    #[error(
        "{host} resolves to {address}, a {class} address ({network}), and webhooks are sent to public addresses \
         only{}", hint(*allowance)
    )]
    Resolved {
        /// The name.
        host: String,
        /// The first of its addresses.
        address: IpAddr,
        /// What it is for.
        class: Class,
        /// The network that is refused.
        network: IpNet,
        /// What to allow to reach it, if it can be reached at all.
        allowance: Option<IpNet>,
    },
    /// The name servers say that there is no such name, or that it has no address.
    #[error("{host} has no address: the name does not exist, or has neither an A nor an AAAA record")]
    NameNotFound {
        /// The name.
        host: String,
    },
}

impl Policy {
    /// Public addresses, and the given networks. An IPv4 network also covers its IPv4-mapped IPv6 addresses.
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self {
            allowed,
            plain_http: false,
        }
    }

    /// Whether new endpoints may use http at public addresses, too.
    #[must_use]
    pub fn with_plain_http(self, plain_http: bool) -> Self {
        Self { plain_http, ..self }
    }

    /// Whether a new endpoint's URL, which leads to these addresses, may have its scheme.
    ///
    /// # Errors
    /// [`Refusal::PlainHttp`].
    pub(crate) fn check_scheme(&self, url: &Url, addresses: &[IpAddr]) -> Result<(), Refusal> {
        let is_allowed = |address: &IpAddr| self.is_allowed(address.to_canonical());
        let is_local = !addresses.is_empty() && addresses.iter().all(is_allowed);
        if url.scheme() == "https" || self.plain_http || is_local {
            Ok(())
        } else {
            Err(Refusal::PlainHttp)
        }
    }

    /// Whether the operator has named it.
    fn is_allowed(&self, address: IpAddr) -> bool {
        self.allowed.iter().any(|network| network.contains(&address))
    }

    /// Parses a URL and judges all that can be judged without a name server: length, scheme, user info, host,
    /// port, fragment, and the address if the host is one, in whatever spelling (`0x7f.1`, `2130706433`,
    /// `[::ffff:127.0.0.1]`).
    ///
    /// Not covered: where a name leads (see [`crate::Egress::check_endpoint`]), and which service listens at
    /// a port: any port may be used.
    ///
    /// # Errors
    /// The first reason to refuse it.
    pub fn check_url(&self, url: &str) -> Result<Url, Refusal> {
        if url.len() > URL_BYTES_MAX {
            return Err(Refusal::TooLong { bytes: url.len() });
        }
        if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Refusal::BadCharacter);
        }
        let url = Url::parse(url).map_err(|reason| Refusal::Unparsable { reason })?;
        // First of all the scheme: the parser takes the address in `gopher://127.0.0.1` for a name.
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refusal::BadScheme {
                scheme: url.scheme().to_owned(),
            });
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::UserInfo);
        }
        if url.port() == Some(0) {
            return Err(Refusal::PortZero);
        }
        if url.fragment().is_some() {
            return Err(Refusal::Fragment);
        }
        match url.host().ok_or(Refusal::NoHost)? {
            Host::Ipv4(v4) => self.check_addr(IpAddr::V4(v4))?,
            Host::Ipv6(v6) => self.check_addr(IpAddr::V6(v6))?,
            Host::Domain(name) if is_dns_name(name) => {}
            Host::Domain(name) => {
                return Err(Refusal::BadHost {
                    host: name.to_owned(),
                });
            }
        }
        Ok(url)
    }

    /// Judges an address. Where the operator allowed a network of translated addresses (NAT64, 6to4, Teredo),
    /// the IPv4 address inside is judged as well.
    ///
    /// # Errors
    /// [`Refusal::Address`].
    pub fn check_addr(&self, address: IpAddr) -> Result<(), Refusal> {
        let address = address.to_canonical();
        let Some(special) = address::special(address) else {
            return Ok(());
        };
        if !self.is_allowed(address) {
            let allowance = special.allowance(address);
            let Special { class, network } = special;
            return Err(Refusal::Address {
                address,
                class,
                network,
                allowance,
            });
        }
        match address::embedded(address, special.class) {
            Some(inside) => self.check_addr(IpAddr::V4(inside)),
            None => Ok(()),
        }
    }
}

impl Refusal {
    /// The same for customers, who cannot change what is allowed: see [`NOT_PUBLIC`].
    pub fn for_customers(&self) -> String {
        match self {
            Self::Address { .. } | Self::Resolved { .. } => NOT_PUBLIC.to_owned(),
            Self::PlainHttp => "webhooks are sent over https, and this URL has http".to_owned(),
            other => other.to_string(),
        }
    }

    /// The same refusal, told of the name that led to the address.
    pub(crate) fn of_name(self, host: &str) -> Self {
        match self {
            Self::Address {
                address,
                class,
                network,
                allowance,
            } => Self::Resolved {
                host: host.to_owned(),
                address,
                class,
                network,
                allowance,
            },
            other => other,
        }
    }
}

/// Stricter than the URL standard, which also takes quotes and braces for names.
fn is_dns_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.split('.').all(|label| {
            (1..=LABEL_BYTES_MAX).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

fn hint(allowance: Option<IpNet>) -> String {
    allowance
        .map(|network| {
            format!(
                ". To allow it, set `egress.allow = [\"{network}\"]` or MAGNETITE_EGRESS__ALLOW={network}"
            )
        })
        .unwrap_or_default()
}
