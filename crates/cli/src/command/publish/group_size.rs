//! The size of requests to the HTTP API, which adapts to slow connections.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The maximum size of the events in a request, in bytes. With the commas between them, they fit into the
/// default of `api.body_bytes_max`.
pub(super) const GROUP_BYTES_MAX: usize = 1000 * 1000;
/// The same on a slow connection. The API gives up on a body after 10 s.
pub(super) const SLOW_GROUP_BYTES_MAX: usize = 64 * 1000;

/// The maximum size of the events in the next requests, in bytes.
pub(super) struct GroupSize(AtomicUsize);

impl GroupSize {
    pub(super) const fn new() -> Self {
        Self(AtomicUsize::new(GROUP_BYTES_MAX))
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Shrinks the next requests, because one did not arrive in time.
    pub(super) fn shrink(&self) {
        if self.0.swap(SLOW_GROUP_BYTES_MAX, Ordering::Relaxed) == GROUP_BYTES_MAX {
            tracing::warn!("the connection to the API is slow; sending smaller requests, one at a time");
        }
    }

    /// Doubles the size of the next requests, up to the normal size, because all requests of a batch arrived in time.
    pub(super) fn grow(&self) {
        let doubled = GROUP_BYTES_MAX.min(2 * self.bytes_max());
        self.0.store(doubled, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_shrink_at_once_and_grow_back_by_and_by() {
        let size = GroupSize::new();
        size.grow();
        assert_eq!(size.bytes_max(), GROUP_BYTES_MAX);
        size.shrink();
        assert_eq!(size.bytes_max(), SLOW_GROUP_BYTES_MAX);
        let grown: Vec<_> = (0..5)
            .map(|_| {
                size.grow();
                size.bytes_max()
            })
            .collect();
        assert_eq!(grown, [128_000, 256_000, 512_000, 1_000_000, 1_000_000]);
    }
}
