//! Findings about the network path to the endpoint.
//!
//! A step that failed has no line, except a refused certificate: the good request fails for the same reason and
//! reports it in the worker's words. No request is made at all only if the policy forbids every address.

use std::net::IpAddr;

use egress::{Certificate, EXPIRES_SOON, Handshake, NetworkPath, Refusal};
use runtime::time;
use url::Url;

use crate::output::{counted, printable};

use super::remark::{Remark, span};

const DAY_S: i64 = 24 * 60 * 60;
/// What to do about a certificate that is refused.
pub(super) const CERTIFICATE: &str = "install a certificate that a public authority has issued for this host, with its intermediate certificates";

/// Returns whether the name resolved to addresses of which none may be reached.
pub(super) fn is_closed(way: &NetworkPath) -> bool {
    !way.addresses.is_empty() && way.addresses.iter().all(|(_, refusal)| refusal.is_some())
}

pub(super) fn remarks(way: &NetworkPath, url: &Url, now_s: i64) -> Vec<Remark> {
    let mut remarks: Vec<_> = addresses(way).into_iter().chain(connection(way)).collect();
    match &way.tls {
        Some(handshake) => {
            remarks.extend(tls(handshake));
            // The first certificate is the server's own.
            let refused = std::iter::once(handshake.refused.as_deref()).chain(std::iter::repeat(None));
            let chain = handshake.chain.iter().zip(refused);
            remarks.extend(chain.map(|(shown, refused)| certificate(shown, refused, now_s)));
        }
        None if url.scheme() == "http" => remarks.push(Remark::advice(
            "tls",
            "the URL is http: anyone on the network path can read the events",
            "use https",
        )),
        None => {}
    }
    remarks
}

fn addresses(way: &NetworkPath) -> Option<Remark> {
    const WHAT: &str = "address";
    let refused = way.addresses.iter().find_map(|(_, refusal)| refusal.as_ref());
    let list: Vec<_> = way.addresses.iter().map(address).collect();
    let mut detail = list.join(", ");
    if let Some(took) = way.lookup {
        detail = format!("{detail}; looked up in {}", span(took));
    }
    let remark = match refused {
        None if way.addresses.is_empty() => return None,
        None => Remark::ok(WHAT, detail),
        Some(refusal) if is_closed(way) => Remark::wrong(WHAT, not_public(refusal), allow(refusal)),
        Some(_) => Remark::advice(
            WHAT,
            detail,
            "workers skip the refused addresses; make the name resolve to public addresses only",
        ),
    };
    let [reached, refused] = [false, true].map(|refused| {
        let some = way
            .addresses
            .iter()
            .filter(|(_, refusal)| refusal.is_some() == refused);
        some.map(|(address, _)| address.to_string()).collect::<Vec<_>>()
    });
    Some(
        remark
            .with("addresses", reached)
            .with("refused", refused)
            .took("lookup_ms", way.lookup),
    )
}

fn address((address, refusal): &(IpAddr, Option<Refusal>)) -> String {
    match refusal {
        Some(Refusal::Address { class, .. }) => format!("{address} (refused: {class})"),
        Some(_) => format!("{address} (refused)"),
        None => address.to_string(),
    }
}

/// Says why an address is refused, without the operator's settings: they do not help the endpoint's owner.
fn not_public(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Address {
            address,
            class,
            network,
            ..
        } => format!(
            "{address} is a {class} address ({network}), and webhooks are sent to public addresses only"
        ),
        other => other.to_string(),
    }
}

fn allow(refusal: &Refusal) -> String {
    let public = "give the endpoint a public address";
    match refusal {
        Refusal::Address {
            allowance: Some(network),
            ..
        } => format!("{public}; to check it as it is, add --allow {network}"),
        _ => public.to_owned(),
    }
}

fn connection(way: &NetworkPath) -> Option<Remark> {
    let (address, took) = (way.connected?, way.connect?);
    let detail = format!("to {address} in {}", span(took));
    Some(Remark::ok("connection", detail).took("connect_ms", way.connect))
}

fn tls(handshake: &Handshake) -> Option<Remark> {
    let (took, version) = (handshake.took?, handshake.version?);
    // A server without ALPN speaks HTTP/1.1.
    let protocol = handshake.protocol.as_deref().unwrap_or("http/1.1");
    let detail = format!("{version}, {} in {}", printable(protocol), span(took));
    Some(
        Remark::ok("tls", detail)
            .with("version", version)
            .with("protocol", protocol)
            .took("tls_ms", handshake.took),
    )
}

fn certificate(shown: &Certificate, refused: Option<&str>, now_s: i64) -> Remark {
    const WHAT: &str = "certificate";
    let left_s = shown.not_after_s - now_s;
    let days_left = left_s.div_euclid(DAY_S);
    let until = time::second(u64::try_from(shown.not_after_s).unwrap_or(0) * 1000);
    let left = if left_s < 0 {
        format!("expired on {until}")
    } else {
        let days = counted(days_left.unsigned_abs(), "day", "days");
        format!("{days} left, until {until}")
    };
    let (subject, issuer) = (printable(&shown.subject), printable(&shown.issuer));
    let detail = format!("{subject}, issued by {issuer}: {left}");
    let remark = if left_s < EXPIRES_SOON.as_secs() as i64 {
        Remark::wrong(
            WHAT,
            detail,
            "renew it, and find out why it was not renewed automatically; with an expired certificate, every delivery fails",
        )
    } else if let Some(reason) = refused {
        Remark::wrong(WHAT, format!("{detail}; {}", printable(reason)), CERTIFICATE)
    } else {
        Remark::ok(WHAT, detail)
    };
    remark
        .with("subject", &*shown.subject)
        .with("issuer", &*shown.issuer)
        .with("days_left", days_left)
}

#[cfg(test)]
mod tests;
