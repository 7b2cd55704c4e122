//! The present state of an organization's webhooks.

use wire::Status;

use crate::{client::Client, error::Error, operation::Operation, request::Request};

/// The status, which needs a key with the scope `deliveries:read`.
impl Client {
    /// Returns the present state of the organization's endpoints and deliveries. Dead deliveries are counted
    /// from `since_ms` on, in Unix milliseconds; `None` for an hour ago.
    ///
    /// # Errors
    /// Returns an error if the API refuses the request, or is not reached.
    pub async fn get_status(&self, since_ms: Option<u64>) -> Result<Status, Error> {
        let request = Request::new(Operation::GET_STATUS).query("since_ms", since_ms);
        self.send(&request).await?.json()
    }
}
