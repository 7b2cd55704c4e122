//! The same campaigns, short in `tests/run.sh` and long in `tests/chaos.sh`.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::OnceLock,
    time::SystemTime,
};

/// Whether `tests/chaos.sh` runs the long form.
pub fn is_long() -> bool {
    std::env::var("MAGNETITE_CHAOS").is_ok_and(|form| form == "long")
}

/// The first in the short form, the second in the long one.
pub fn scaled<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// What decides everything that a campaign leaves to chance: `MAGNETITE_CHAOS_SEED`, or else the time.
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| match std::env::var("MAGNETITE_CHAOS_SEED") {
        Ok(seed) => seed.parse().expect("MAGNETITE_CHAOS_SEED is a whole number"),
        Err(_) => SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
    })
}

/// A number below `below` that the seed and `of` alone decide.
pub fn chance(of: impl Hash, below: u64) -> u64 {
    let mut state = DefaultHasher::new();
    (seed(), of).hash(&mut state);
    state.finish() % below
}

/// One line of a campaign's figures, which `tests/chaos.sh` makes a table of.
#[allow(clippy::print_stdout, reason = "the figures of a test are its output")]
pub fn report(campaign: &str, figures: impl fmt::Display) {
    println!("chaos | {campaign} | {figures}");
}
