//! File descriptors: one for each attempt in flight, and then some.

use std::io;

/// What a worker needs besides its attempts: idle connections to endpoints of its own count, the database,
/// the broker, health probes.
const SPARE: u64 = 256;

/// How many descriptors a worker with `in_flight_max` slots needs: one in use and one idle for each, and one
/// for each slow slot.
pub(crate) fn descriptors_needed(in_flight_max: usize) -> u64 {
    in_flight_max as u64 * 3 + SPARE
}

/// Raises the soft limit to the hard one and returns it.
pub(crate) fn raise_descriptors() -> io::Result<u64> {
    rlimit::increase_nofile_limit(u64::MAX)
}

/// The hard limit, which this process cannot raise.
pub(crate) fn descriptors_max() -> io::Result<u64> {
    rlimit::Resource::NOFILE.get_hard()
}
