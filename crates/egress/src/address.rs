//! Tables of addresses that are not public.
//!
//! The two tables follow IANA's special-purpose address registries
//! (<https://www.iana.org/assignments/iana-ipv4-special-registry>,
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>). In IPv6, only `2000::/3` is allocated for
//! public use, so everything outside it is refused, whether assigned or not.
//!
//! Not covered: a NAT64 prefix that a network has chosen itself cannot be distinguished from other public
//! prefixes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The purpose of an address that is not public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// This machine.
    Loopback,
    /// "This network", or the unspecified address. Systems that are told to connect to it connect to
    /// themselves.
    Unspecified,
    /// RFC 1918: private networks.
    Private,
    /// RFC 4193: private networks of IPv6.
    UniqueLocal,
    /// Addresses of one link. Cloud metadata services use them.
    LinkLocal,
    /// RFC 6598: addresses between a carrier's NAT and its customers. Some clouds use them for services.
    CarrierNat,
    /// The host agent of a cloud at an address that looks public (Azure's 168.63.129.16).
    Platform,
    /// Multicast addresses.
    Multicast,
    /// The broadcast address, which reaches all hosts of a link.
    Broadcast,
    /// Addresses for examples in documentation.
    Documentation,
    /// Addresses for benchmarks.
    Benchmarking,
    /// An IPv4 address embedded in an IPv6 address; deprecated by RFC 4291.
    V4Compatible,
    /// RFC 6052, RFC 8215: an IPv4 address behind a translator.
    Nat64,
    /// RFC 3056: an IPv4 address behind a tunnel, and the tunnel's relays.
    SixToFour,
    /// RFC 4380: an IPv4 address behind a tunnel.
    Teredo,
    /// RFC 3879: private networks, deprecated.
    SiteLocal,
    /// RFC 6666: addresses whose packets are discarded.
    Discard,
    /// RFC 4843, RFC 7343: hashes in the form of addresses.
    Orchid,
    /// Addresses that are not allocated.
    Reserved,
}

/// An entry of the tables that contains an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Special {
    pub(crate) class: Class,
    /// The table's network that contains the address.
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

/// The first match applies, so a network comes before the larger networks that contain it.
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
    // Together, these are everything outside of 2000::/3.
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 3), Class::Reserved),
    (v6([0x4000, 0, 0, 0, 0, 0, 0, 0], 3), Class::Reserved),
    (v6([0x6000, 0, 0, 0, 0, 0, 0, 0], 3), Class::Reserved),
    (v6([0x8000, 0, 0, 0, 0, 0, 0, 0], 1), Class::Reserved),
];

/// Returns the tables' entry for an address; `None` for a public one. An IPv4-mapped address
/// (`::ffff:0:0/96`) is treated as the IPv4 address in it.
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

/// Returns the IPv4 address to which a packet for a special IPv6 address would be forwarded.
///
/// This is used only for addresses that the operator allowed, so that allowing a translator does not allow
/// the addresses behind it. `64:ff9b:1::/48` is not decoded, because each network chooses where the IPv4
/// address is placed in it.
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
    /// Returns the network to add to `egress.allow` to reach the address; `None` if no receiver can have such
    /// an address.
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
