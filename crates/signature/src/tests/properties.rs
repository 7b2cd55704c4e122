//! Properties that hold for every secret, message and single-bit change.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::{Secret, SigningKey, TOLERANCE_S, Verifier, VerifyError};

/// A request with both signatures, and a verifier with its secret.
#[derive(Debug)]
struct Signed {
    verifier: Verifier,
    id: String,
    timestamp: String,
    now_s: i64,
    body: Vec<u8>,
    contract: String,
    standard: String,
}

impl Signed {
    fn verify(&self) -> Result<(), VerifyError> {
        self.verifier.verify(&self.body, &self.contract)
    }

    /// Verifies with the widest tolerance, so that the age is never the reason for a rejection.
    fn verify_standard(&self) -> Result<(), VerifyError> {
        let Self {
            verifier,
            id,
            timestamp,
            standard,
            body,
            now_s,
            ..
        } = self;
        verifier.verify_standard(id, timestamp, standard, body, *now_s, i64::MAX)
    }
}

prop_compose! {
    fn signed()(
        random: [u8; 32],
        id in "[A-Za-z0-9_-]{1,128}",
        now_s in 0..=i64::from(u32::MAX),
        body in vec(any::<u8>(), 1..512),
    ) -> Signed {
        let secret = Secret::generate(random);
        let key = SigningKey::new(&secret);
        Signed {
            verifier: Verifier::new(&[secret]),
            contract: key.sign(&body),
            standard: key.sign_standard(&id, now_s, &body),
            timestamp: now_s.to_string(),
            id,
            now_s,
            body,
        }
    }
}

/// Flips one of the lower seven bits of one byte, so that ASCII text remains ASCII.
fn flipped(text: &str, index: Index, bit: u32) -> String {
    let mut bytes = text.as_bytes().to_vec();
    *index.get_mut(&mut bytes) ^= 1 << bit;
    String::from_utf8(bytes).unwrap()
}

proptest! {
    #[test]
    fn every_generated_secret_parses_to_itself(random: [u8; 32]) {
        let secret = Secret::generate(random);
        prop_assert_eq!(Secret::parse(secret.expose()), Ok(secret.clone()));
        prop_assert_eq!(secret.decoded(), random);
    }

    #[test]
    fn no_text_makes_parsing_panic(text in "(whsec_)?\\PC{0,100}") {
        if let Ok(secret) = Secret::parse(&text) {
            prop_assert_eq!(secret.expose(), text);
        }
    }

    #[test]
    fn no_header_makes_verifying_panic_or_pass(signed in signed(), header in "(sha256=|v1,)?\\PC{0,100}") {
        let forged = Signed { contract: header.clone(), standard: header.clone(), ..signed };
        prop_assert!(forged.verify().is_err());
        prop_assert!(forged.verify_standard().is_err());
        let Signed { verifier, body, standard, now_s, .. } = &forged;
        prop_assert!(verifier.verify_standard(&header, &header, standard, body, *now_s, TOLERANCE_S).is_err());
    }

    #[test]
    fn what_is_signed_verifies(signed in signed()) {
        prop_assert_eq!(signed.verify(), Ok(()));
        prop_assert_eq!(signed.verify_standard(), Ok(()));
    }

    #[test]
    fn a_flipped_bit_of_the_body_fails_both(mut signed in signed(), index: Index, bit in 0..8_u32) {
        *index.get_mut(&mut signed.body) ^= 1 << bit;
        prop_assert_eq!(signed.verify(), Err(VerifyError::Mismatch));
        prop_assert_eq!(signed.verify_standard(), Err(VerifyError::Mismatch));
    }

    #[test]
    fn a_flipped_bit_of_the_id_fails(mut signed in signed(), index: Index, bit in 0..7_u32) {
        signed.id = flipped(&signed.id, index, bit);
        let expected = if signed.id.contains('.') { VerifyError::BadId } else { VerifyError::Mismatch };
        prop_assert_eq!(signed.verify_standard(), Err(expected));
    }

    #[test]
    fn a_flipped_bit_of_the_timestamp_fails(mut signed in signed(), index: Index, bit in 0..7_u32) {
        signed.timestamp = flipped(&signed.timestamp, index, bit);
        let still_an_integer = signed.timestamp.parse::<i64>().is_ok();
        let expected = if still_an_integer { VerifyError::Mismatch } else { VerifyError::BadTimestamp };
        prop_assert_eq!(signed.verify_standard(), Err(expected));
    }

    #[test]
    fn a_flipped_bit_of_either_signature_fails(mut signed in signed(), index: Index, bit in 0..7_u32) {
        signed.contract = flipped(&signed.contract, index, bit);
        signed.standard = flipped(&signed.standard, index, bit);
        prop_assert!(signed.verify().is_err());
        prop_assert!(signed.verify_standard().is_err());
    }

    #[test]
    fn any_one_of_several_secrets_is_accepted_and_no_other(
        keys in proptest::collection::hash_set(any::<[u8; 32]>(), 2..6),
        signer: Index,
        body in vec(any::<u8>(), 0..64),
    ) {
        let mut secrets: Vec<Secret> = keys.into_iter().map(Secret::generate).collect();
        let signer = signer.index(secrets.len());
        let key = SigningKey::new(&secrets[signer]);
        let (contract, standard) = (key.sign(&body), key.sign_standard("evt_01", 7, &body));
        let both = |verifier: &Verifier| {
            (verifier.verify(&body, &contract), verifier.verify_standard("evt_01", "7", &standard, &body, 7, 0))
        };
        prop_assert_eq!(both(&Verifier::new(&secrets)), (Ok(()), Ok(())));
        secrets.remove(signer);
        let refused = Err(VerifyError::Mismatch);
        prop_assert_eq!(both(&Verifier::new(&secrets)), (refused, refused));
    }
}

#[test]
fn keys_and_verifiers_cross_threads() {
    fn shared<T: Clone + Send + Sync>() {}
    shared::<Secret>();
    shared::<SigningKey>();
    shared::<Verifier>();
}
