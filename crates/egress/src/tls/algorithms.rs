//! The signature algorithms for certificates and handshakes: ring's, and some that ring does not support.
//!
//! - ECDSA with keys on the curve P-521, and with SHA-512 and keys on P-256 and P-384: verified by the crates
//!   `p521`, `p256` and `p384`. The latter two are needed because the signature scheme that offers P-521 in a
//!   handshake of TLS 1.3 offers SHA-512 with any curve in a handshake of TLS 1.2.
//! - RSA-PSS with keys that are for RSA-PSS only and for any hash (RFC 4055, `id-RSASSA-PSS` without
//!   parameters), with a salt as long as the hash: verified by ring, which by itself only knows keys for all
//!   of RSA. These are used in handshakes of TLS 1.3; rustls refuses them in TLS 1.2.

use std::fmt;
use std::sync::LazyLock;

use p521::ecdsa::signature::hazmat::PrehashVerifier as _;
use ring::signature::{RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512};
use ring::signature::{RsaParameters, UnparsedPublicKey};
use rustls::SignatureScheme;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// All supported algorithms.
pub(super) static SUPPORTED: LazyLock<WebPkiSupportedAlgorithms> = LazyLock::new(|| {
    let ring = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    let all = [ring.all, &ECDSA, &PSS].concat();
    let mapping = [ring.mapping, &MORE].concat();
    WebPkiSupportedAlgorithms {
        all: all.leak(),
        mapping: mapping.leak(),
    }
});

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

/// The signature schemes of handshakes for the additional algorithms. rustls has no names for
/// `rsa_pss_pss_sha256` and the other two (RFC 8446 section 4.2.3).
static MORE: [(SignatureScheme, &[Algorithm]); 4] = [
    // Only TLS 1.2 tries more algorithms than the first.
    (
        SignatureScheme::ECDSA_NISTP521_SHA512,
        &[P521_SHA512, P384_SHA512, P256_SHA512],
    ),
    (SignatureScheme::Unknown(0x0809), &[PSS_SHA256]),
    (SignatureScheme::Unknown(0x080a), &[PSS_SHA384]),
    (SignatureScheme::Unknown(0x080b), &[PSS_SHA512]),
];

static ECDSA: [Algorithm; 5] = [P521_SHA256, P521_SHA384, P521_SHA512, P256_SHA512, P384_SHA512];
static PSS: [Algorithm; 3] = [PSS_SHA256, PSS_SHA384, PSS_SHA512];

const P256: Curve = Curve(alg_id::ECDSA_P256, on_p256);
const P384: Curve = Curve(alg_id::ECDSA_P384, on_p384);
const P521: Curve = Curve(alg_id::ECDSA_P521, on_p521);

const SHA256: Hash = Hash(alg_id::ECDSA_SHA256, |message| Sha256::digest(message).to_vec());
const SHA384: Hash = Hash(alg_id::ECDSA_SHA384, |message| Sha384::digest(message).to_vec());
const SHA512: Hash = Hash(alg_id::ECDSA_SHA512, |message| Sha512::digest(message).to_vec());

const P521_SHA256: Algorithm = &Ecdsa(P521, SHA256);
const P521_SHA384: Algorithm = &Ecdsa(P521, SHA384);
const P521_SHA512: Algorithm = &Ecdsa(P521, SHA512);
const P256_SHA512: Algorithm = &Ecdsa(P256, SHA512);
const P384_SHA512: Algorithm = &Ecdsa(P384, SHA512);

const PSS_SHA256: Algorithm = &RsaPss {
    signature: alg_id::RSA_PSS_SHA256,
    verification: &RSA_PSS_2048_8192_SHA256,
};
const PSS_SHA384: Algorithm = &RsaPss {
    signature: alg_id::RSA_PSS_SHA384,
    verification: &RSA_PSS_2048_8192_SHA384,
};
const PSS_SHA512: Algorithm = &RsaPss {
    signature: alg_id::RSA_PSS_SHA512,
    verification: &RSA_PSS_2048_8192_SHA512,
};

/// The object identifier of `id-RSASSA-PSS`, without parameters.
const RSASSA_PSS: AlgorithmIdentifier =
    AlgorithmIdentifier::from_slice(&[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a]);

/// A function that verifies a signature (DER) with a public key (SEC 1) and a digest.
type Verify = fn(&[u8], &[u8], &[u8]) -> Result<(), InvalidSignature>;

/// The identifier of keys on a curve in certificates, and the function that verifies their signatures.
struct Curve(AlgorithmIdentifier, Verify);

/// The identifier of signatures with a hash in certificates, and the hash function.
struct Hash(AlgorithmIdentifier, fn(&[u8]) -> Vec<u8>);

struct Ecdsa(Curve, Hash);

macro_rules! on_curve {
    ($name:ident, $curve:ident) => {
        fn $name(public_key: &[u8], digest: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
            let key = $curve::ecdsa::VerifyingKey::from_sec1_bytes(public_key);
            let signature = $curve::ecdsa::DerSignature::try_from(signature);
            let (Ok(key), Ok(signature)) = (key, signature) else {
                return Err(InvalidSignature);
            };
            key.verify_prehash(digest, &signature)
                .map_err(|_| InvalidSignature)
        }
    };
}
on_curve!(on_p256, p256);
on_curve!(on_p384, p384);
on_curve!(on_p521, p521);

/// The minimum length of a digest, in bytes. The crate `p521` refuses digests that are shorter than half of
/// the curve's order; leading zeros do not change the number.
const DIGEST_BYTES_MIN: usize = 64;

impl SignatureVerificationAlgorithm for Ecdsa {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let Self(Curve(_, verify), Hash(_, hash)) = self;
        let digest = hash(message);
        let mut padded = vec![0; DIGEST_BYTES_MIN.saturating_sub(digest.len())];
        padded.extend(digest);
        verify(public_key, &padded, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        let Self(Curve(key, _), _) = self;
        *key
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        let Self(_, Hash(signature, _)) = self;
        *signature
    }
}

impl fmt::Debug for Ecdsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ecdsa").field(&self.signature_alg_id()).finish()
    }
}

#[derive(Debug)]
struct RsaPss {
    signature: AlgorithmIdentifier,
    verification: &'static RsaParameters,
}

impl SignatureVerificationAlgorithm for RsaPss {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        UnparsedPublicKey::new(self.verification, public_key)
            .verify(message, signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        RSASSA_PSS
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}
