//! Tests of rejected input: the error that is returned, and that errors do not reveal secrets.

use super::{key_of, secret_of, verifier_of};
use crate::{
    SIGNATURE_HEADER, Secret, SecretError, SigningKey, TOLERANCE_S, VerifyError, WEBHOOK_SIGNATURE_HEADER,
};

const BODY: &[u8] = br#"{"event":"lead.created"}"#;
const NOW_S: i64 = 1_703_124_056;
const ID: &str = "evt_01";

fn verify_standard(id: &str, timestamp: &str, signatures: &str) -> Result<(), VerifyError> {
    verifier_of(&[1]).verify_standard(id, timestamp, signatures, BODY, NOW_S, TOLERANCE_S)
}

fn good_signature() -> String {
    key_of(1).sign_standard(ID, NOW_S, BODY)
}

#[test]
fn a_malformed_secret_is_refused_with_what_was_expected() {
    let of_length = |bytes: usize| {
        // Zeros at six bits per character, with the padding that the length requires.
        let mut text = "A".repeat((bytes * 8).div_ceil(6));
        text.push_str(["", "==", "="][bytes % 3]);
        format!("whsec_{text}")
    };
    for (text, expected) in [
        (String::new(), Err(SecretError::Prefix)),
        (
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(),
            Err(SecretError::Prefix),
        ),
        (
            "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(),
            Err(SecretError::Prefix),
        ),
        (
            " whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(),
            Err(SecretError::Prefix),
        ),
        (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n".into(),
            Err(SecretError::Base64),
        ),
        // The URL-safe alphabet, missing padding, and non-zero bits after the last byte.
        (
            "whsec_-_KQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(),
            Err(SecretError::Base64),
        ),
        (
            of_length(32).trim_end_matches('=').into(),
            Err(SecretError::Base64),
        ),
        (of_length(32).replace("A=", "B="), Err(SecretError::Base64)),
        ("whsec_".into(), Err(SecretError::Length { bytes: 0 })),
        (of_length(23), Err(SecretError::Length { bytes: 23 })),
        (of_length(24), Ok(())),
        (of_length(64), Ok(())),
        (of_length(65), Err(SecretError::Length { bytes: 65 })),
    ] {
        assert_eq!(Secret::parse(&text).map(|_| ()), expected, "{text:?}");
    }
}

#[test]
fn no_debug_output_and_no_error_shows_a_part_of_the_secret() {
    let secret = secret_of(1);
    let encoded = secret.expose().strip_prefix("whsec_").unwrap();
    for shown in [
        format!("{secret:?}"),
        format!("{:?}", SigningKey::new(&secret)),
        format!("{:?}", verifier_of(&[1])),
    ] {
        assert!(!shown.contains(&encoded[..4]), "{shown}");
    }
    for text in [
        encoded.to_owned(),
        format!("whsec_{encoded}?"),
        format!("whsec_{}", &encoded[..4]),
    ] {
        let error = Secret::parse(&text).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(&encoded[..4]) && !shown.contains('?'), "{shown}");
    }
}

#[test]
fn a_malformed_contract_header_is_told_from_a_wrong_one() {
    let good = key_of(1).sign(BODY);
    let digits = good.strip_prefix("sha256=").unwrap();
    for header in [
        String::new(),
        "sha256=".into(),
        digits.into(),
        format!("sha1={digits}"),
        format!("SHA256={digits}"),
        format!("sha256={}", digits.to_uppercase()),
        format!("sha256={}", &digits[1..]),
        format!("sha256={}", &digits[2..]),
        format!("sha256={digits}00"),
        format!("sha256=g{}", &digits[1..]),
        format!("sha256=sha256={digits}"),
        format!(" {good}"),
        format!("{good} "),
        format!("{good},{good}"),
    ] {
        let refused = verifier_of(&[1]).verify(BODY, &header);
        assert!(
            matches!(
                refused,
                Err(VerifyError::BadSignature {
                    header: SIGNATURE_HEADER,
                    ..
                })
            ),
            "{header:?}: {refused:?}"
        );
    }
    assert_eq!(verifier_of(&[1]).verify(BODY, &good), Ok(()));
    assert_eq!(verifier_of(&[2]).verify(BODY, &good), Err(VerifyError::Mismatch));
}

#[test]
fn a_list_without_a_well_formed_v1_signature_is_malformed() {
    let good = good_signature();
    let encoded = good.strip_prefix("v1,").unwrap();
    for signatures in [
        String::new(),
        " ".into(),
        "v1".into(),
        "v1,".into(),
        encoded.into(),
        format!("v2,{encoded}"),
        format!("v1a,{encoded}"),
        format!("V1,{encoded}"),
        format!("v1={encoded}"),
        format!("v1, {encoded}"),
        format!("v1,{}", encoded.trim_end_matches('=')),
        format!("v1,{}", &encoded[4..]),
        format!("v1,{encoded},v1,{encoded}"),
        format!("{good}\n"),
    ] {
        let refused = verify_standard(ID, &NOW_S.to_string(), &signatures);
        assert!(
            matches!(
                refused,
                Err(VerifyError::BadSignature {
                    header: WEBHOOK_SIGNATURE_HEADER,
                    ..
                })
            ),
            "{signatures:?}: {refused:?}"
        );
    }
}

#[test]
fn one_right_signature_in_the_list_suffices() {
    let (good, wrong) = (good_signature(), key_of(2).sign_standard(ID, NOW_S, BODY));
    for signatures in [
        good.clone(),
        format!("{wrong} {good}"),
        format!("{good} {wrong}"),
        format!("v1a,c2lnbmF0dXJl {good}"),
        format!("v1,not-base64 v1 , {good}"),
        format!("  {good}  "),
    ] {
        assert_eq!(
            verify_standard(ID, &NOW_S.to_string(), &signatures),
            Ok(()),
            "{signatures:?}"
        );
    }
    assert_eq!(
        verify_standard(ID, &NOW_S.to_string(), &wrong),
        Err(VerifyError::Mismatch)
    );
}

#[test]
fn more_signatures_than_the_bound_are_refused_even_if_all_are_right() {
    let repeated = |count| vec![good_signature(); count].join(" ");
    assert_eq!(verify_standard(ID, &NOW_S.to_string(), &repeated(16)), Ok(()));
    let refused = verify_standard(ID, &NOW_S.to_string(), &repeated(17));
    assert_eq!(refused, Err(VerifyError::TooManySignatures { max: 16 }));
}

#[test]
fn a_timestamp_is_accepted_up_to_the_tolerance_either_way() {
    let too_old = |age_s| {
        Err(VerifyError::TooOld {
            age_s,
            tolerance_s: 300,
        })
    };
    let too_new = |ahead_s| {
        Err(VerifyError::TooNew {
            ahead_s,
            tolerance_s: 300,
        })
    };
    for (timestamp_s, expected) in [
        (NOW_S, Ok(())),
        (NOW_S - 300, Ok(())),
        (NOW_S + 300, Ok(())),
        (NOW_S - 301, too_old(301)),
        (NOW_S + 301, too_new(301)),
        // The event's milliseconds in the wrong header.
        (NOW_S * 1000, too_new(NOW_S * 999)),
        (-1, too_old(NOW_S + 1)),
        (i64::MIN, too_old(i64::MAX)),
        (i64::MAX, too_new(i64::MAX - NOW_S)),
    ] {
        let signature = key_of(1).sign_standard(ID, timestamp_s, BODY);
        assert_eq!(
            verify_standard(ID, &timestamp_s.to_string(), &signature),
            expected,
            "{timestamp_s}"
        );
    }
}

#[test]
fn no_clock_makes_a_far_timestamp_overflow_into_the_tolerance() {
    for (timestamp_s, now_s) in [
        (i64::MAX, -1),
        (i64::MIN, 1),
        (i64::MAX, i64::MIN),
        (i64::MIN, i64::MAX),
    ] {
        let signature = key_of(1).sign_standard(ID, timestamp_s, BODY);
        let timestamp = timestamp_s.to_string();
        let refused = verifier_of(&[1]).verify_standard(ID, &timestamp, &signature, BODY, now_s, TOLERANCE_S);
        assert!(
            matches!(
                refused,
                Err(VerifyError::TooOld { .. } | VerifyError::TooNew { .. })
            ),
            "{timestamp_s} at {now_s}: {refused:?}"
        );
    }
}

#[test]
fn a_timestamp_that_is_not_an_integer_is_refused() {
    for timestamp in [
        "",
        " ",
        "now",
        "1703124056.0",
        " 1703124056",
        "1703124056s",
        "0x65837C58",
        "9223372036854775808",
    ] {
        let refused = verify_standard(ID, timestamp, &good_signature());
        assert_eq!(refused, Err(VerifyError::BadTimestamp), "{timestamp:?}");
    }
}

#[test]
fn another_spelling_of_the_signed_timestamp_does_not_match() {
    for timestamp in [format!("+{NOW_S}"), format!("0{NOW_S}")] {
        let refused = verify_standard(ID, &timestamp, &good_signature());
        assert_eq!(refused, Err(VerifyError::Mismatch), "{timestamp}");
    }
}

#[test]
fn an_id_that_blurs_the_parts_of_the_message_is_refused() {
    // The same signed bytes, split at another place: the first digits of the body become the timestamp.
    let body = format!("{NOW_S}.{{}}");
    let signature = key_of(1).sign_standard(ID, NOW_S, body.as_bytes());
    let (id, timestamp) = (format!("{ID}.{NOW_S}"), NOW_S.to_string());
    let refused = verifier_of(&[1]).verify_standard(&id, &timestamp, &signature, b"{}", NOW_S, TOLERANCE_S);
    assert_eq!(refused, Err(VerifyError::BadId));
    assert_eq!(
        verify_standard("", &timestamp, &signature),
        Err(VerifyError::BadId)
    );
}

#[test]
fn a_verifier_without_secrets_refuses_everything() {
    let none = verifier_of(&[]);
    assert_eq!(
        none.verify(BODY, &key_of(1).sign(BODY)),
        Err(VerifyError::Mismatch)
    );
    let refused = none.verify_standard(
        ID,
        &NOW_S.to_string(),
        &good_signature(),
        BODY,
        NOW_S,
        TOLERANCE_S,
    );
    assert_eq!(refused, Err(VerifyError::Mismatch));
}
