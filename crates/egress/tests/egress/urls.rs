//! URLs and addresses that are refused or accepted, checked without a socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress::{Class, Policy, Refusal, URL_BYTES_MAX};
use proptest::prelude::*;

fn public_only() -> Policy {
    Policy::new(Vec::new())
}

fn allowing(networks: &[&str]) -> Policy {
    Policy::new(
        networks
            .iter()
            .map(|network| network.parse().expect("a network"))
            .collect(),
    )
}

fn class_of(url: &str) -> Class {
    match public_only().check_url(url) {
        Err(Refusal::Address { class, .. }) => class,
        other => panic!("{url}: {other:?}"),
    }
}

/// URLs with addresses that are not public, in many spellings, each with the class of its address.
const SPELLINGS: &[(&str, Class)] = &[
    ("http://127.0.0.1", Class::Loopback),
    ("http://127.0.0.1:8080/", Class::Loopback),
    ("http://127.255.255.254/", Class::Loopback),
    ("http://127.1/", Class::Loopback),
    ("http://127.0.1/", Class::Loopback),
    ("http://2130706433/", Class::Loopback),
    ("http://0x7f000001/", Class::Loopback),
    ("http://0x7f.1/", Class::Loopback),
    ("http://0x7F.0x0.0x0.0x1/", Class::Loopback),
    ("http://0177.0.0.1/", Class::Loopback),
    ("http://017700000001/", Class::Loopback),
    ("http://0177.0x0.0.1/", Class::Loopback),
    ("http://127.0.0.1./", Class::Loopback),
    ("http://%31%32%37.0.0.1/", Class::Loopback),
    ("http://１２７.０.０.１/", Class::Loopback),
    ("http://127。0。0。1/", Class::Loopback),
    ("http://①②⑦.⓪.⓪.①/", Class::Loopback),
    ("http:\\\\127.0.0.1\\", Class::Loopback),
    ("http:127.0.0.1", Class::Loopback),
    ("http:///127.0.0.1", Class::Loopback),
    ("HTTP://127.0.0.1", Class::Loopback),
    ("http://[::1]/", Class::Loopback),
    ("http://[0:0:0:0:0:0:0:1]/", Class::Loopback),
    ("http://[::ffff:127.0.0.1]/", Class::Loopback),
    ("http://[::ffff:7f00:1]/", Class::Loopback),
    ("http://[::FFFF:7F00:0001]/", Class::Loopback),
    ("http://[::ffff:10.0.0.1]/", Class::Private),
    ("http://[::127.0.0.1]/", Class::V4Compatible),
    ("http://[::7f00:1]/", Class::V4Compatible),
    ("http://[::8.8.8.8]/", Class::V4Compatible),
    ("http://[64:ff9b::7f00:1]/", Class::Nat64),
    ("http://[64:ff9b::8.8.8.8]/", Class::Nat64),
    ("http://[64:ff9b:1::10.0.0.1]/", Class::Nat64),
    ("http://[2002:7f00:1::]/", Class::SixToFour),
    ("http://[2002:a00:1::1]/", Class::SixToFour),
    ("http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/", Class::Teredo),
    ("http://[::]/", Class::Unspecified),
    ("http://0/", Class::Unspecified),
    ("http://0.0.0.0/", Class::Unspecified),
    ("http://0.1.2.3/", Class::Unspecified),
    ("http://10.0.0.1/", Class::Private),
    ("http://167772161/", Class::Private),
    ("http://172.16.0.1/", Class::Private),
    ("http://172.31.255.255/", Class::Private),
    ("http://192.168.1.1/", Class::Private),
    ("http://169.254.169.254/latest/meta-data/", Class::LinkLocal),
    ("http://0xa9fea9fe/", Class::LinkLocal),
    ("http://[::ffff:a9fe:a9fe]/", Class::LinkLocal),
    ("http://[fe80::1]/", Class::LinkLocal),
    ("http://[febf::1]/", Class::LinkLocal),
    ("http://[fec0::1]/", Class::SiteLocal),
    ("http://[fc00::1]/", Class::UniqueLocal),
    ("http://[fd00:ec2::254]/", Class::UniqueLocal),
    ("http://100.64.0.1/", Class::CarrierNat),
    ("http://100.100.100.200/", Class::CarrierNat),
    ("http://168.63.129.16/", Class::Platform),
    ("http://192.0.0.192/", Class::Reserved),
    ("http://192.0.2.1/", Class::Documentation),
    ("http://198.51.100.1/", Class::Documentation),
    ("http://203.0.113.1/", Class::Documentation),
    ("http://[2001:db8::1]/", Class::Documentation),
    ("http://[3fff::1]/", Class::Documentation),
    ("http://198.18.0.1/", Class::Benchmarking),
    ("http://198.19.255.255/", Class::Benchmarking),
    ("http://[2001:2::1]/", Class::Benchmarking),
    ("http://192.88.99.1/", Class::SixToFour),
    ("http://224.0.0.1/", Class::Multicast),
    ("http://239.255.255.250/", Class::Multicast),
    ("http://[ff02::1]/", Class::Multicast),
    ("http://240.0.0.1/", Class::Reserved),
    ("http://255.255.255.255/", Class::Broadcast),
    ("http://4294967295/", Class::Broadcast),
    ("http://[100::1]/", Class::Discard),
    ("http://[2001:10::1]/", Class::Orchid),
    ("http://[2001:20::1]/", Class::Orchid),
    ("http://[2001:1::1]/", Class::Reserved),
    ("http://[::ffff:0:7f00:1]/", Class::Reserved),
    ("http://[4000::1]/", Class::Reserved),
    ("http://[5f00::1]/", Class::Reserved),
    ("http://[a000::1]/", Class::Reserved),
];

#[test]
fn hostile_spellings_of_addresses_are_seen_through() {
    for &(url, class) in SPELLINGS {
        assert_eq!(class_of(url), class, "{url}");
    }
}

#[test]
fn what_is_not_an_endpoints_url_is_refused_for_its_reason() {
    let name_of_64 = format!("https://{}.example.com/", "a".repeat(64));
    let long_name = format!("https://{}com/", "abcdefghi.".repeat(26));
    let long = format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX));
    for (url, reason) in [
        ("gopher://127.0.0.1/", "the scheme \"gopher\" is not supported"),
        ("file:///etc/passwd", "the scheme \"file\""),
        ("javascript:alert(1)", "the scheme \"javascript\""),
        ("data:text/plain,x", "the scheme \"data\""),
        ("ftp://example.com/", "the scheme \"ftp\""),
        ("ws://example.com/", "the scheme \"ws\""),
        ("unix:/run/docker.sock", "the scheme \"unix\""),
        ("https://user@example.com/", "user name or password"),
        ("https://user:pass@example.com/", "user name or password"),
        ("https://:pass@example.com/", "user name or password"),
        ("https://example.com@127.0.0.1/", "user name or password"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com/#part", "fragment"),
        ("https://example.com/#", "fragment"),
        ("", "not an absolute URL"),
        ("example.com/hook", "not an absolute URL"),
        ("/hook", "not an absolute URL"),
        ("//example.com/hook", "not an absolute URL"),
        ("https://", "not an absolute URL"),
        ("https://?x", "not an absolute URL"),
        ("https://[::1", "not an absolute URL"),
        ("https://[fe80::1%25eth0]/", "not an absolute URL"),
        ("https://256.1.1.1/", "not an absolute URL"),
        ("https://1.2.3.4.5/", "not an absolute URL"),
        ("https://0x100000000/", "not an absolute URL"),
        ("https://example.com:65536/", "not an absolute URL"),
        ("https://exa%00mple.com/", "not an absolute URL"),
        (" https://example.com/", "a space or a control character"),
        ("https://example.com/a b", "a space or a control character"),
        ("https://exa\tmple.com/", "a space or a control character"),
        (
            "https://example.com/\r\nX-Evil: 1",
            "a space or a control character",
        ),
        ("https://example.com/\0", "a space or a control character"),
        ("https://example.com./", "not a DNS name"),
        ("https://a..example.com/", "not a DNS name"),
        ("https://.example.com/", "not a DNS name"),
        ("https://ex\"ample.com/", "not a DNS name"),
        ("https://ex{ample}.com/", "not a DNS name"),
        ("https://ex*mple.com/", "not a DNS name"),
        (name_of_64.as_str(), "not a DNS name"),
        (long_name.as_str(), "not a DNS name"),
        (long.as_str(), "2048 are allowed"),
    ] {
        let refusal = public_only().check_url(url).expect_err(url).to_string();
        assert!(refusal.contains(reason), "{url}: {refusal}");
    }
}

#[test]
fn ordinary_endpoints_pass() {
    for url in [
        "https://example.com/hook",
        "http://example.com",
        "https://example.com:8443/hook?token=a%20b&x=1",
        "https://bücher.example/hook",
        "https://under_score.example.com/",
        "https://8.8.8.8/",
        "https://172.15.0.1/",
        "https://172.32.0.1/",
        "https://100.63.255.255/",
        "https://100.128.0.0/",
        "https://198.17.0.1/",
        "https://223.255.255.255/",
        "https://[2606:4700:4700::1111]/",
        "https://[2001:4860:4860::8888]/",
        "https://[::ffff:8.8.8.8]/",
        "http://localhost/",
    ] {
        public_only().check_url(url).expect(url);
    }
}

#[test]
fn a_refusal_tells_the_setting_that_allows_it() {
    for (address, network) in [
        ("127.0.0.1", "127.0.0.0/8"),
        ("10.1.2.3", "10.0.0.0/8"),
        ("172.20.0.2", "172.16.0.0/12"),
        ("100.64.0.1", "100.64.0.0/10"),
        ("169.254.169.254", "169.254.169.254/32"),
        ("fd12::1", "fc00::/7"),
        ("::1", "::1/128"),
    ] {
        let ip: IpAddr = address.parse().expect("an address");
        let text = public_only().check_addr(ip).expect_err("a refusal").to_string();
        let hint =
            format!("To allow it, set `egress.allow = [\"{network}\"]` or MAGNETITE_EGRESS__ALLOW={network}");
        assert!(
            text.starts_with(&format!("{address} is a ")) && text.ends_with(&hint),
            "{text}"
        );
        allowing(&[network]).check_addr(ip).expect("the hint is right");
    }
}

#[test]
fn an_allowed_network_allows_its_mapped_addresses_and_nothing_else() {
    let policy = allowing(&["127.0.0.0/8"]);
    for url in ["http://127.0.0.1/", "http://[::ffff:127.9.9.9]/"] {
        policy.check_url(url).expect(url);
    }
    for url in [
        "http://[::1]/",
        "http://10.0.0.1/",
        "http://[64:ff9b::7f00:1]/",
        "http://[::7f00:1]/",
    ] {
        policy.check_url(url).expect_err(url);
    }
}

#[test]
fn an_allowed_translator_does_not_open_what_is_behind_it() {
    let policy = allowing(&["64:ff9b::/96", "2002::/16"]);
    policy
        .check_url("http://[64:ff9b::8.8.8.8]/")
        .expect("a public address behind NAT64");
    policy
        .check_url("http://[2002:808:808::1]/")
        .expect("a public address behind 6to4");
    for url in [
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b::10.0.0.1]/",
        "http://[2002:a9fe:a9fe::]/",
    ] {
        policy.check_url(url).expect_err(url);
    }
    allowing(&["64:ff9b::/96", "10.0.0.0/8"])
        .check_url("http://[64:ff9b::10.0.0.1]/")
        .expect("both allowed");
}

fn special_v4() -> impl Strategy<Value = Ipv4Addr> {
    let networks = prop::sample::select(vec![
        ([0, 0, 0, 0], 8),
        ([10, 0, 0, 0], 8),
        ([100, 64, 0, 0], 10),
        ([127, 0, 0, 0], 8),
        ([169, 254, 0, 0], 16),
        ([172, 16, 0, 0], 12),
        ([192, 0, 0, 0], 24),
        ([192, 0, 2, 0], 24),
        ([192, 168, 0, 0], 16),
        ([198, 18, 0, 0], 15),
        ([198, 51, 100, 0], 24),
        ([203, 0, 113, 0], 24),
        ([224, 0, 0, 0], 4),
        ([240, 0, 0, 0], 4),
    ]);
    (networks, any::<u32>()).prop_map(|((network, length), host): (([u8; 4], u32), u32)| {
        Ipv4Addr::from_bits(u32::from_be_bytes(network) | (host & (u32::MAX >> length)))
    })
}

/// Returns every standard way to embed an IPv4 address in an IPv6 address.
fn embeddings(v4: Ipv4Addr) -> Vec<Ipv6Addr> {
    let [a, b, c, d] = v4.octets().map(u16::from);
    let (high, low) = (a << 8 | b, c << 8 | d);
    vec![
        v4.to_ipv6_mapped(),
        Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 1, high, c, d << 8, 0, 0),
        Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0x2001, 0, high, low, 0, 0, 0x7f7f, 0x7f7f),
        Ipv6Addr::new(0x2001, 0, 0x4136, 0xe378, 0x8000, 0x63bf, !high, !low),
    ]
}

proptest! {
    #[test]
    fn no_ipv6_spelling_of_a_refused_ipv4_address_passes(v4 in special_v4()) {
        let policy = public_only();
        prop_assert!(policy.check_addr(v4.into()).is_err());
        for v6 in embeddings(v4) {
            prop_assert!(policy.check_addr(v6.into()).is_err(), "{v6}");
            prop_assert!(policy.check_url(&format!("http://[{v6}]/")).is_err(), "{v6}");
        }
    }

    #[test]
    fn an_allowed_translator_never_opens_a_refused_ipv4_address(v4 in special_v4()) {
        let policy = allowing(&["64:ff9b::/96", "2002::/16", "2001::/32", "::/96"]);
        for v6 in embeddings(v4).into_iter().filter(|v6| ![0, 1].contains(&v6.to_bits())) {
            if v6.segments()[..5] != [0x2001, 0, 0x4136, 0xe378, 0x8000] && v6.segments()[..2] == [0x2001, 0] {
                // The address of a Teredo server, which is not the final recipient of the packet.
                continue;
            }
            prop_assert!(policy.check_addr(v6.into()).is_err(), "{v6}");
        }
    }

    #[test]
    fn an_ipv4_address_is_judged_the_same_however_it_is_spelled(bits in any::<u32>()) {
        let policy = public_only();
        let v4 = Ipv4Addr::from_bits(bits);
        let verdict = policy.check_addr(v4.into()).is_ok();
        let [a, b, c, d] = v4.octets();
        for host in [
            v4.to_string(),
            bits.to_string(),
            format!("0x{bits:x}"),
            format!("0{bits:o}"),
            format!("0x{a:x}.0{b:o}.{}", u32::from(c) << 8 | u32::from(d)),
            format!("[{}]", v4.to_ipv6_mapped()),
        ] {
            prop_assert_eq!(policy.check_url(&format!("http://{host}/")).is_ok(), verdict, "{}", host);
        }
    }

    #[test]
    fn only_2000_3_can_pass_in_ipv6(bits in any::<u128>()) {
        let v6 = Ipv6Addr::from_bits(bits);
        if v6.segments()[0] >> 13 != 1 && v6.to_ipv4_mapped().is_none() {
            prop_assert!(public_only().check_addr(v6.into()).is_err());
        }
    }

    #[test]
    fn what_passes_can_be_requested(rest in "[!-~é]{0,40}", host in "[!-~é]{1,12}") {
        for url in [format!("https://example.com/{rest}"), format!("https://{host}/"), format!("https://a.b?{rest}")] {
            if let Ok(url) = public_only().check_url(&url) {
                prop_assert!(url.as_str().parse::<hyper::Uri>().is_ok(), "{url}");
            }
        }
    }

    #[test]
    fn no_input_makes_the_policy_panic(url in ".{0,200}") {
        let _ = public_only().check_url(&url);
    }
}
