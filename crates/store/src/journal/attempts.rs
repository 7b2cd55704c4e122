//! Queries for the attempts of a delivery.

use bytes::Bytes;
use webhook::{AttemptId, DeliveryId, EndpointId};

use crate::{
    Error, Operation, Store,
    columns::Columns,
    statement::{Argument, Statement},
};

/// One request, as it was recorded. The words in text fields are stored as recorded; a newer version may have
/// recorded words that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    /// The attempt's id.
    pub id: AttemptId,
    /// The delivery that the attempt belongs to.
    pub delivery_id: DeliveryId,
    /// The endpoint that the request was sent to.
    pub endpoint_id: EndpointId,
    /// The attempt's number within the run, 1-based.
    pub number: u32,
    /// When the attempt began, in Unix milliseconds.
    pub began_ms: u64,
    /// How long the attempt took, in milliseconds.
    pub duration_ms: u64,
    /// The HTTP status; `None` if there was no response.
    pub status: Option<u16>,
    /// The phase in which the attempt failed without a response: `resolve`, `connect`, `tls`, `send`,
    /// `response`; otherwise empty.
    pub phase: String,
    /// The kind of failure if there was no response, such as `connection_refused`; otherwise empty.
    pub failure: String,
    /// The failure in words; empty after a 2xx.
    pub error: String,
    /// The beginning of the response's body.
    pub response: Bytes,
    /// The outcome: `delivered`, `retry`, `deferred`, `dead` or `cancelled`.
    pub outcome: String,
    /// When the next attempt was due, in Unix milliseconds; `None` if there was to be none.
    pub next_ms: Option<u64>,
    /// Why the delivery became dead, cancelled or deferred; otherwise empty.
    pub reason: String,
}

const SELECT_OF_DELIVERY: &str = "SELECT id, delivery_id, endpoint_id, number, began_ms, duration_ms, status, phase, failure, error, response, outcome, \
     next_ms, reason FROM attempts WHERE delivery_id = $1 ORDER BY began_ms, id";

impl Store {
    /// Returns all recorded attempts of a delivery, in the order in which they began. A number can occur
    /// twice: if a worker dies after an attempt, the attempt is made again under the same number.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails or a row cannot be read.
    pub async fn attempts(&self, delivery: &DeliveryId) -> Result<Vec<AttemptRow>, Error> {
        let select = Statement::with(SELECT_OF_DELIVERY, [Argument::id(delivery.as_str())]);
        self.fetch_from_journal(&Operation::on("read delivery", delivery), select, read)
            .await
    }
}

fn read(row: &dyn Columns) -> Result<AttemptRow, sqlx::Error> {
    Ok(AttemptRow {
        id: AttemptId::new(row.text("id")?),
        delivery_id: DeliveryId::new(row.text("delivery_id")?),
        endpoint_id: EndpointId::new(row.text("endpoint_id")?),
        number: row.number("number")?,
        began_ms: row.number("began_ms")?,
        duration_ms: row.number("duration_ms")?,
        status: Some(row.number("status")?).filter(|status| *status != 0),
        phase: row.text("phase")?,
        failure: row.text("failure")?,
        error: row.text("error")?,
        response: row.bytes("response")?.into(),
        outcome: row.text("outcome")?,
        next_ms: Some(row.number("next_ms")?).filter(|next_ms| *next_ms != 0),
        reason: row.text("reason")?,
    })
}
