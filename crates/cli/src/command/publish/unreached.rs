//! What `--wait` has found out about all events.

use anyhow::bail;

use crate::output;

use super::follow::Fate;

/// Counts of events that are not known to have reached every endpoint that they matched.
#[derive(Default)]
pub(super) struct Unreached {
    /// Events whose deliveries have all ended.
    undelivered: u64,
    /// Events with deliveries that are still pending, or that are not in the journal yet.
    unfinished: u64,
    /// Events about which the journal could not be read.
    unknown: u64,
    /// The id of the first such event.
    example: Option<String>,
    /// The number of events that had been published before, whatever their result is.
    before: u64,
    /// The id of the first event that had been published before.
    example_before: Option<String>,
}

impl Unreached {
    pub(super) fn add(&mut self, id: &str, fate: &Fate) {
        if fate.was_published_before() {
            self.before += 1;
            self.example_before.get_or_insert_with(|| id.to_owned());
        }
        if fate.is_good() {
            return;
        }
        self.example.get_or_insert_with(|| id.to_owned());
        let count = if fate.is_unknown() {
            &mut self.unknown
        } else if fate.has_ended() {
            &mut self.undelivered
        } else {
            &mut self.unfinished
        };
        *count += 1;
    }

    /// Returns an error if there are such events.
    pub(super) fn result(self) -> anyhow::Result<()> {
        if let Some(id) = self.example_before {
            output::note(&format!(
                "events that had been published before: {}. The journal keeps one result for each event, so what is printed \
                 for them may be that of the earlier publish; `magnetite event show {id}` shows all attempts of the first one",
                self.before
            ));
        }
        let Some(id) = self.example else { return Ok(()) };
        let unknown = match self.unknown {
            0 => String::new(),
            count => format!("; published events whose result is not known: {count}"),
        };
        bail!(
            "events that were not delivered to every endpoint: {}; events that are still pending: {}{unknown}. `magnetite event show {id}` \
             shows what happened to the first one, and `magnetite status` shows whether all roles are running",
            self.undelivered,
            self.unfinished
        )
    }
}
