//! Which events came before: `webhook-id` tells.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
};

/// How many are remembered; the oldest is forgotten first.
const EVENTS_MAX: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    /// Whether an event with this id came before, which it has from now on.
    pub(super) fn repeats(&self, event_id: &str) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.ids.insert(event_id.to_owned()) {
            return true;
        }
        state.order.push_back(event_id.to_owned());
        if state.order.len() > EVENTS_MAX
            && let Some(oldest) = state.order.pop_front()
        {
            state.ids.remove(&oldest);
        }
        false
    }
}
