//! Deliveries that do not continue without intervention: requested runs that were not sent, and lost
//! deliveries.

use webhook::{DeliveryId, EndpointId};

use crate::{
    Error, Operation, Store,
    columns::Columns,
    statement::{Argument, Statement, UNPREPARED},
};

/// The runs that [`Store::claim_requested`] would find, including those that are claimed.
const UNSENT: &str = " FROM deliveries d \
    WHERE d.requested_ms IS NOT NULL AND d.sent_ms IS NULL AND d.state = 0 AND d.attempts = 0 \
    AND d.updated_ms <= d.requested_ms";

/// Declares a delivery lost. The conditions are those for a late delivery in [`Store::audit`], and
/// additionally that the next attempt is overdue.
const DECLARE_LOST: &str = "UPDATE deliveries SET state = 2, reason = 'lost', next_ms = 0, updated_ms = $2 \
    WHERE id = $1 AND state = 0 AND (requested_ms IS NULL OR sent_ms IS NOT NULL) \
    AND COALESCE(sent_ms, created_ms) < $3 AND next_ms < $4";

impl Store {
    /// Returns how many requested runs have not been sent yet, claimed or not. `endpoint` and `ids` restrict
    /// the count; `None` does not restrict it. A caller that finds nothing to claim while this is not 0 has
    /// to wait for another process or for its claims to expire.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn unsent(
        &self,
        endpoint: Option<&EndpointId>,
        ids: Option<&[DeliveryId]>,
    ) -> Result<u64, Error> {
        let mut select = Statement::new("SELECT COUNT(*) AS unsent");
        select.push(UNSENT);
        if let Some(endpoint) = endpoint {
            select.push_with(" AND d.endpoint_id = ", Argument::id(endpoint.as_str()));
        }
        match ids {
            Some([]) => return Ok(0),
            Some(ids) => {
                let ids = ids.iter().map(|id| Argument::id(id.as_str()));
                select.push_list(" AND d.id IN ", ids);
            }
            None => {}
        }
        let read = |row: &dyn Columns| row.number("unsent");
        let counted = self
            .fetch(&Operation::new("count requested deliveries"), select, read)
            .await?;
        Ok(counted.into_iter().next().unwrap_or_default())
    }

    /// Returns which of these runs were requested and have not been sent yet, claimed or not, in any order.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn unsent_of(&self, ids: &[DeliveryId]) -> Result<Vec<DeliveryId>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut select = Statement::new("SELECT d.id");
        select.push(UNSENT);
        let ids = ids.iter().map(|id| Argument::id(id.as_str()));
        select.push_list(" AND d.id IN ", ids);
        let read = |row: &dyn Columns| row.text("id").map(DeliveryId::new);
        self.fetch(&Operation::new("find requested deliveries"), select, read)
            .await
    }

    /// Declares a delivery lost if it has been pending since before `late_ms` and its next attempt was due
    /// before `due_ms`, both in Unix milliseconds. It becomes dead with the reason `lost` and can be sent
    /// again. Returns whether the delivery met these conditions. If it is delivered after all, the state
    /// `delivered` replaces this one.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn declare_lost(
        &self,
        id: &DeliveryId,
        late_ms: u64,
        due_ms: u64,
        now_ms: u64,
    ) -> Result<bool, Error> {
        let times = [now_ms, late_ms, due_ms].map(Argument::from);
        let arguments = [Argument::id(id.as_str())].into_iter().chain(times);
        let update = Statement::with(DECLARE_LOST, arguments);
        let operation = Operation::on("record the loss of delivery", id);
        let lost = self.execute(&operation, UNPREPARED, update).await?;
        Ok(lost > 0)
    }
}
