use std::iter;

use lapin::{BasicProperties, protocol::basic::parse_properties, types::AMQPValue};
use proptest::prelude::*;

use super::{super::limit, *};

/// Returns a content header of class `basic` for a body of 5 bytes.
pub(in super::super) fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
    payload.extend_from_slice(&flags.to_be_bytes());
    payload.extend_from_slice(properties);
    payload
}

/// Returns a field table with these bytes.
pub(in super::super) fn table_of(entries: &[u8]) -> Vec<u8> {
    [&length(entries), entries].concat()
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[text.len() as u8], text].concat()
}

/// Returns the properties that lapin reads, if it reads all bytes.
fn parsed(payload: &[u8]) -> Option<BasicProperties> {
    match parse_properties(&payload[BEFORE_FLAGS..]) {
        Ok(([], properties)) => Some(properties),
        _ => None,
    }
}

fn replaced(payload: &[u8]) -> BasicProperties {
    let fault = check(payload).unwrap_err();
    let replaced = replacement(payload, Some(fault), limit(0)).unwrap();
    assert_eq!(check(&replaced), Ok(()));
    parsed(&replaced).unwrap()
}

fn text(properties: &BasicProperties, name: &str) -> Vec<u8> {
    let headers = properties.headers().as_ref().unwrap();
    match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.as_bytes().to_vec(),
        other => panic!("{name} is {other:?}"),
    }
}

fn told(payload: &[u8]) -> String {
    String::from_utf8(text(&replaced(payload), UNREADABLE)).unwrap()
}

/// Returns `depth` nested arrays in a table.
fn nested(depth: usize) -> Vec<u8> {
    let array =
        iter::repeat_n((), depth).fold(Vec::new(), |inner, ()| [&b"A"[..], &table_of(&inner)].concat());
    table_of(&[&short(b"x")[..], &array].concat())
}

#[test]
fn what_is_valid_stays_when_a_property_is_not() {
    let properties = [
        short(b"application/json"),
        table_of(&[&short(b"k")[..], b"S", &table_of(b"v")].concat()),
        vec![2],
        short(b"evt_1"),
        short(b"lead.created"),
        short(b"pipeline-\xe9"),
    ];
    let flags = [0, 2, 3, 8, 10, 12].map(flag).iter().sum();
    let payload = header(flags, &properties.concat());
    assert!(parsed(&payload).is_none(), "lapin cannot read it");
    let replaced = replaced(&payload);
    assert_eq!(text(&replaced, UNREADABLE), b"app_id is not UTF-8");
    assert_eq!(text(&replaced, RAW), payload[BEFORE_FLAGS..]);
    assert_eq!(text(&replaced, "k"), b"v");
    let texts = [
        replaced.content_type(),
        replaced.message_id(),
        replaced.kind(),
        replaced.app_id(),
    ];
    let texts = texts.map(|text| text.as_ref().map(lapin::types::ShortString::as_str));
    assert_eq!(
        texts,
        [
            Some("application/json"),
            Some("evt_1"),
            Some("lead.created"),
            None
        ]
    );
    assert_eq!(*replaced.delivery_mode(), Some(2));
}

#[test]
fn each_kind_of_fault_is_named() {
    let headers = flag(HEADERS);
    for (payload, expected) in [
        (header(flag(8), &short(b"\xff")), "message_id is not UTF-8"),
        (header(flag(10), b"\x05abc"), "type is longer than the frame"),
        (header(flag(9), &[0; 7]), "timestamp is longer than the frame"),
        (
            header(headers, &nested(32)),
            "headers are nested more than 32 levels deep",
        ),
        (
            header(headers, &nested(10_000)),
            "headers are nested more than 32 levels deep",
        ),
        (
            header(headers, &table_of(b"\x01\xe9V")),
            "headers have a name that is not UTF-8",
        ),
        (
            header(headers, &table_of(b"\x01kZ")),
            "headers have a value of an unknown type",
        ),
        (
            header(headers, &table_of(b"\x01kI\x00")),
            "headers have a value that ends early",
        ),
        (
            header(headers, &table_of(b"\x01k")),
            "headers have a value that ends early",
        ),
        (
            header(headers, b"\xff\xff\xff\xff"),
            "headers is longer than the frame",
        ),
        (header(0, b"more"), "frame has bytes after the last property"),
    ] {
        assert_eq!(told(&payload), expected);
    }
    assert_eq!(check(&header(headers, &nested(31))), Ok(()));
    assert!(check(b"short").is_err());
    assert_eq!(replacement(b"short", Some(TOO_LARGE), limit(0)), None);
}

#[test]
fn what_does_not_fit_into_a_frame_is_left_out() {
    for frame_max in [4096, 131_072] {
        let long = table_of(&[&short(b"k")[..], b"S", &table_of(&vec![b'x'; 140_000])].concat());
        let texts = short(&[b'x'; 255]).repeat(10);
        let flags = !flag(3) & !flag(4) & !flag(9) & !flag(13) & !3;
        let content_types = short(&[b'x'; 255]).repeat(2);
        let payload = header(flags, &[content_types, long, texts[..256 * 7].to_vec()].concat());
        let replaced = replacement(&payload, Some(TOO_LARGE), frame_max).unwrap();
        assert!(
            replaced.len() + AROUND_PAYLOAD <= frame_max,
            "{} of {frame_max}",
            replaced.len()
        );
        let properties = parsed(&replaced).unwrap();
        assert_eq!(properties.message_id().as_ref().unwrap().as_str().len(), 255);
        assert_eq!(
            text(&properties, UNREADABLE),
            b"frame is larger than the connection's frame-max"
        );
        assert_eq!(properties.headers().as_ref().unwrap().inner().len(), 2);
    }
}

/// Generates bytes that are often almost valid.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let letter = prop::sample::select(b"tbBsUuIiLlfdDSATFxV_\x00".to_vec());
    let value = (letter, prop::collection::vec(any::<u8>(), 0..12))
        .prop_map(|(letter, value)| [&[letter][..], &value].concat());
    let sized = (letter_of_sized(), prop::collection::vec(any::<u8>(), 0..6))
        .prop_map(|(letter, value)| [&[letter][..], &table_of(&value)].concat());
    let value = prop_oneof![value, sized];
    let entry = ("[a-z]{0,3}", value).prop_map(|(name, value)| [short(name.as_bytes()), value].concat());
    let table = prop::collection::vec(entry, 0..4).prop_map(|entries| table_of(&entries.concat()));
    let text = prop_oneof![
        "[a-z]{0,8}".prop_map(|text| short(text.as_bytes())),
        prop::collection::vec(any::<u8>(), 0..4).prop_map(|text| short(&text)),
    ];
    let part = prop_oneof![4 => table, 4 => text, 1 => prop::collection::vec(any::<u8>(), 0..9)];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

fn letter_of_sized() -> impl Strategy<Value = u8> {
    prop::sample::select(b"SAFx".to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn what_passes_is_what_lapin_reads(flags in any::<u16>(), properties in bytes()) {
        let payload = header(flags, &properties);
        prop_assert_eq!(check(&payload).is_ok(), parsed(&payload).is_some(), "{:?}", check(&payload));
    }

    #[test]
    fn what_is_replaced_can_be_read(flags in any::<u16>(), properties in bytes(), frame_max in 4096_usize..9000) {
        let payload = header(flags, &properties);
        let replaced = replacement(&payload, Some(TOO_LARGE), frame_max).unwrap();
        prop_assert_eq!(check(&replaced), Ok(()));
        prop_assert!(parsed(&replaced).is_some());
        prop_assert_eq!(&replaced[..BEFORE_FLAGS], &payload[..BEFORE_FLAGS]);
    }
}
