//! File descriptor limits. Each attempt in flight needs a descriptor, and some more are needed for other
//! uses.

use std::io;

/// The number of descriptors that a worker needs in addition to those for its attempts: its own idle
/// connections, the database, the broker, and health probes.
const SPARE: u64 = 256;

/// Returns the number of descriptors that a worker with `in_flight_max` slots needs: for each slot, one in
/// use, one idle, and one for a slow slot.
pub(crate) fn descriptors_needed(in_flight_max: usize) -> u64 {
    in_flight_max as u64 * 3 + SPARE
}

/// Raises the soft limit to the hard one and returns it.
pub(crate) fn raise_descriptors() -> io::Result<u64> {
    rlimit::increase_nofile_limit(u64::MAX)
}

/// Returns the hard limit, which this process cannot raise.
pub(crate) fn descriptors_max() -> io::Result<u64> {
    rlimit::Resource::NOFILE.get_hard()
}
