//! The URLs and addresses that may be reached, and the messages about those that may not.

use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

use crate::address::{self, Class, Special};

/// The maximum length of a URL, in bytes. It is enough for any endpoint, and small enough to keep 100,000
/// URLs in memory.
pub const URL_BYTES_MAX: usize = 2048;

/// The maximum length of a DNS name, in bytes (RFC 1035 section 2.3.4, as text without the final dot).
const NAME_BYTES_MAX: usize = 253;
/// The maximum length of a label of a DNS name, in bytes (RFC 1035 section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// The rules for destinations: public addresses over https, and in addition whatever the operator allowed.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    allowed: Vec<IpNet>,
    plain_http: bool,
}

/// The message to customers about an address that may not be reached. Customers cannot change the allowed
/// networks, and must not learn to which address of our network a name resolves.
pub const NOT_PUBLIC: &str =
    "the URL leads to an address that is not public, and webhooks are sent to public addresses only";

/// The reason why a URL or an address may not be used.
///
/// The message names what was refused, and the setting that would allow it if there is one. It never contains
/// the URL's path or query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The URL is longer than [`URL_BYTES_MAX`].
    #[error("the URL is {bytes} bytes long; at most {URL_BYTES_MAX} are allowed")]
    TooLong {
        /// The length of the URL.
        bytes: usize,
    },
    /// The URL contains a character that parsers silently drop, so the stored URL would differ from the one
    /// that was entered.
    #[error("the URL contains a space or a control character; percent-encode it")]
    BadCharacter,
    /// The text is not a URL.
    #[error("not an absolute URL: {reason}")]
    Unparsable {
        /// The parser's error.
        reason: url::ParseError,
    },
    /// The scheme is neither http nor https.
    #[error("the scheme {scheme:?} is not supported; use https")]
    BadScheme {
        /// The scheme, without the colon.
        scheme: String,
    },
    /// The scheme is http. An attacker on the network path could read and change the requests.
    #[error(
        "webhooks are sent over https, and this URL uses http. To allow http, set `egress.allow_http = true` or \
         MAGNETITE_EGRESS__ALLOW_HTTP=true; at addresses in `egress.allow`, http is always allowed"
    )]
    PlainHttp,
    /// The scheme is http, and the name servers do not answer whether the host is at an address where http is
    /// allowed.
    #[error(
        "cannot determine whether http is allowed for {host}, because its name servers do not answer; use https, or try again"
    )]
    PlainHttpUnanswered {
        /// The name.
        host: String,
    },
    /// The URL contains a user name or password, as in `https://user:password@host`.
    #[error(
        "the URL contains a user name or password, which everyone who can list endpoints could read. Remove it, and \
         verify the signature of the webhooks instead"
    )]
    UserInfo,
    /// The URL has no host.
    #[error("the URL has no host")]
    NoHost,
    /// The host is not a valid DNS name.
    #[error(
        "{host:?} is not a DNS name: use parts of 1 to 63 letters, digits, '-' or '_', at most 253 characters in all, and no dot at the end"
    )]
    BadHost {
        /// The host as parsed.
        host: String,
    },
    /// The port is 0, which cannot be connected to.
    #[error("the URL has port 0, to which no connection can be made")]
    PortZero,
    /// The URL contains a fragment. Fragments are never sent to a server, so the URL would not do what its
    /// author expects.
    #[error("the URL has a fragment ('#' and what follows), which is never sent; remove it")]
    Fragment,
    /// The address is neither public nor allowed.
    #[error("{address} is a {class} address ({network}), and webhooks are sent to public addresses only{}", hint(*allowance))]
    Address {
        /// The refused address.
        address: IpAddr,
        /// The purpose of the address.
        class: Class,
        /// The refused network.
        network: IpNet,
        /// The network to allow in order to reach the address; `None` if it cannot be reached at all.
        allowance: Option<IpNet>,
    },
    /// The name has addresses, but none of them may be reached.
    #[error(
        "{host} resolves to {address}, a {class} address ({network}), and webhooks are sent to public addresses \
         only{}", hint(*allowance)
    )]
    Resolved {
        /// The name.
        host: String,
        /// The first of its addresses.
        address: IpAddr,
        /// The purpose of the address.
        class: Class,
        /// The refused network.
        network: IpNet,
        /// The network to allow in order to reach the address; `None` if it cannot be reached at all.
        allowance: Option<IpNet>,
    },
    /// According to the name servers, the name does not exist or has no address.
    #[error("{host} has no address: the name does not exist, or has neither an A nor an AAAA record")]
    NameNotFound {
        /// The name.
        host: String,
    },
}

impl Policy {
    /// Returns a policy that allows public addresses and the given networks. An IPv4 network also covers its
    /// IPv4-mapped IPv6 addresses.
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self {
            allowed,
            plain_http: false,
        }
    }

    /// Sets whether new endpoints may also use http at public addresses.
    #[must_use]
    pub fn with_plain_http(self, plain_http: bool) -> Self {
        Self { plain_http, ..self }
    }

    /// Checks whether the URL of a new endpoint, which resolves to these addresses, may have its scheme.
    ///
    /// # Errors
    /// Returns [`Refusal::PlainHttp`] if it may not.
    pub(crate) fn check_scheme(&self, url: &Url, addresses: &[IpAddr]) -> Result<(), Refusal> {
        let is_allowed = |address: &IpAddr| self.is_allowed(address.to_canonical());
        let is_local = !addresses.is_empty() && addresses.iter().all(is_allowed);
        if url.scheme() == "https" || self.plain_http || is_local {
            Ok(())
        } else {
            Err(Refusal::PlainHttp)
        }
    }

    /// Returns whether the operator has allowed the address.
    fn is_allowed(&self, address: IpAddr) -> bool {
        self.allowed.iter().any(|network| network.contains(&address))
    }

    /// Parses a URL and checks everything that can be checked without a name server: length, scheme, user
    /// info, host, port, fragment, and the address if the host is one, in any spelling (`0x7f.1`,
    /// `2130706433`, `[::ffff:127.0.0.1]`).
    ///
    /// Not covered: the addresses that a name resolves to (see [`crate::Egress::check_endpoint`]), and the
    /// service at a port: any port may be used.
    ///
    /// # Errors
    /// Returns the first reason to refuse the URL.
    pub fn check_url(&self, url: &str) -> Result<Url, Refusal> {
        if url.len() > URL_BYTES_MAX {
            return Err(Refusal::TooLong { bytes: url.len() });
        }
        if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Refusal::BadCharacter);
        }
        let url = Url::parse(url).map_err(|reason| Refusal::Unparsable { reason })?;
        // The scheme comes first, because the parser takes the address in `gopher://127.0.0.1` for a name.
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

    /// Checks an address. If the operator allowed a network of translated addresses (NAT64, 6to4, Teredo),
    /// the embedded IPv4 address is checked as well.
    ///
    /// # Errors
    /// Returns [`Refusal::Address`] if the address may not be reached.
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
    /// Returns the message for customers, who cannot change the allowed networks; see [`NOT_PUBLIC`].
    pub fn for_customers(&self) -> String {
        match self {
            Self::Address { .. } | Self::Resolved { .. } => NOT_PUBLIC.to_owned(),
            Self::PlainHttp => "webhooks are sent over https, and this URL uses http".to_owned(),
            other => other.to_string(),
        }
    }

    /// Returns the same refusal with the name that resolved to the address.
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

/// Returns whether this is a DNS name. This is stricter than the URL standard, which also accepts quotes and
/// braces in names.
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
