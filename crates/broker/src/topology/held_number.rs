//! The number of a worker's queue of held deliveries.

use std::sync::Arc;

use tokio::sync::watch;

/// The number of a worker's queue of held deliveries, shared by all clones of the worker's topology. It is 0
/// until the worker has claimed a queue.
#[derive(Clone, Debug)]
pub(crate) struct HeldNumber(Arc<watch::Sender<u32>>);

impl Default for HeldNumber {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl HeldNumber {
    pub(crate) fn get(&self) -> u32 {
        *self.0.borrow()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u32> {
        self.0.subscribe()
    }

    pub(crate) fn set(&self, number: u32) {
        self.0.send_replace(number);
    }
}

impl PartialEq for HeldNumber {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for HeldNumber {}
