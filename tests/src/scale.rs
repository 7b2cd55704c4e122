//! The scale of the test campaigns: short in `tests/run.sh`, long in `tests/chaos.sh`.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::OnceLock,
};

use crate::now_ms;

/// Returns whether the long form runs, which `tests/chaos.sh` selects.
pub fn is_long() -> bool {
    std::env::var("MAGNETITE_CHAOS").is_ok_and(|form| form == "long")
}

/// Returns the first value in the short form, and the second in the long form.
pub fn scaled<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// Returns the seed of all random decisions of a campaign: `MAGNETITE_CHAOS_SEED`, or the current time in
/// seconds if that is not set.
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| match std::env::var("MAGNETITE_CHAOS_SEED") {
        Ok(seed) => seed.parse().expect("MAGNETITE_CHAOS_SEED is a whole number"),
        Err(_) => now_ms() / 1000,
    })
}

/// Returns a pseudorandom number below `below`, which depends only on the seed and on `of`.
pub fn chance(of: impl Hash, below: u64) -> u64 {
    let mut state = DefaultHasher::new();
    (seed(), of).hash(&mut state);
    state.finish() % below
}

/// Prints one line with the results of a campaign. `tests/chaos.sh` makes a table of these lines.
#[allow(clippy::print_stdout, reason = "the figures of a test are its output")]
pub fn report(campaign: &str, figures: impl fmt::Display) {
    println!("chaos | {campaign} | {figures}");
}
