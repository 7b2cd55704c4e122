//! Decodes arbitrary properties and headers of a message. Decoding must not panic, and decoded values must be
//! written unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|wire: &[u8]| broker::fuzzing::properties(wire));
