//! Resolution of names to addresses that may be reached.
//!
//! `getaddrinfo` is not used: it does not distinguish a name that does not exist from name servers that do
//! not answer, and it cannot be cancelled.
//!
//! A name with a dot is absolute. No search domain is appended to it, because a customer's name must not have
//! a different meaning here, and because a sequence of searches obscures why a lookup failed. A name without
//! a dot is looked up in the system's search domains, as container platforms require.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hyper_util::client::legacy::connect::dns;
use tower::Service;
use tracing::debug;
use webhook::Phase;

use crate::classify::is_shortage;
use crate::config::SetupError;
use crate::evidence;
use crate::lookup::{LookupError, addresses_of};
use crate::policy::{Policy, Refusal};
use crate::progress;

/// The timeout of one try. With [`TRIES_EXTRA`], a dead name server is detected after 4 s, which is within
/// any reasonable deadline of an attempt.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// The number of times that a lookup without an answer is repeated.
const TRIES_EXTRA: usize = 1;
/// The maximum number of cached responses; one name takes two.
const CACHED_RESPONSES_MAX: u64 = 8192;
/// The minimum time that an address is cached. Names that forbid caching would otherwise cost two queries for
/// every connection.
const POSITIVE_TTL_MIN: Duration = Duration::from_secs(1);
/// The maximum time that an address is cached, after which a receiver that moved is found again.
const POSITIVE_TTL_MAX: Duration = Duration::from_mins(5);
/// The maximum time that a missing address is cached, after which a new name is found. It is not less,
/// because most names have no IPv6 address, and that answer is cached for the same time.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(5);
/// The maximum number of addresses of each family that are tried. The deadline for connecting is divided
/// among them.
const ADDRESSES_PER_FAMILY_MAX: usize = 4;

/// A resolver that returns only the addresses that the policy allows.
#[derive(Clone)]
pub(crate) struct Resolver {
    dns: TokioResolver,
    policy: Arc<Policy>,
    evidence: Arc<evidence::Names>,
    /// The position at which the next lookup's list of addresses begins, so that a retry begins with another
    /// address.
    turn: Arc<AtomicUsize>,
}

impl Resolver {
    /// Creates a resolver with the given name servers, or with the system's if there are none.
    pub(crate) fn new(name_servers: &[SocketAddr], policy: Arc<Policy>) -> Result<Self, SetupError> {
        Ok(Self {
            dns: resolver(name_servers, bound)?,
            policy,
            evidence: Arc::new(evidence::Names::new(resolver(name_servers, bound_once)?)),
            turn: Arc::default(),
        })
    }

    /// Returns the addresses of a name that may be connected to, in the order in which to try them: at least
    /// one, and at most [`ADDRESSES_PER_FAMILY_MAX`] of each family. Takes at most 4 s if no search list
    /// applies to the name.
    pub(crate) async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let found = self.judged(host).await?;
        let mut passed = Vec::with_capacity(found.len());
        let mut refusal = None;
        for (address, reason) in found {
            match reason {
                None => passed.push(address),
                Some(reason) => refusal = refusal.or(Some(reason)),
            }
        }
        match refusal {
            Some(reason) if passed.is_empty() => return Err(LookupError::Refused(reason.of_name(host))),
            Some(reason) => debug!(host, %reason, "an address that is not allowed is left out"),
            None => {}
        }
        Ok(in_order(
            passed,
            self.turn.fetch_add(1, Ordering::Relaxed),
            has_route,
        ))
    }

    /// Returns every address of a name, with the policy's reason to refuse it if there is one.
    pub(crate) async fn judged(&self, host: &str) -> Result<Vec<(IpAddr, Option<Refusal>)>, LookupError> {
        let found = self.query(host).await?.into_iter();
        Ok(found
            .map(|address| (address, self.policy.check_addr(address).err()))
            .collect())
    }

    /// Returns whether a name whose lookup failed fails alone, while name servers answer queries for other
    /// names.
    pub(crate) async fn fails_alone(&self, host: &str) -> bool {
        self.evidence.fails_alone(host).await
    }

    async fn query(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let found = addresses_of(&self.dns, host).await;
        if found.as_ref().map_or_else(LookupError::is_answer, |_| true) {
            self.evidence.answered(host);
        }
        found
    }
}

/// The interface through which the HTTP client resolves names.
impl Service<dns::Name> for Resolver {
    type Response = Box<dyn Iterator<Item = SocketAddr> + Send>;
    type Error = LookupError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, LookupError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LookupError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: dns::Name) -> Self::Future {
        let resolver = self.clone();
        Box::pin(async move {
            progress::enter(Phase::Resolve);
            let addresses = resolver.lookup(name.as_str()).await?;
            progress::connecting(addresses[0]);
            // Port 0: the client fills in the URL's port.
            let addresses: Self::Response = Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}

/// Creates a resolver with the given name servers, or with the system's if there are none.
fn resolver(name_servers: &[SocketAddr], bound: fn(&mut ResolverOpts)) -> Result<TokioResolver, SetupError> {
    let mut builder = if name_servers.is_empty() {
        TokioResolver::builder_tokio().map_err(|source| SetupError::SystemResolver(Box::new(source)))?
    } else {
        TokioResolver::builder_with_config(
            ResolverConfig::from_name_servers(name_servers.iter().map(name_server).collect()),
            TokioRuntimeProvider::default(),
        )
    };
    bound(builder.options_mut());
    builder
        .build()
        .map_err(|source| SetupError::Resolver(Box::new(source)))
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

fn bound(options: &mut ResolverOpts) {
    options.timeout = TRY_TIMEOUT;
    options.attempts = TRIES_EXTRA;
    options.cache_size = CACHED_RESPONSES_MAX;
    options.positive_min_ttl = Some(POSITIVE_TTL_MIN);
    options.positive_max_ttl = Some(POSITIVE_TTL_MAX);
    options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
    options.use_hosts_file = ResolveHosts::Always;
}

/// Limits lookups to the network, with one query to each name server.
fn bound_once(options: &mut ResolverOpts) {
    bound(options);
    options.attempts = 0;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
}

/// Orders the addresses: IPv6 first, as RFC 8305 recommends.
///
/// If this machine has a route to only one of the families, the other one is left out. The client reports the
/// failure of the family that it tried last, and "no route" must not hide "connection refused".
fn in_order(found: Vec<IpAddr>, turn: usize, has_route: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
    let (mut v6, mut v4): (Vec<_>, Vec<_>) = found.into_iter().partition(IpAddr::is_ipv6);
    for family in [&mut v6, &mut v4] {
        if !family.is_empty() {
            let start = turn % family.len();
            family.rotate_left(start);
            family.truncate(ADDRESSES_PER_FAMILY_MAX);
        }
    }
    if let ([first_v6, ..], [first_v4, ..]) = (&v6[..], &v4[..]) {
        match (has_route(*first_v6), has_route(*first_v4)) {
            (false, true) => v6.clear(),
            (true, false) => v4.clear(),
            _ => {}
        }
    }
    v6.append(&mut v4);
    v6
}

/// Returns whether the routing table has a route to an address. Connecting a UDP socket looks up the route
/// and sends nothing.
///
/// Also returns `true` if no socket can be opened for the check; the connection itself then reports the
/// failure.
pub(crate) fn has_route(address: IpAddr) -> bool {
    let local: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // The discard port; nothing is sent to it.
    match UdpSocket::bind((local, 0)).and_then(|socket| socket.connect((address, 9))) {
        Ok(()) => true,
        Err(error) => is_shortage(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().expect("an address")).collect()
    }

    #[test]
    fn both_families_are_tried_with_ipv6_first() {
        let order = in_order(ips(&["192.0.2.1", "2001:db8::1"]), 0, |_| true);
        assert_eq!(order, ips(&["2001:db8::1", "192.0.2.1"]));
    }

    #[test]
    fn a_family_without_a_route_is_left_out_unless_it_is_the_only_one() {
        let found = ips(&["2001:db8::1", "192.0.2.1"]);
        assert_eq!(in_order(found.clone(), 0, |ip| ip.is_ipv4()), ips(&["192.0.2.1"]));
        assert_eq!(
            in_order(found.clone(), 0, |ip| ip.is_ipv6()),
            ips(&["2001:db8::1"])
        );
        assert_eq!(in_order(found, 0, |_| false).len(), 2);
        assert_eq!(
            in_order(ips(&["2001:db8::1"]), 0, |_| false),
            ips(&["2001:db8::1"])
        );
    }

    #[test]
    fn the_next_lookup_begins_with_the_next_address() {
        let found = ips(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        assert_eq!(
            in_order(found.clone(), 1, |_| true),
            ips(&["192.0.2.2", "192.0.2.3", "192.0.2.1"])
        );
        assert_eq!(in_order(found, 3, |_| true)[0], ips(&["192.0.2.1"])[0]);
    }

    #[test]
    fn no_more_than_four_addresses_of_a_family_are_tried() {
        let found: Vec<IpAddr> = (1..=100).map(|n| Ipv4Addr::new(192, 0, 2, n).into()).collect();
        assert_eq!(
            in_order(found, 98, |_| true),
            ips(&["192.0.2.99", "192.0.2.100", "192.0.2.1", "192.0.2.2"])
        );
    }

    #[test]
    fn this_machine_has_a_route_to_itself() {
        assert!(has_route(Ipv4Addr::LOCALHOST.into()));
    }
}
