use std::time::Duration;

use egress::Policy;

use crate::command::checks::Status;

use super::*;

/// Returns a path to these addresses, judged by the policy of a worker without additional allowed networks.
fn way(addresses: &[&str]) -> NetworkPath {
    let policy = Policy::default();
    let judged = addresses.iter().map(|text| {
        let address: IpAddr = text.parse().unwrap();
        (address, policy.check_addr(address).err())
    });
    NetworkPath {
        addresses: judged.collect(),
        lookup: Some(Duration::from_millis(3)),
        ..NetworkPath::default()
    }
}

fn lines(way: &NetworkPath, url: &str, now_s: i64) -> Vec<String> {
    let url = Url::parse(url).unwrap();
    remarks(way, &url, now_s)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn an_address_is_good_or_left_out_or_all_are_refused() {
    for (addresses, outcome, closed, words) in [
        (
            &["93.184.216.34"][..],
            Some(Status::Ok),
            false,
            "93.184.216.34; looked up in 3 ms",
        ),
        (
            &["93.184.216.34", "10.0.0.1"],
            Some(Status::Warn),
            false,
            "10.0.0.1 (refused: private)",
        ),
        (&["127.0.0.1"], Some(Status::Fail), true, "--allow 127.0.0.0/8"),
        (&["192.0.2.1"], Some(Status::Fail), true, "public address"),
        (&[], None, false, ""),
    ] {
        let way = way(addresses);
        let remark = super::addresses(&way);
        assert_eq!(remark.as_ref().map(Remark::outcome), outcome, "{addresses:?}");
        assert_eq!(is_closed(&way), closed, "{addresses:?}");
        let text = remark.map(|remark| remark.to_string()).unwrap_or_default();
        assert!(text.contains(words) && !text.contains("egress.allow"), "{text}");
    }
}

#[test]
fn a_certificate_has_to_be_trusted_and_good_for_two_weeks() {
    for (not_after_s, refused, outcome, words) in [
        (90 * DAY_S, None, Status::Ok, "90 days left, until 1970-04-01"),
        (
            90 * DAY_S,
            Some("no\u{1b} trust"),
            Status::Fail,
            "no\\u{1b} trust",
        ),
        (14 * DAY_S, None, Status::Ok, "14 days left"),
        (14 * DAY_S - 1, None, Status::Fail, "13 days left"),
        (DAY_S, None, Status::Fail, "1 day left"),
        (-1, Some("it has expired"), Status::Fail, "expired on"),
    ] {
        let shown = Certificate {
            subject: "a.example".to_owned(),
            issuer: "CN=An\u{1b}authority".to_owned(),
            not_after_s,
        };
        let remark = certificate(&shown, refused, 0);
        assert_eq!(remark.outcome(), outcome, "{not_after_s}");
        let text = remark.to_string();
        assert!(text.contains(words) && !text.contains('\u{1b}'), "{text}");
    }
}

#[test]
fn a_good_way_and_one_in_clear() {
    let good = NetworkPath {
        connected: Some("93.184.216.34".parse().unwrap()),
        connect: Some(Duration::from_millis(12)),
        tls: Some(Handshake {
            chain: vec![Certificate {
                subject: "a.example".to_owned(),
                issuer: "CN=An authority".to_owned(),
                not_after_s: 1_803_344_400,
            }],
            refused: None,
            took: Some(Duration::from_millis(30)),
            version: Some("TLS 1.3"),
            protocol: Some("h2".to_owned()),
        }),
        ..way(&["93.184.216.34"])
    };
    insta::assert_snapshot!(lines(&good, "https://a.example/", 1_795_568_400).join("\n"));
    let clear = lines(&way(&["93.184.216.34"]), "http://a.example/", 0);
    assert!(clear[1].contains("use https"), "{clear:?}");
    assert_eq!(lines(&way(&[]), "https://a.example/", 0), Vec::<String>::new());
}
