//! Which addresses are not public.
//!
//! Two tables, after IANA's special-purpose address registries (<https://www.iana.org/assignments/iana-ipv4-special-registry>,
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>). Of IPv6 only `2000::/3` is handed out to the public, so everything
//! outside of it is refused, assigned or not.
//!
//! Not covered: a NAT64 prefix that a network chose for itself looks like any other public prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What an address that is not public is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// This machine.
    Loopback,
    /// "This network", or no address at all; systems connect to themselves.
    Unspecified,
    /// RFC 1918.
    Private,
    /// RFC 4193, IPv6's private networks.
    UniqueLocal,
    /// One link only; cloud metadata services live here.
    LinkLocal,
    /// RFC 6598, between a carrier's NAT and its customers; some clouds put services here.
    CarrierNat,
    /// A cloud's host agent behind an address that looks public (Azure's 168.63.129.16).
    Platform,
    /// One to many.
    Multicast,
    /// All hosts of a link.
    Broadcast,
    /// Examples in documents.
    Documentation,
    /// Test set-ups.
    Benchmarking,
    /// An IPv4 address in an IPv6 one, deprecated by RFC 4291.
    V4Compatible,
    /// RFC 6052, RFC 8215: an IPv4 address behind a translator.
    Nat64,
    /// RFC 3056: an IPv4 address behind a tunnel, and the tunnel's relays.
    SixToFour,
    /// RFC 4380: an IPv4 address behind a tunnel.
    Teredo,
    /// RFC 3879, deprecated private networks.
    SiteLocal,
    /// RFC 6666: a black hole.
    Discard,
    /// RFC 4843, RFC 7343: hashes that look like addresses.
    Orchid,
    /// Not handed out to anyone.
    Reserved,
}

/// A hit in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Special {
    pub(crate) class: Class,
    /// The table's network that holds the address.
    pub(crate) network: IpNet,
}

const V4: [(Ipv4Net, Class); 17] = [
    (v4([255, 255, 255, 255], 32), Class::Broadcast),
    (v4([0, 0, 0, 0], 8), Class::Unspecified),
    (v4([10, 0, 0, 0], 8), Class::Private),
    (v4([100, 64, 0, 0], 10), Class::CarrierNat),
    (v4([127, 0, 0, 0], 8), Class::Loopback),
    (v4([168, 63, 129, 16], 32), Class::Platform),
    (v4([169, 254, 0, 0], 16), Class::LinkLocal),
    (v4([172, 16, 0, 0], 12), Class::Private),
    (v4([192, 0, 0, 0], 24), Class::Reserved),
    (v4([192, 0, 2, 0], 24), Class::Documentation),
    (v4([192, 88, 99, 0], 24), Class::SixToFour),
    (v4([192, 168, 0, 0], 16), Class::Private),
    (v4([198, 18, 0, 0], 15), Class::Benchmarking),
    (v4([198, 51, 100, 0], 24), Class::Documentation),
    (v4([203, 0, 113, 0], 24), Class::Documentation),
    (v4([224, 0, 0, 0], 4), Class::Multicast),
    (v4([240, 0, 0, 0], 4), Class::Reserved),
];

/// The first hit counts: networks stand before those that hold them.
const V6: [(Ipv6Net, Class); 23] = [
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), Class::Unspecified),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), Class::Loopback),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), Class::V4Compatible),
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), Class::Nat64),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), Class::Nat64),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), Class::Discard),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), Class::Teredo),
    (v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), Class::Benchmarking),
    (v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28), Class::Orchid),
    (v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28), Class::Orchid),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), Class::Reserved),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), Class::Documentation),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), Class::SixToFour),
    (v6([0x3ffe, 0, 0, 0, 0, 0, 0, 0], 16), Class::Reserved),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), Class::Documentation),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), Class::UniqueLocal),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), Class::LinkLocal),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), Class::SiteLocal),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), Class::Multicast),
    // Together all that is not 2000::/3.
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 3), Class::Reserved),
    (v6([0x4000, 0, 0, 0, 0, 0, 0, 0], 3), Class::Reserved),
    (v6([0x6000, 0, 0, 0, 0, 0, 0, 0], 3), Class::Reserved),
    (v6([0x8000, 0, 0, 0, 0, 0, 0, 0], 1), Class::Reserved),
];

/// The tables' entry for an address; `None` for a public one. An IPv4-mapped address (`::ffff:0:0/96`) is the
/// IPv4 address it holds.
pub(crate) fn special(address: IpAddr) -> Option<Special> {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let (network, class) = V4.iter().find(|(network, _)| network.contains(&v4))?;
            Some(Special {
                class: *class,
                network: IpNet::V4(*network),
            })
        }
        IpAddr::V6(v6) => {
            let (network, class) = V6.iter().find(|(network, _)| network.contains(&v6))?;
            Some(Special {
                class: *class,
                network: IpNet::V6(*network),
            })
        }
    }
}

/// The IPv4 address that a packet to a special IPv6 address would be handed on to.
///
/// Asked only of addresses whose class the operator allowed, so that allowing a translator does not open what
/// is behind it. `64:ff9b:1::/48` is not unpacked: where the IPv4 address stands in it is each network's own
/// choice.
pub(crate) fn embedded(address: IpAddr, class: Class) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let s = v6.segments();
    let (high, low) = match class {
        Class::V4Compatible => (s[6], s[7]),
        Class::Nat64 if s[2] == 0 => (s[6], s[7]),
        Class::SixToFour => (s[1], s[2]),
        Class::Teredo => (!s[6], !s[7]),
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

impl Special {
    /// What to write into `egress.allow` to reach the address; `None` where no receiver can be.
    pub(crate) fn allowance(&self, address: IpAddr) -> Option<IpNet> {
        match self.class {
            Class::Loopback | Class::Private | Class::UniqueLocal | Class::CarrierNat | Class::Nat64 => {
                Some(self.network)
            }
            // The whole network would include the cloud's metadata service.
            Class::LinkLocal => Some(IpNet::from(address)),
            _ => None,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "loopback",
            Self::Unspecified => "unspecified",
            Self::Private => "private",
            Self::UniqueLocal => "unique local (private)",
            Self::LinkLocal => "link-local",
            Self::CarrierNat => "carrier-grade NAT",
            Self::Platform => "cloud platform",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Documentation => "documentation",
            Self::Benchmarking => "benchmarking",
            Self::V4Compatible => "IPv4-compatible",
            Self::Nat64 => "NAT64",
            Self::SixToFour => "6to4",
            Self::Teredo => "Teredo",
            Self::SiteLocal => "site-local",
            Self::Discard => "discard-only",
            Self::Orchid => "ORCHID",
            Self::Reserved => "reserved",
        })
    }
}

const fn v4(octets: [u8; 4], prefix_len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::from_octets(octets), prefix_len)
}

const fn v6(segments: [u16; 8], prefix_len: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::from_segments(segments), prefix_len)
}
