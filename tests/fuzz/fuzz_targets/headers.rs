//! Whatever properties and headers a message has: no panic, and what is read is written as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|wire: &[u8]| broker::fuzzing::properties(wire));
