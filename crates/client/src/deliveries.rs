//! Deliveries, each of one event to one endpoint, and sending them again.

use futures_util::Stream;
use serde::Serialize;
use webhook::journal::DeliveryState;
use wire::{Attempt, Delivery, Listing, ResendResult, Resent, ResentDeliveries};

use crate::{client::Client, error::Error, operation::Operation, pages, request::Request};

/// Which deliveries to list, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListDeliveries {
    /// Only deliveries to this endpoint.
    pub endpoint_id: Option<String>,
    /// Only deliveries of this event.
    pub event_id: Option<String>,
    /// Only deliveries in this state.
    pub state: Option<DeliveryState>,
    /// Only deliveries that were created at this time or later, in Unix milliseconds.
    pub since_ms: Option<u64>,
    /// Only deliveries that were created before this time, in Unix milliseconds.
    pub until_ms: Option<u64>,
    /// The maximum number of deliveries on a page, from 1 to 100; `None` for 20.
    pub limit: Option<u32>,
    /// The `next_cursor` of the previous page; `None` for the first page.
    pub cursor: Option<String>,
}

/// The body of a request to send deliveries again.
#[derive(Serialize)]
struct Ids<'a> {
    ids: &'a [String],
}

/// Deliveries.
///
/// While a delivery that was sent again is pending, another request to send it again returns the same new
/// delivery, and sends nothing else. The client does not repeat such requests by itself, because the new
/// delivery may have ended in the meantime.
impl Client {
    /// Returns a page of deliveries.
    ///
    /// # Errors
    /// Returns an error if the API refuses the request, or is not reached.
    pub async fn list_deliveries(&self, which: &ListDeliveries) -> Result<Listing<Delivery>, Error> {
        pages::one(self, which.request(), which.cursor.as_deref()).await
    }

    /// Returns all deliveries from the page at `cursor` on. The pages are read when they are needed.
    pub fn all_deliveries(
        &self,
        which: ListDeliveries,
    ) -> impl Stream<Item = Result<Delivery, Error>> + Send + Unpin + use<> {
        pages::all(self, which.request(), which.cursor)
    }

    /// Returns a delivery.
    ///
    /// # Errors
    /// Returns an error if there is no such delivery, or the API is not reached.
    pub async fn get_delivery(&self, id: &str) -> Result<Delivery, Error> {
        let request = Request::about(Operation::GET_DELIVERY, id)?;
        self.send(&request).await?.json()
    }

    /// Returns all attempts of a delivery, in the order in which they began.
    ///
    /// # Errors
    /// Returns an error if there is no such delivery, or the API is not reached.
    pub async fn list_attempts(&self, id: &str) -> Result<Vec<Attempt>, Error> {
        let request = Request::about(Operation::LIST_ATTEMPTS, id)?;
        let attempts: Listing<Attempt> = self.send(&request).await?.json()?;
        Ok(attempts.data)
    }

    /// Sends a delivery that has ended again: the same event, with the same `webhook-id`, as a new delivery.
    ///
    /// # Errors
    /// Returns an error if the delivery cannot be sent again (`conflict`) or does not exist, or the API is
    /// not reached.
    pub async fn resend_delivery(&self, id: &str) -> Result<Resent, Error> {
        let request = Request::about(Operation::RESEND_DELIVERY, id)?.long();
        self.send(&request).await?.json()
    }

    /// Sends up to 100 deliveries again, independently of each other. Returns the result for each, in order.
    ///
    /// # Errors
    /// Returns an error if not all deliveries are known to be sent or refused, or the API is not reached.
    pub async fn resend_deliveries(&self, ids: &[String]) -> Result<Vec<ResendResult>, Error> {
        let request = Request::new(Operation::RESEND_DELIVERIES).long();
        let resent: ResentDeliveries = self.send(&request.json(&Ids { ids })?).await?.json()?;
        Ok(resent.results)
    }
}

impl ListDeliveries {
    fn request(&self) -> Request {
        Request::new(Operation::LIST_DELIVERIES)
            .query("endpoint_id", self.endpoint_id.as_deref())
            .query("event_id", self.event_id.as_deref())
            .query("state", self.state)
            .query("since_ms", self.since_ms)
            .query("until_ms", self.until_ms)
            .query("limit", self.limit)
    }
}
