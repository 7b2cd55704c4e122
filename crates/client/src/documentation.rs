//! The OpenAPI document.

use serde_json::Value;

use crate::{client::Client, error::Error, operation::Operation, request::Request};

/// The API's own documentation.
impl Client {
    /// Returns the OpenAPI document of the API. [`OPERATIONS`](crate::OPERATIONS) lists the operations that
    /// this client knows.
    ///
    /// # Errors
    /// Returns an error if the API is not reached.
    pub async fn get_open_api(&self) -> Result<Value, Error> {
        let request = Request::new(Operation::GET_OPEN_API);
        self.send(&request).await?.json()
    }
}
