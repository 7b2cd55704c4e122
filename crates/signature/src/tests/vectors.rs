//! Test vectors computed without this crate. One is from the tests of the official Standard Webhooks
//! libraries; the others were computed with Python's `hmac`, `hashlib` and `base64`.

use super::secret;
use crate::{Secret, SigningKey, TOLERANCE_S, Verifier};

const EVENT: &str = r#"{"event":"magnet.viewed","timestamp":1703124056789,"organization_id":"org_123abc","project_id":"proj_456def","lead_id":"lead_789ghi","data":{"city":"Zürich"}}"#;

struct Vector {
    secret: &'static str,
    id: &'static str,
    timestamp_s: i64,
    body: &'static str,
    contract: &'static str,
    standard: &'static str,
}

const VECTORS: [Vector; 3] = [
    // The standard signature is that of the official libraries' tests. The key has the minimum length, 24
    // bytes.
    Vector {
        secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp_s: 1_614_265_330,
        body: r#"{"test": 2432232314}"#,
        contract: "sha256=80ec8a89ce3cd22133a1066caecb4d04fea7467657c8514d717ec42c38a5c94c",
        standard: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    },
    // A key of 32 bytes, like generated ones, and a body that is not ASCII.
    Vector {
        secret: "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        id: "evt_01",
        timestamp_s: 1_703_124_056,
        body: EVENT,
        contract: "sha256=69a04bec87e0285b82284abb12761f67e1ba1ffc0c24bf940759e2f8835a1b17",
        standard: "v1,5e+hlDKh65v3Q2G4s+cgvtzXI7BZNKqEPz7W0Y4wOSw=",
    },
    // The key has the maximum length. As text it is longer than a block of SHA-256, so HMAC hashes it first.
    Vector {
        secret: "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==",
        id: "evt_01",
        timestamp_s: 1_703_124_056,
        body: EVENT,
        contract: "sha256=09304a4986d1a3512270df16667e63d01e6241f4cae24e075425e4b313e96b42",
        standard: "v1,Tb5QAVXONOIOxoE70iiMCPEMnpiEMvrjTL3mL+2FEdU=",
    },
];

#[test]
fn signatures_equal_those_of_other_implementations() {
    for vector in VECTORS {
        let key = SigningKey::new(&secret(vector.secret));
        let body = vector.body.as_bytes();
        assert_eq!(key.sign(body), vector.contract);
        assert_eq!(
            key.sign_standard(vector.id, vector.timestamp_s, body),
            vector.standard
        );
    }
}

#[test]
fn signatures_of_other_implementations_are_accepted() {
    for vector in VECTORS {
        let verifier = Verifier::new(&[secret(vector.secret)]);
        let Vector {
            id,
            timestamp_s,
            contract,
            standard,
            ..
        } = vector;
        let body = vector.body.as_bytes();
        assert_eq!(verifier.verify(body, contract), Ok(()));
        let timestamp = timestamp_s.to_string();
        let accepted = verifier.verify_standard(id, &timestamp, standard, body, timestamp_s, TOLERANCE_S);
        assert_eq!(accepted, Ok(()));
    }
}

#[test]
fn an_empty_body_has_a_signature() {
    let key = SigningKey::new(&secret(VECTORS[1].secret));
    assert_eq!(
        key.sign(b""),
        "sha256=3869a63cbe73c747431cf9ff4d38cbaa6ad6adb0541c4753e1c90f7b6920620f"
    );
}

#[test]
fn a_generated_secret_is_the_prefix_and_the_base64_of_its_bytes() {
    let random = std::array::from_fn(|i| u8::try_from(i).unwrap());
    assert_eq!(Secret::generate(random).expose(), VECTORS[1].secret);
}
