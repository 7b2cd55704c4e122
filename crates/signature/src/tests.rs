//! Known vectors, tables of malformed input, and properties.

use crate::{Secret, SigningKey, Verifier};

mod malformed;
mod properties;
mod vectors;

fn secret(text: &str) -> Secret {
    Secret::parse(text).unwrap()
}

/// Returns a secret whose key bytes all equal `byte`, so that different bytes make different secrets.
fn secret_of(byte: u8) -> Secret {
    Secret::generate([byte; 32])
}

fn key_of(byte: u8) -> SigningKey {
    SigningKey::new(&secret_of(byte))
}

fn verifier_of(bytes: &[u8]) -> Verifier {
    let secrets: Vec<Secret> = bytes.iter().map(|byte| secret_of(*byte)).collect();
    Verifier::new(&secrets)
}
