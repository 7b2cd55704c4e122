//! Operational events for the platform, stored until they are published.

use sha2::{Digest as _, Sha256};
use webhook::{EndpointId, OrganizationId};

use crate::{
    Error, Operation, Store,
    columns::Columns,
    statement::{Argument, Statement, UNPREPARED},
};

/// An operational event of an endpoint that is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationRow {
    /// `op_` and 32 hexadecimal digits; the same each time the event is published.
    pub id: String,
    /// `endpoint.disabled` or `endpoint.certificate_expiring`.
    pub kind: String,
    /// The organization that owns the endpoint.
    pub organization_id: OrganizationId,
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// The reason in one word; for an expiring certificate, its expiry time.
    pub reason: String,
    /// When it happened, in Unix milliseconds.
    pub at_ms: u64,
}

/// Inserts the event of a disabled endpoint, in the transaction that disables it.
pub(crate) const ANNOUNCE_DISABLED: &str = "INSERT INTO operations (id, kind, endpoint_id, organization_id, reason, at_ms) \
    VALUES ($1, 'endpoint.disabled', $2, $3, $4, $5)";

/// Inserts the event of an expiring certificate. If a second worker reports the same, the row exists already
/// and nothing is inserted.
const ANNOUNCE_EXPIRING: &str = "INSERT INTO operations (id, kind, organization_id, endpoint_id, reason, at_ms) \
     SELECT $1, 'endpoint.certificate_expiring', organization_id, id, $3, $4 FROM endpoints WHERE id = $2 \
     AND deleted_at_ms IS NULL ON CONFLICT (id) DO NOTHING";

const SELECT_OLDEST: &str = "SELECT id, kind, organization_id, endpoint_id, reason, at_ms FROM operations \
    ORDER BY at_ms, id LIMIT $1";

/// Returns the id of the operational event that belongs to this version of an endpoint.
pub(crate) fn operation_id(endpoint: &EndpointId, version: i64) -> String {
    let mut hash = Sha256::new();
    hash.update(endpoint.as_str());
    hash.update(version.to_be_bytes());
    format!("op_{}", hex::encode(&hash.finalize()[..16]))
}

/// Returns the id of the event that an endpoint's certificate expires at this time. It is the same for every
/// worker.
fn expiry_id(endpoint: &EndpointId, expires: &str) -> String {
    let mut hash = Sha256::new();
    hash.update("certificate_expiring ");
    hash.update(endpoint.as_str());
    hash.update(" ");
    hash.update(expires);
    format!("op_{}", hex::encode(&hash.finalize()[..16]))
}

impl Store {
    /// Stores the event that the certificate of an endpoint expires at `expires` (RFC 3339), to be published
    /// to the platform. Until the event has been published, calling this again changes nothing; afterwards
    /// the event is published again under the same id. Does nothing if the endpoint does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn announce_expiring(&self, id: &EndpointId, expires: &str, now_ms: i64) -> Result<(), Error> {
        let arguments = [
            expiry_id(id, expires).into(),
            id.into(),
            Argument::outside(expires),
            now_ms.into(),
        ];
        let insert = Statement::with(ANNOUNCE_EXPIRING, arguments);
        self.execute(
            &Operation::on("announce the expiring certificate of endpoint", id),
            UNPREPARED,
            insert,
        )
        .await?;
        Ok(())
    }

    /// Returns at most `limit` events that have not been deleted yet, oldest first.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn operations(&self, limit: u32) -> Result<Vec<OperationRow>, Error> {
        let select = Statement::with(SELECT_OLDEST, [limit.into()]);
        self.fetch(&Operation::new("list operational events"), select, read)
            .await
    }

    /// Deletes events that have been published.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn delete_operations(&self, ids: &[String]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut delete = Statement::new("DELETE FROM operations WHERE id IN ");
        delete.push_list("", ids.iter().map(|id| Argument::id(id)));
        self.execute(&Operation::new("delete operational events"), UNPREPARED, delete)
            .await?;
        Ok(())
    }
}

fn read(row: &dyn Columns) -> Result<OperationRow, sqlx::Error> {
    Ok(OperationRow {
        id: row.text("id")?,
        kind: row.text("kind")?,
        organization_id: OrganizationId::new(row.text("organization_id")?),
        endpoint_id: EndpointId::new(row.text("endpoint_id")?),
        reason: row.text("reason")?,
        at_ms: row.number("at_ms")?,
    })
}
