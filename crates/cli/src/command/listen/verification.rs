//! The verification of a request's two signatures, with the probable cause of a failure.
//!
//! From an HMAC that does not match, it cannot be told whether the secret is wrong or the body was changed.
//! Other facts help to tell: whether the other signature matches, whether the event's id is derived from the
//! body, and whether the body matches after undoing common changes that proxies and frameworks make to JSON.

use std::fmt;

use serde::Serialize;
use signature::{SIGNATURE_HEADER, TOLERANCE_S, Verifier, VerifyError, WEBHOOK_SIGNATURE_HEADER};
use webhook::EventId;

/// The headers with the signatures and the values that they sign.
#[derive(Clone, Debug, Default)]
pub(super) struct Signed {
    /// `X-Magnetite-Signature`.
    pub(super) contract: Option<String>,
    /// `webhook-id`.
    pub(super) id: Option<String>,
    /// `webhook-timestamp`.
    pub(super) timestamp: Option<String>,
    /// `webhook-signature`.
    pub(super) standard: Option<String>,
}

/// The results for both signatures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Verdicts {
    /// The result for `X-Magnetite-Signature`.
    pub(super) contract: Verification,
    /// The result for `webhook-signature`, which also signs the id and the timestamp.
    pub(super) standard: Verification,
}

/// The result for one signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Verification {
    pub(super) verdict: Word,
    /// The reason in words; `None` if the signature is valid.
    pub(super) why: Option<String>,
}

/// The result as one of a closed set of values, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// The signature is valid.
    Valid,
    /// The signature was made with another secret.
    WrongSecret,
    /// The body differs from what was signed.
    BodyChanged,
    /// The body is what was signed, but the id or the timestamp is not.
    HeaderChanged,
    /// The signature's timestamp is too old, or in the future.
    StaleTimestamp,
    /// The header is missing, or contains no signature.
    MalformedSignature,
}

/// The reason why a well-formed signature does not match.
#[derive(Clone, Copy)]
struct Cause {
    word: Word,
    why: &'static str,
}

impl Verdicts {
    /// Checks both signatures, each as a receiver that checks only that one.
    pub(super) fn of(verifier: &Verifier, signed: &Signed, body: &[u8], now_s: i64) -> Self {
        let contract = contract(verifier, signed, body);
        let standard = standard(verifier, signed, body, now_s, TOLERANCE_S);
        let cause = || cause(verifier, signed, body);
        // If either signature matches, regardless of its age, the body and the secret are right.
        let body_fits = contract.is_ok() || standard_fits(verifier, signed, body);
        Self {
            contract: Verification::new(SIGNATURE_HEADER, &contract, || {
                if body_fits { ANOTHER_SIGNATURE } else { cause() }
            }),
            standard: Verification::new(WEBHOOK_SIGNATURE_HEADER, &standard, || {
                if body_fits { CHANGED_HEADER } else { cause() }
            }),
        }
    }

    /// Returns why the request is not trusted; `None` if it is.
    pub(super) fn error(&self) -> Option<&str> {
        let why = self.contract.why.as_deref();
        why.or(self.standard.why.as_deref())
    }

    /// Returns whether a signature was probably made with another secret.
    pub(super) fn is_secret_wrong(&self) -> bool {
        [&self.contract, &self.standard]
            .iter()
            .any(|signature| signature.verdict == Word::WrongSecret)
    }
}

impl Verification {
    fn new(header: &str, checked: &Result<(), Rejection>, cause: impl Fn() -> Cause) -> Self {
        let told =
            |word, error: &dyn fmt::Display| (word, Some(format!("{header} does not verify: {error}")));
        let (verdict, why) = match checked {
            Ok(()) => (Word::Valid, None),
            Err(Rejection::Missing(name)) => (
                Word::MalformedSignature,
                Some(format!("the header {name} is missing")),
            ),
            Err(Rejection::Refused(VerifyError::Mismatch)) => {
                let Cause { word, why } = cause();
                told(word, &why)
            }
            Err(Rejection::Refused(error @ (VerifyError::TooOld { .. } | VerifyError::TooNew { .. }))) => {
                told(Word::StaleTimestamp, &error)
            }
            Err(Rejection::Refused(error)) => told(Word::MalformedSignature, &error),
        };
        Self { verdict, why }
    }
}

const ANOTHER_SIGNATURE: Cause = Cause {
    word: Word::WrongSecret,
    why: "it was made with another secret, while webhook-signature matches; during a rotation, answer 401: the request is then repeated at \
          once with the signature of the other secret",
};
const CHANGED_HEADER: Cause = Cause {
    word: Word::HeaderChanged,
    why: "the body and the secret are right, so webhook-id or webhook-timestamp was changed in transit",
};
const WRONG_SECRET: Cause = Cause {
    word: Word::WrongSecret,
    why: "the secret is wrong: the body is unchanged, since it matches the event's id, which is derived from it",
};
const LIKELY_WRONG_SECRET: Cause = Cause {
    word: Word::WrongSecret,
    why: "the secret is wrong, or the body was changed in transit",
};
const WRITTEN_ANEW: Cause = Cause {
    word: Word::BodyChanged,
    why: "the body was changed in transit: it matches with different white space, so something parsed the JSON and serialized it again",
};
const NO_JSON: Cause = Cause {
    word: Word::BodyChanged,
    why: "the body was changed in transit: it is no longer JSON",
};

/// Returns the probable cause for a body that matches neither signature.
fn cause(verifier: &Verifier, signed: &Signed, body: &[u8]) -> Cause {
    if signed.id.as_deref() == Some(EventId::from_body(body).as_str()) {
        return WRONG_SECRET;
    }
    let Some(text) = json(body) else {
        return NO_JSON;
    };
    let as_before = |body: &String| {
        contract(verifier, signed, body.as_bytes()).is_ok()
            || standard_fits(verifier, signed, body.as_bytes())
    };
    if spaced(text).iter().any(as_before) {
        WRITTEN_ANEW
    } else {
        LIKELY_WRONG_SECRET
    }
}

fn json(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    Some(text)
}

/// Returns the same JSON as most libraries serialize it: trimmed, without white space, with the separators
/// that Python uses, and with a line ending.
fn spaced(text: &str) -> [String; 4] {
    let compact = with_separators(text, ",", ":");
    let python = with_separators(text, ", ", ": ");
    let line = format!("{compact}\n");
    [text.trim().to_owned(), compact, python, line]
}

fn with_separators(json: &str, comma: &str, colon: &str) -> String {
    let (mut text, mut in_string, mut escaped) = (String::with_capacity(json.len()), false, false);
    for c in json.chars() {
        match c {
            _ if in_string => {
                text.push(c);
                (in_string, escaped) = (escaped || c != '"', !escaped && c == '\\');
            }
            ',' => text.push_str(comma),
            ':' => text.push_str(colon),
            c if c.is_ascii_whitespace() => {}
            c => {
                in_string = c == '"';
                text.push(c);
            }
        }
    }
    text
}

/// The reason why a signature is not accepted.
enum Rejection {
    Missing(&'static str),
    Refused(VerifyError),
}

fn contract(verifier: &Verifier, signed: &Signed, body: &[u8]) -> Result<(), Rejection> {
    let header = required(signed.contract.as_ref(), SIGNATURE_HEADER)?;
    verifier.verify(body, header).map_err(Rejection::Refused)
}

fn standard(
    verifier: &Verifier,
    signed: &Signed,
    body: &[u8],
    now_s: i64,
    tolerance_s: i64,
) -> Result<(), Rejection> {
    let id = required(signed.id.as_ref(), signature::WEBHOOK_ID_HEADER)?;
    let timestamp = required(signed.timestamp.as_ref(), signature::WEBHOOK_TIMESTAMP_HEADER)?;
    let signatures = required(signed.standard.as_ref(), WEBHOOK_SIGNATURE_HEADER)?;
    verifier
        .verify_standard(id, timestamp, signatures, body, now_s, tolerance_s)
        .map_err(Rejection::Refused)
}

/// Returns whether `webhook-signature` matches, regardless of its age.
fn standard_fits(verifier: &Verifier, signed: &Signed, body: &[u8]) -> bool {
    standard(verifier, signed, body, 0, i64::MAX).is_ok()
}

fn required<'a>(header: Option<&'a String>, name: &'static str) -> Result<&'a str, Rejection> {
    header.map(String::as_str).ok_or(Rejection::Missing(name))
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::WrongSecret => "wrong secret",
            Self::BodyChanged => "body changed",
            Self::HeaderChanged => "header changed",
            Self::StaleTimestamp => "stale timestamp",
            Self::MalformedSignature => "malformed signature",
        })
    }
}

#[cfg(test)]
mod tests {
    use signature::{Secret, SigningKey};

    use super::*;

    const BODY: &str = r#"{"a":1,"b":{"c":"x, \"y\": z"}}"#;

    fn secret(byte: u8) -> Secret {
        Secret::generate([byte; 32])
    }

    fn signed(byte: u8, id: &str, body: &str) -> Signed {
        let key = SigningKey::new(&secret(byte));
        Signed {
            contract: Some(key.sign(body.as_bytes())),
            id: Some(id.to_owned()),
            timestamp: Some("1000".to_owned()),
            standard: Some(key.sign_standard(id, 1000, body.as_bytes())),
        }
    }

    fn words(signed: &Signed, body: &str) -> (Word, Word) {
        let verdicts = Verdicts::of(&Verifier::new(&[secret(1)]), signed, body.as_bytes(), 1000);
        (verdicts.contract.verdict, verdicts.standard.verdict)
    }

    #[test]
    fn what_is_right_is_valid() {
        assert_eq!(words(&signed(1, "evt_1", BODY), BODY), (Word::Valid, Word::Valid));
    }

    #[test]
    fn a_body_that_was_written_anew_is_told_from_another_secret() {
        let changed = (Word::BodyChanged, Word::BodyChanged);
        for sent in [
            BODY.to_owned(),
            with_separators(BODY, ", ", ": "),
            format!("{BODY}\n"),
        ] {
            let signed = signed(1, "evt_1", &sent);
            for received in [
                "{ \"a\": 1,\n  \"b\": {\"c\": \"x, \\\"y\\\": z\"}\n}",
                "not JSON",
            ] {
                assert_eq!(words(&signed, received), changed, "{sent} became {received}");
            }
        }
        let wrong = (Word::WrongSecret, Word::WrongSecret);
        assert_eq!(words(&signed(2, "evt_1", BODY), BODY), wrong);
        let derived = EventId::from_body(BODY.as_bytes());
        let signed = signed(2, derived.as_str(), BODY);
        assert_eq!(words(&signed, BODY), wrong);
        let verdicts = Verdicts::of(&Verifier::new(&[secret(1)]), &signed, BODY.as_bytes(), 1000);
        assert!(verdicts.error().unwrap().contains("derived"), "{verdicts:?}");
    }

    #[test]
    fn one_signature_that_fits_says_what_is_wrong_with_the_other() {
        let mut other_id = signed(1, "evt_1", BODY);
        other_id.id = Some("evt_2".to_owned());
        assert_eq!(words(&other_id, BODY), (Word::Valid, Word::HeaderChanged));
        let mut rotating = signed(1, "evt_1", BODY);
        rotating.contract = signed(2, "evt_1", BODY).contract;
        assert_eq!(words(&rotating, BODY), (Word::WrongSecret, Word::Valid));
    }

    #[test]
    fn stale_malformed_and_missing_are_told() {
        let mut old = signed(1, "evt_1", BODY);
        let key = SigningKey::new(&secret(1));
        old.timestamp = Some("1".to_owned());
        old.standard = Some(key.sign_standard("evt_1", 1, BODY.as_bytes()));
        assert_eq!(words(&old, BODY), (Word::Valid, Word::StaleTimestamp));
        let mut malformed = signed(1, "evt_1", BODY);
        malformed.contract = Some("sha1=00".to_owned());
        malformed.standard = None;
        let word = Word::MalformedSignature;
        assert_eq!(words(&malformed, BODY), (word, word));
    }
}
