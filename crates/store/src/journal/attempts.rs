//! The attempts of a delivery.

use bytes::Bytes;
use webhook::{AttemptId, DeliveryId, EndpointId};

use crate::{
    Error, Operation, Store,
    columns::Columns,
    statement::{Argument, Statement},
};

/// One request, as it was recorded. Words are those of the record; a newer version may have written more of
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    /// Its id.
    pub id: AttemptId,
    /// Of which delivery.
    pub delivery_id: DeliveryId,
    /// Where to.
    pub endpoint_id: EndpointId,
    /// 1-based, within the run.
    pub number: u32,
    /// When it began, in Unix milliseconds.
    pub began_ms: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The HTTP status, if there was a response.
    pub status: Option<u16>,
    /// How far it came, if there was no response: `resolve`, `connect`, `tls`, `send`, `response`; else
    /// empty.
    pub phase: String,
    /// What went wrong, if there was no response, such as `connection_refused`; else empty.
    pub failure: String,
    /// The failure in words; empty after a 2xx.
    pub error: String,
    /// The beginning of the response's body.
    pub response: Bytes,
    /// What followed: `delivered`, `retry`, `deferred`, `dead` or `cancelled`.
    pub outcome: String,
    /// When the next attempt was due, in Unix milliseconds, if there was to be one.
    pub next_ms: Option<u64>,
    /// Why it was dead, cancelled or deferred; else empty.
    pub reason: String,
}

const SELECT_OF_DELIVERY: &str = "SELECT id, delivery_id, endpoint_id, number, began_ms, duration_ms, status, phase, failure, error, response, outcome, \
     next_ms, reason FROM attempts WHERE delivery_id = $1 ORDER BY began_ms, id";

impl Store {
    /// Every recorded attempt of a delivery, in the order in which they began. One number can stand twice: a
    /// worker that died after an attempt has left it to be made again.
    ///
    /// # Errors
    ///
    /// Only the database's, and that a row cannot be read.
    pub async fn attempts(&self, delivery: &DeliveryId) -> Result<Vec<AttemptRow>, Error> {
        let select = Statement::with(SELECT_OF_DELIVERY, [Argument::id(delivery.as_str())]);
        self.fetch_from_journal(&Operation::ReadDelivery(delivery.clone()), select, read)
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
