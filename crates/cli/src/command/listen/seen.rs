//! Counts how often each event has been received, by its `webhook-id`.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

/// The maximum number of events that are remembered. The oldest is forgotten first; if it is received again,
/// its count restarts at 0.
const EVENTS_MAX: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    times: HashMap<String, usize>,
    order: VecDeque<String>,
}

impl Seen {
    /// Returns how often an event with this id was received before, and counts it.
    pub(super) fn before(&self, event_id: &str) -> usize {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = state.times.get_mut(event_id) {
            *times += 1;
            return *times - 1;
        }
        if state.order.len() == EVENTS_MAX
            && let Some(oldest) = state.order.pop_front()
        {
            state.times.remove(&oldest);
        }
        state.order.push_back(event_id.to_owned());
        state.times.insert(event_id.to_owned(), 1);
        0
    }
}
