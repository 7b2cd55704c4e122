//! Reads the answers that programs send.

use axum::body::Bytes;
use webhook::{Answer, RESPONSE_BODY_BYTES_MAX};
use wire::RelayAnswer;

use super::end::{End, NOT_AN_OBJECT, RETRY_AFTER, STATUS};

/// The maximum length of `Retry-After`, in bytes.
const RETRY_AFTER_BYTES_MAX: usize = 128;

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    /// The request that the program names, which may be none of its own.
    pub(super) request: String,
    /// The response; `None` if the receiver closed the connection without one.
    pub(super) answer: Option<Answer>,
}

impl Answered {
    /// Reads an answer. Cuts its body to the length that is read of other responses.
    ///
    /// # Errors
    /// Returns why the connection ends if the text is not an answer.
    pub(super) fn parse(text: &str) -> Result<Self, End> {
        let given: RelayAnswer = serde_json::from_str(text).map_err(|_| End::NotAnswer(NOT_AN_OBJECT))?;
        if given.status.is_some_and(|status| !(200..=599).contains(&status)) {
            return Err(End::NotAnswer(STATUS));
        }
        let fits = |text: &str| text.len() <= RETRY_AFTER_BYTES_MAX && !text.contains(char::is_control);
        if given.retry_after.as_deref().is_some_and(|text| !fits(text)) {
            return Err(End::NotAnswer(RETRY_AFTER));
        }
        let (retry_after, mut body) = (given.retry_after, given.body);
        body.truncate(body.floor_char_boundary(RESPONSE_BODY_BYTES_MAX));
        Ok(Self {
            request: given.request,
            answer: given.status.map(|status| Answer {
                status,
                retry_after,
                body: Bytes::from(body),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_that_of_an_http_response() {
        let text = r#"{"request":"7","status":503,"retry_after":"30","body":"später","more":[]}"#;
        let expected = Answer {
            status: 503,
            retry_after: Some("30".to_owned()),
            body: Bytes::from("später"),
        };
        let answered = Answered::parse(text).unwrap();
        assert_eq!(
            (answered.request.as_str(), answered.answer),
            ("7", Some(expected))
        );
        let closed = Answered::parse(r#"{"request":"8","status":null,"body":"x"}"#).unwrap();
        assert_eq!((closed.request.as_str(), closed.answer), ("8", None));
    }

    #[test]
    fn what_is_not_an_answer_says_why() {
        for (text, why) in [
            ("", NOT_AN_OBJECT),
            ("[]", NOT_AN_OBJECT),
            ("{}", NOT_AN_OBJECT),
            (r#"{"request":7,"status":200}"#, NOT_AN_OBJECT),
            (r#"{"request":"7"}"#, NOT_AN_OBJECT),
            (r#"{"request":"7","status":"200"}"#, NOT_AN_OBJECT),
            (r#"{"request":"7","status":-1}"#, NOT_AN_OBJECT),
            (r#"{"request":"7","status":99999}"#, NOT_AN_OBJECT),
            (r#"{"request":"7","status":200} {}"#, NOT_AN_OBJECT),
            (r#"{"request":"7","status":199}"#, STATUS),
            (r#"{"request":"7","status":600}"#, STATUS),
            (
                r#"{"request":"7","status":200,"retry_after":"1\n2"}"#,
                RETRY_AFTER,
            ),
        ] {
            assert_eq!(Answered::parse(text), Err(End::NotAnswer(why)), "{text}");
        }
        let long = json!({ "request": "7", "status": 429, "retry_after": "1".repeat(129) }).to_string();
        assert_eq!(Answered::parse(&long), Err(End::NotAnswer(RETRY_AFTER)));
    }

    #[test]
    fn a_long_body_is_cut_between_two_characters() {
        let body = format!("x{}", "ü".repeat(RESPONSE_BODY_BYTES_MAX));
        let text = json!({ "request": "7", "status": 200, "body": body }).to_string();
        let answer = Answered::parse(&text).unwrap().answer.unwrap();
        assert_eq!(answer.body.len(), RESPONSE_BODY_BYTES_MAX - 1);
        assert!(std::str::from_utf8(&answer.body).is_ok());
    }
}
