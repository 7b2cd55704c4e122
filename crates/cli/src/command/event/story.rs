//! The whole story of an event: every endpoint that could have got it, and what became of that.
//!
//! The journal says who was considered when the event was fanned out, and why. The endpoints are as they are now. Where the
//! two differ, the text says which of them it speaks of.

mod fate;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use webhook::{
    Endpoint, EndpointId,
    journal::{DeliveryState, EventEntry, Verdict},
};

use crate::{
    command::delivery::run::{Around, Run},
    moment, output,
};

/// An event with all its chapters.
pub(super) struct Story {
    stored: EventEntry,
    chapters: Vec<Chapter>,
}

/// What became of the event at one endpoint.
struct Chapter {
    endpoint_id: EndpointId,
    /// As it is now; `None` when it was deleted.
    endpoint: Option<Endpoint>,
    /// What was decided when the event was fanned out; `None` when the journal does not say.
    verdict: Option<Verdict>,
    /// By their number.
    runs: Vec<Run>,
}

impl Story {
    /// Brings together what belongs to one endpoint: those that exist, those that were considered, those with deliveries.
    pub(super) fn new(stored: EventEntry, endpoints: Vec<Endpoint>, runs: Vec<Run>) -> Self {
        // A ping was for one endpoint, and the others have no part in it.
        let concerned =
            |endpoint: &Endpoint| !stored.event.is_ping() || stored.considered.get(&endpoint.id).is_some();
        let mut endpoints: BTreeMap<EndpointId, Endpoint> = endpoints
            .into_iter()
            .filter(concerned)
            .map(|endpoint| (endpoint.id.clone(), endpoint))
            .collect();
        let mut runs_of: BTreeMap<EndpointId, Vec<Run>> = BTreeMap::new();
        for run in runs {
            let endpoint_id = run.delivery.delivery.endpoint_id.clone();
            runs_of.entry(endpoint_id).or_default().push(run);
        }
        let considered = stored.considered.iter().map(|(endpoint_id, _)| endpoint_id);
        let ids: BTreeSet<EndpointId> = considered
            .chain(endpoints.keys())
            .chain(runs_of.keys())
            .cloned()
            .collect();
        let mut chapters: Vec<Chapter> = ids
            .into_iter()
            .map(|id| {
                let mut runs = runs_of.remove(&id).unwrap_or_default();
                runs.sort_by_key(|run| run.delivery.delivery.run);
                Chapter {
                    endpoint: endpoints.remove(&id),
                    verdict: stored.considered.get(&id),
                    runs,
                    endpoint_id: id,
                }
            })
            .collect();
        chapters.sort_by_key(Chapter::place);
        Self { stored, chapters }
    }

    /// For people.
    pub(super) fn text(&self, now_ms: u64) -> Vec<String> {
        let mut lines = vec![self.about(now_ms), String::new(), self.summary()];
        for chapter in &self.chapters {
            lines.push(String::new());
            lines.push(chapter.heading(&self.stored));
            lines.extend(chapter.text(now_ms).into_iter().map(|line| format!("  {line}")));
        }
        lines
    }

    /// One object.
    pub(super) fn json(&self, with_body: bool) -> Value {
        let event = &self.stored.event;
        let mut json = json!({
            "id": event.id,
            "type": event.event_type.as_str(),
            "organization_id": event.organization_id,
            "project_id": event.project_id,
            "lead_id": event.lead_id,
            "timestamp_ms": event.timestamp_ms,
            "received_ms": self.stored.received_ms,
            "traceparent": event.traceparent,
            "body_bytes": event.body.len(),
            "endpoints": self.chapters.iter().map(|chapter| chapter.json(&self.stored)).collect::<Vec<_>>(),
        });
        if with_body {
            json["body"] = String::from_utf8_lossy(&event.body).into();
        }
        json
    }

    fn about(&self, now_ms: u64) -> String {
        let event = &self.stored.event;
        let received_ms = self.stored.received_ms;
        output::fields(&[
            ("event", event.id.to_string()),
            ("type", event.event_type.to_string()),
            ("organization", event.organization_id.to_string()),
            ("project", event.project_id.to_string()),
            ("lead", event.lead_id.to_string()),
            ("occurred", moment::millisecond(event.timestamp_ms)),
            (
                "received",
                format!(
                    "{}, {} ago",
                    moment::millisecond(received_ms),
                    moment::span(now_ms.saturating_sub(received_ms))
                ),
            ),
            ("body", format!("{} bytes; --body prints it", event.body.len())),
        ])
    }

    /// The answer in one line.
    fn summary(&self) -> String {
        if self.chapters.is_empty() {
            return "The organization has no endpoints, and had none: nobody was to get the event."
                .to_owned();
        }
        let matched = self.chapters.iter().filter(|chapter| chapter.matched()).count();
        let latest = |state| {
            let in_state = |chapter: &&Chapter| chapter.state() == Some(state);
            self.chapters.iter().filter(in_state).count()
        };
        let states: Vec<String> = DeliveryState::ALL
            .into_iter()
            .rev()
            .map(|state| (state, latest(state)))
            .filter(|(_, count)| *count > 0)
            .map(|(state, count)| format!("{state} {count}"))
            .collect();
        let mut text = format!("endpoints {}, matched {matched}", self.chapters.len());
        if !states.is_empty() {
            text = format!("{text}: {}", states.join(", "));
        }
        text
    }
}

impl Chapter {
    fn matched(&self) -> bool {
        self.verdict == Some(Verdict::Matched)
    }

    /// Of the latest run.
    fn state(&self) -> Option<DeliveryState> {
        self.runs.last().map(|run| run.delivery.standing.state)
    }

    /// What needs someone first, then what went well, then what was not meant to happen.
    fn place(&self) -> u8 {
        match (self.state(), self.verdict) {
            (Some(DeliveryState::Dead), _) => 0,
            (None, Some(Verdict::Matched)) => 1,
            (Some(DeliveryState::Pending), _) => 2,
            (Some(DeliveryState::Cancelled), _) => 3,
            (Some(DeliveryState::Delivered), _) => 4,
            (None, Some(Verdict::Disabled { .. })) => 5,
            (None, None) => 6,
            (None, Some(Verdict::EventType)) => 7,
            (None, Some(Verdict::Project)) => 8,
        }
    }

    fn heading(&self, stored: &EventEntry) -> String {
        let url = self.endpoint.as_ref().map_or("", |endpoint| &endpoint.url);
        let deleted = if self.endpoint.is_none() {
            "  (deleted since)"
        } else {
            ""
        };
        let heading = format!("{}  {}", self.endpoint_id, fate::in_words(self, stored));
        format!(
            "{heading}{deleted}{}{url}",
            if url.is_empty() { "" } else { "  " }
        )
    }

    fn text(&self, now_ms: u64) -> Vec<String> {
        if self.runs.is_empty() {
            return fate::next(self)
                .into_iter()
                .map(|line| format!("-> {line}"))
                .collect();
        }
        let around = |index| Around {
            endpoint: self.endpoint.as_ref(),
            is_superseded: index + 1 < self.runs.len(),
            now_ms,
        };
        let runs = self.runs.iter().enumerate();
        runs.flat_map(|(index, run)| run.text(around(index))).collect()
    }

    fn json(&self, stored: &EventEntry) -> Value {
        let (word, since) = fate::word(self, stored);
        json!({
            "endpoint_id": self.endpoint_id,
            "url": self.endpoint.as_ref().map(|endpoint| &endpoint.url),
            "deleted": self.endpoint.is_none(),
            "verdict": word,
            "disabled": since,
            "deliveries": self.runs.iter().map(Run::json).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests;
