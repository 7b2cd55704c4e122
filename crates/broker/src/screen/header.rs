//! Validation of content headers, and replacement of those that lapin cannot read.
//!
//! The validation follows lapin's parser step by step, without allocating and with a maximum depth.

use std::str;

use super::{AROUND_PAYLOAD, BODY_MAX, CUT, FRAME_MIN, RAW, RAW_MAX, UNREADABLE};

/// The maximum nesting depth of tables and arrays. RabbitMQ's own `x-death` has three levels; lapin's parser
/// can read several hundred.
const DEPTH_MAX: usize = 32;
/// The number of bytes before the property flags: class, weight and size of the body.
const BEFORE_FLAGS: usize = 12;
const BEFORE_BODY_BYTES: usize = 4;
const BEFORE_PROPERTIES: usize = BEFORE_FLAGS + 2;
const HEADERS: usize = 2;

/// The properties of the class `basic` of AMQP 0-9-1, in the order of their flags.
const PROPERTIES: [(&str, Kind); 14] = [
    ("content_type", Kind::Text),
    ("content_encoding", Kind::Text),
    ("headers", Kind::Table),
    ("delivery_mode", Kind::Fixed(1)),
    ("priority", Kind::Fixed(1)),
    ("correlation_id", Kind::Text),
    ("reply_to", Kind::Text),
    ("expiration", Kind::Text),
    ("message_id", Kind::Text),
    ("timestamp", Kind::Fixed(8)),
    ("type", Kind::Text),
    ("user_id", Kind::Text),
    ("app_id", Kind::Text),
    ("cluster_id", Kind::Text),
];

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Table,
    Fixed(usize),
}

/// A part of a content header that lapin cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// A property's name, or `frame`.
    part: &'static str,
    what: &'static str,
}

/// One property, as encoded in the header.
struct Property<'a> {
    index: usize,
    /// The value, preceded by its length if it has one.
    bytes: &'a [u8],
    fault: Option<&'static str>,
}

const ENDS_EARLY: &str = "is longer than the frame";
const NOT_UTF8: &str = "is not UTF-8";
const NAME_NOT_UTF8: &str = "have a name that is not UTF-8";
const UNKNOWN_TYPE: &str = "have a value of an unknown type";
const TOO_DEEP: &str = "are nested more than 32 levels deep";
const CUT_VALUE: &str = "have a value that ends early";

/// Checks that lapin can read the payload of this content header.
pub(super) fn check(payload: &[u8]) -> Result<(), Fault> {
    let mut walk = Walk::of(payload).ok_or(Fault {
        part: "frame",
        what: "is too short for a content header",
    })?;
    for property in &mut walk {
        if let Some(what) = property.fault {
            let part = PROPERTIES[property.index].0;
            return Err(Fault { part, what });
        }
    }
    if walk.rest.is_empty() {
        Ok(())
    } else {
        let what = "has bytes after the last property";
        Err(Fault { part: "frame", what })
    }
}

/// The fault of a header that does not fit into a frame that lapin accepts.
pub(super) const TOO_LARGE: Fault = Fault {
    part: "frame",
    what: "is larger than the connection's frame-max",
};

/// Returns the size of the body in bytes; 0 if the payload does not contain it.
pub(super) fn body_bytes(payload: &[u8]) -> u64 {
    let bytes = payload.get(BEFORE_BODY_BYTES..BEFORE_FLAGS);
    bytes
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Returns a payload that lapin can read, to replace one that it cannot read or whose body is truncated to
/// [`BODY_MAX`].
///
/// The replacement has the properties that are valid and fit into a frame of `frame_max` bytes, and a
/// description of the error. Returns `None` if the payload does not even contain the size of the body and the
/// property flags.
pub(super) fn replacement(payload: &[u8], fault: Option<Fault>, frame_max: usize) -> Option<Vec<u8>> {
    let raw = &payload[BEFORE_FLAGS.min(payload.len())..];
    let mut flags = 0_u16;
    let (mut before, mut headers, mut after) = (Vec::new(), Vec::new(), Vec::new());
    // The headers must leave room for the other properties, at most 256 bytes each, and for the added
    // headers.
    let raw = &raw[..raw.len().min(RAW_MAX).min(frame_max / 8)];
    let headers_max = frame_max.saturating_sub(raw.len() + FRAME_MIN);
    for property in Walk::of(payload)?.filter(|property| property.fault.is_none()) {
        match property.index {
            HEADERS if property.bytes.len() > headers_max => continue,
            HEADERS => headers.extend_from_slice(&property.bytes[4..]),
            index if index < HEADERS => before.extend_from_slice(property.bytes),
            _ => after.extend_from_slice(property.bytes),
        }
        flags |= flag(property.index);
    }
    if let Some(Fault { part, what }) = fault {
        add_header(&mut headers, UNREADABLE, format!("{part} {what}").as_bytes());
        add_header(&mut headers, RAW, raw);
    }
    let body_bytes = body_bytes(payload);
    if body_bytes > BODY_MAX {
        add_header(&mut headers, CUT, body_bytes.to_string().as_bytes());
    }
    flags |= flag(HEADERS);
    let mut replaced = payload[..BEFORE_BODY_BYTES].to_vec();
    replaced.extend_from_slice(&body_bytes.min(BODY_MAX).to_be_bytes());
    replaced.extend_from_slice(&flags.to_be_bytes());
    replaced.extend(before);
    replaced.extend_from_slice(&length(&headers));
    replaced.extend(headers);
    replaced.extend(after);
    debug_assert!(frame_max < FRAME_MIN || replaced.len() + AROUND_PAYLOAD <= frame_max);
    Some(replaced)
}

fn add_header(table: &mut Vec<u8>, name: &str, text: &[u8]) {
    table.push(name.len() as u8);
    table.extend_from_slice(name.as_bytes());
    table.push(b'S');
    table.extend_from_slice(&length(text));
    table.extend_from_slice(text);
}

fn length(bytes: &[u8]) -> [u8; 4] {
    (bytes.len() as u32).to_be_bytes()
}

const fn flag(index: usize) -> u16 {
    1 << (15 - index)
}

/// An iterator over the properties that the flags name, up to the first one whose end is unknown.
struct Walk<'a> {
    flags: u16,
    index: usize,
    rest: &'a [u8],
}

impl<'a> Walk<'a> {
    /// Returns `None` if the payload ends before its properties begin.
    fn of(payload: &'a [u8]) -> Option<Self> {
        let flags = payload.get(BEFORE_FLAGS..BEFORE_PROPERTIES)?;
        Some(Self {
            flags: u16::from_be_bytes([flags[0], flags[1]]),
            index: 0,
            rest: &payload[BEFORE_PROPERTIES..],
        })
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        while self.index < PROPERTIES.len() && self.flags & flag(self.index) == 0 {
            self.index += 1;
        }
        let (_, kind) = PROPERTIES.get(self.index)?;
        let index = self.index;
        self.index += 1;
        let Some(bytes) = split(&mut self.rest, *kind) else {
            self.index = PROPERTIES.len();
            return Some(Property {
                index,
                bytes: &[],
                fault: Some(ENDS_EARLY),
            });
        };
        let fault = match kind {
            Kind::Text if str::from_utf8(&bytes[1..]).is_err() => Some(NOT_UTF8),
            Kind::Table => table(&bytes[4..], 1).err(),
            _ => None,
        };
        Some(Property { index, bytes, fault })
    }
}

/// Splits off one property; returns `None` if its length exceeds the remaining bytes.
fn split<'a>(rest: &mut &'a [u8], kind: Kind) -> Option<&'a [u8]> {
    let length = match kind {
        Kind::Text => 1 + usize::from(*rest.first()?),
        Kind::Table => 4 + long(rest)?,
        Kind::Fixed(length) => length,
    };
    rest.split_off(..length)
}

fn long(bytes: &[u8]) -> Option<usize> {
    let length = bytes.first_chunk()?;
    Some(u32::from_be_bytes(*length) as usize)
}

fn table(mut rest: &[u8], depth: usize) -> Result<(), &'static str> {
    while !rest.is_empty() {
        let name = split(&mut rest, Kind::Text).ok_or(CUT_VALUE)?;
        str::from_utf8(&name[1..]).map_err(|_| NAME_NOT_UTF8)?;
        value(&mut rest, depth)?;
    }
    Ok(())
}

fn array(mut rest: &[u8], depth: usize) -> Result<(), &'static str> {
    while !rest.is_empty() {
        value(&mut rest, depth)?;
    }
    Ok(())
}

/// Checks one value of a type that lapin supports. The types have RabbitMQ's letters.
fn value(rest: &mut &[u8], depth: usize) -> Result<(), &'static str> {
    let letter = *rest.split_off_first().ok_or(CUT_VALUE)?;
    let kind = match letter {
        b'V' => Kind::Fixed(0),
        b't' | b'b' | b'B' => Kind::Fixed(1),
        b's' | b'U' | b'u' => Kind::Fixed(2),
        b'I' | b'i' | b'f' => Kind::Fixed(4),
        b'D' => Kind::Fixed(5),
        b'L' | b'l' | b'd' | b'T' => Kind::Fixed(8),
        b'S' | b'x' | b'A' | b'F' => Kind::Table,
        _ => return Err(UNKNOWN_TYPE),
    };
    let bytes = split(rest, kind).ok_or(CUT_VALUE)?;
    match letter {
        b'A' | b'F' if depth >= DEPTH_MAX => Err(TOO_DEEP),
        b'A' => array(&bytes[4..], depth + 1),
        b'F' => table(&bytes[4..], depth + 1),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests;
