//! How often each event came before: `webhook-id` tells.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

/// How many events are remembered; the oldest is forgotten first, and begins anew if it comes again.
const EVENTS_MAX: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    times: HashMap<String, usize>,
    order: VecDeque<String>,
}

impl Seen {
    /// How often an event with this id came before; from now on it is once more.
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
