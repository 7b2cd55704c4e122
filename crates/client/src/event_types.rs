//! Event types.

use webhook::EventType;
use wire::{EventTypeInfo, Listing};

use crate::{client::Client, error::Error, operation::Operation, request::Request};

/// Event types.
impl Client {
    /// Returns all event types with their schemas and examples, in the order in which they occur for a lead.
    ///
    /// # Errors
    /// Returns an error if the API refuses the request, or is not reached.
    pub async fn list_event_types(&self) -> Result<Vec<EventTypeInfo>, Error> {
        let request = Request::new(Operation::LIST_EVENT_TYPES);
        let types: Listing<EventTypeInfo> = self.send(&request).await?.json()?;
        Ok(types.data)
    }

    /// Returns an event type with its schema and an example.
    ///
    /// # Errors
    /// Returns an error if the API does not know the type, refuses the request, or is not reached.
    pub async fn get_event_type(&self, event_type: EventType) -> Result<EventTypeInfo, Error> {
        let request = Request::named(Operation::GET_EVENT_TYPE, event_type.as_str());
        self.send(&request).await?.json()
    }
}
