//! Checks an arbitrary URL of an endpoint. The check must not panic, and an accepted URL must lead to a
//! public address or to a name.
#![no_main]

use std::{net::IpAddr, sync::LazyLock};

use egress::Policy;
use libfuzzer_sys::fuzz_target;

static PUBLIC_ONLY: LazyLock<Policy> = LazyLock::new(|| Policy::new(Vec::new()));

fuzz_target!(|text: &str| {
    let url = match PUBLIC_ONLY.check_url(text) {
        Ok(url) => url,
        Err(refusal) => return assert!(!refusal.to_string().is_empty()),
    };
    assert!(matches!(url.scheme(), "http" | "https"));
    assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
    let host = url.host_str().expect("what passed has a host");
    // Every other parser of the same text must come to the same result. The system's parser, for example,
    // accepts 0x7f.1 as an address.
    assert!(!is_numeric(host), "{host} may be read as an address");
    if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        PUBLIC_ONLY
            .check_addr(address)
            .expect("an address that passed in a URL passes by itself");
    }
    let again = PUBLIC_ONLY
        .check_url(url.as_str())
        .expect("what passed passes again");
    assert_eq!(again, url);
});

/// Returns whether `inet_aton` might accept the host as an IPv4 address that is not written as four decimal
/// numbers.
fn is_numeric(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let decimal = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    let hexadecimal = last
        .strip_prefix("0x")
        .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    (decimal || hexadecimal) && host.parse::<IpAddr>().is_err()
}
