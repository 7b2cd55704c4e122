//! Events: publishing them, and looking them up.

use bytes::Bytes;
use futures_util::Stream;
use reqwest::header::HeaderName;
use serde_json::value::RawValue;
use webhook::{EventId, EventKind, journal::DeliveryState};
use wire::{EventHistory, EventSummary, Listing, Published, PublishedBatch};

use crate::{client::Client, error::Error, event::Event, operation::Operation, pages, request::Request};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Which events to list, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListEvents {
    /// Only events of this type.
    pub event_type: Option<EventKind>,
    /// Only events of this project.
    pub project_id: Option<String>,
    /// Only events about this lead.
    pub lead_id: Option<String>,
    /// Only events with a delivery in this state.
    pub state: Option<DeliveryState>,
    /// Only events that were received at this time or later, in Unix milliseconds.
    pub since_ms: Option<u64>,
    /// Only events that were received before this time, in Unix milliseconds.
    pub until_ms: Option<u64>,
    /// The maximum number of events on a page, from 1 to 100; `None` for 20.
    pub limit: Option<u32>,
    /// The `next_cursor` of the previous page; `None` for the first page.
    pub cursor: Option<String>,
}

/// Events.
impl Client {
    /// Publishes an event, and returns its id. `Ok` means that the broker has stored the event on disk.
    ///
    /// Without an answer, and after a 429 or 503, the client publishes the event again under the same id. The
    /// API does not remember ids: if it had accepted an earlier try, the event is delivered twice, with the
    /// same `webhook-id`, by which receivers detect the duplicate.
    ///
    /// # Errors
    /// Returns an error if the API refuses the event, or the event is not known to be published. In the
    /// second case, publish the event again: its id stays the same.
    pub async fn publish_event(&self, event: &Event) -> Result<Published, Error> {
        let operation = Operation::PUBLISH_EVENT;
        let id = event.id();
        if EventId::from_message_id(id.as_str()).is_none() {
            let id = id.as_str();
            let reason = format!("the event's id {id:?} is not 1 to 128 characters of A-Z a-z 0-9 _ -");
            return Err(Error::invalid(operation, reason));
        }
        let request = Request::new(operation).body(event.json().clone()).header(
            IDEMPOTENCY_KEY,
            id.as_str(),
            "the id",
        )?;
        let request = traced(request, event.traceparent())?;
        self.send(&request).await?.json()
    }

    /// Publishes up to 500 events at once, and returns their ids in order. `Ok` means that the broker has
    /// stored all of them on disk. If one of them is not valid, or belongs to another organization than the
    /// request, none is published, and the `errors` of the problem name the events by their places.
    ///
    /// The id of each event is derived from its JSON without the white space around it, and all of them have
    /// the trace context of the first one. As with [`publish_event`](Self::publish_event), the client may
    /// publish the events again.
    ///
    /// # Errors
    /// Returns an error if an event has an id or a trace context that a batch cannot carry, the API refuses
    /// an event, or not all events are known to be published. In the last case, publish all of them again:
    /// their ids stay the same.
    pub async fn publish_events(&self, events: &[Event]) -> Result<PublishedBatch, Error> {
        let operation = Operation::PUBLISH_EVENTS;
        let traceparent = events.first().and_then(Event::traceparent);
        let mut json = b"[".to_vec();
        for (index, event) in events.iter().enumerate() {
            let invalid =
                |what: &str| Error::invalid(operation, format!("event {index} of the batch {what}"));
            if event.given_id().is_some() {
                return Err(invalid("has an id of its own: publish it alone"));
            }
            if event.traceparent() != traceparent {
                return Err(invalid("has another trace context than the first one"));
            }
            // An event that is not one JSON value could change which events the array contains.
            let text: Result<&RawValue, _> = serde_json::from_slice(event.json());
            let text = text.map_err(|error| invalid(&format!("is not JSON: {error}")))?;
            if index > 0 {
                json.push(b',');
            }
            json.extend_from_slice(text.get().as_bytes());
        }
        json.push(b']');
        let request = traced(Request::new(operation).body(Bytes::from(json)), traceparent)?;
        self.send(&request).await?.json()
    }

    /// Returns a page of events.
    ///
    /// # Errors
    /// Returns an error if the API refuses the request, or is not reached.
    pub async fn list_events(&self, which: &ListEvents) -> Result<Listing<EventSummary>, Error> {
        pages::one(self, which.request(), which.cursor.as_deref()).await
    }

    /// Returns all events from the page at `cursor` on. The pages are read when they are needed.
    pub fn all_events(
        &self,
        which: ListEvents,
    ) -> impl Stream<Item = Result<EventSummary, Error>> + Send + Unpin + use<> {
        pages::all(self, which.request(), which.cursor)
    }

    /// Returns an event with everything that happened to it at each endpoint of the organization.
    ///
    /// # Errors
    /// Returns an error if there is no such event, no worker has received it yet, or the API is not reached.
    pub async fn get_event(&self, id: &str) -> Result<EventHistory, Error> {
        let request = Request::about(Operation::GET_EVENT, id)?;
        self.send(&request).await?.json()
    }
}

fn traced(request: Request, traceparent: Option<&str>) -> Result<Request, Error> {
    match traceparent {
        Some(traceparent) => request.header(TRACEPARENT, traceparent, "the trace context"),
        None => Ok(request),
    }
}

impl ListEvents {
    fn request(&self) -> Request {
        Request::new(Operation::LIST_EVENTS)
            .query("type", self.event_type)
            .query("project_id", self.project_id.as_deref())
            .query("lead_id", self.lead_id.as_deref())
            .query("state", self.state)
            .query("since_ms", self.since_ms)
            .query("until_ms", self.until_ms)
            .query("limit", self.limit)
    }
}
