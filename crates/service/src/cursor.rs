//! Cursors: positions in listings and searches as text.
//!
//! A cursor is the URL-safe base64 of the position's JSON. Clients pass it back unchanged and treat it as
//! opaque, but nothing prevents them from making one up: the operation that reads a cursor decides what the
//! caller may see.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};

/// The maximum length of a cursor. Every position fits into it: the longest one has an organization's id of
/// 255 control characters, each of which JSON writes as six characters.
const CURSOR_CHARS_MAX: usize = 2304;

/// Returns the cursor of a position, which contains only texts and numbers.
pub fn encode(position: &impl Serialize) -> String {
    let position = serde_json::to_vec(position).expect("a position contains only texts and numbers");
    URL_SAFE_NO_PAD.encode(position)
}

/// Returns the position of a cursor; `None` if the text is not the cursor of such a position.
pub fn decode<P: DeserializeOwned>(cursor: &str) -> Option<P> {
    if cursor.len() > CURSOR_CHARS_MAX {
        return None;
    }
    let position = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    serde_json::from_slice(&position).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_has_its_position() {
        let position = (u64::MAX, "é\"\0".to_owned(), None::<String>);
        let found = decode::<(u64, String, Option<String>)>(&encode(&position));
        assert_eq!(found, Some(position));
    }

    #[test]
    fn a_text_that_is_no_cursor_has_no_position() {
        let good = encode(&("a", 1));
        for text in [
            "",
            "x",
            "WyJhIiwxXQ==",
            &good[1..],
            &format!("{good} "),
            &encode(&("a", -1)),
            &encode(&("a", 1, 1)),
            &encode(&"a"),
            &encode(&("a".repeat(CURSOR_CHARS_MAX), 1)),
            "[\"a\",1]",
        ] {
            assert_eq!(decode::<(String, u64)>(text), None, "{text}");
        }
        assert_eq!(decode::<(String, u64)>(&good), Some(("a".to_owned(), 1)));
    }
}
