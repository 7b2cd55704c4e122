//! The opening handshake of a WebSocket (RFC 6455), from the side of the client.

use reqwest::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

/// The name of the protocol in the header `Upgrade`.
const PROTOCOL: &str = "websocket";
/// The only version of the protocol.
const VERSION: &str = "13";

/// Returns a new random key of a handshake.
pub(crate) fn key() -> HeaderValue {
    HeaderValue::try_from(generate_key()).expect("it is base64")
}

/// Adds the headers that request a WebSocket.
pub(crate) fn ask(headers: &mut HeaderMap, key: &HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
    headers.insert(SEC_WEBSOCKET_KEY, key.clone());
}

/// Checks the headers of an answer with status 101. An answer with another key is not one to this request, but for
/// example one that a proxy has stored.
///
/// # Errors
/// Returns what is wrong with the answer.
pub(crate) fn accepted(headers: &HeaderMap, key: &HeaderValue) -> Result<(), &'static str> {
    let upgrade = headers.get(UPGRADE).map(HeaderValue::as_bytes);
    if !upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(PROTOCOL.as_bytes())) {
        return Err("it does not switch to the protocol websocket");
    }
    let accept = headers.get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
    if accept != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err("its header Sec-WebSocket-Accept does not fit the key of the request");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(upgrade: &'static str, accept: &'static str) -> HeaderMap {
        [(UPGRADE, upgrade), (SEC_WEBSOCKET_ACCEPT, accept)]
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .into_iter()
            .collect()
    }

    #[test]
    fn only_an_answer_to_the_same_key_is_accepted() {
        // The example in RFC 6455, section 1.3.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let right = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        assert_eq!(accepted(&answer("websocket", right), &key), Ok(()));
        assert_eq!(accepted(&answer("WebSocket", right), &key), Ok(()));
        for bad in [
            answer("h2c", right),
            answer("websocket", "S3PPLMBITXAQ9KYGZZHZRBK+XOO="),
            answer("websocket", ""),
            HeaderMap::new(),
        ] {
            assert!(accepted(&bad, &key).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_request_has_a_key_of_its_own_each_time() {
        let (one, other) = (key(), key());
        assert_ne!(one, other);
        let mut headers = HeaderMap::new();
        ask(&mut headers, &one);
        assert_eq!(headers[SEC_WEBSOCKET_KEY], one);
        assert_eq!(headers[SEC_WEBSOCKET_VERSION], "13");
    }
}
