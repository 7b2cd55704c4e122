//! What the platform is to be told of, kept until it was published.

use sha2::{Digest as _, Sha256};
use webhook::{EndpointId, OrganizationId};

use crate::{
    Error, Operation, Store,
    columns::Columns,
    statement::{Argument, Statement, UNPREPARED},
};

/// Something that happened to an endpoint, to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationRow {
    /// `op_` and 32 hexadecimal digits, the same however often it is published.
    pub id: String,
    /// `endpoint.disabled`, `endpoint.certificate_expiring`.
    pub kind: String,
    /// Whose endpoint it is.
    pub organization_id: OrganizationId,
    /// Which one.
    pub endpoint_id: EndpointId,
    /// Why, in one word; of a certificate that expires, when it does.
    pub reason: String,
    /// When, in Unix milliseconds.
    pub at_ms: u64,
}

/// Run in the transaction that disables the endpoint.
pub(crate) const ANNOUNCE_DISABLED: &str = "INSERT INTO operations (id, kind, endpoint_id, organization_id, reason, at_ms) \
    VALUES ($1, 'endpoint.disabled', $2, $3, $4, $5)";

/// A second worker says the same, and its row is the same.
const ANNOUNCE_EXPIRING: &str = "INSERT INTO operations (id, kind, organization_id, endpoint_id, reason, at_ms) \
     SELECT $1, 'endpoint.certificate_expiring', organization_id, id, $3, $4 FROM endpoints WHERE id = $2 \
     AND deleted_at_ms IS NULL ON CONFLICT (id) DO NOTHING";

const SELECT_OLDEST: &str = "SELECT id, kind, organization_id, endpoint_id, reason, at_ms FROM operations \
    ORDER BY at_ms, id LIMIT $1";

/// The id of what happens to an endpoint when it gets this version.
pub(crate) fn operation_id(endpoint: &EndpointId, version: i64) -> String {
    let mut hash = Sha256::new();
    hash.update(endpoint.as_str());
    hash.update(version.to_be_bytes());
    format!("op_{}", hex::encode(&hash.finalize()[..16]))
}

/// The id of the warning that the certificate at an endpoint expires at this time: the same whoever warns.
fn expiry_id(endpoint: &EndpointId, expires: &str) -> String {
    let mut hash = Sha256::new();
    hash.update("certificate_expiring ");
    hash.update(endpoint.as_str());
    hash.update(" ");
    hash.update(expires);
    format!("op_{}", hex::encode(&hash.finalize()[..16]))
}

impl Store {
    /// Has the platform told that the certificate at an endpoint expires at `expires` (RFC 3339). As long as
    /// that was not published, saying it again changes nothing; afterwards it is told again, under the
    /// same id. Of an endpoint that does not exist nothing is told.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn announce_expiring(&self, id: &EndpointId, expires: &str, now_ms: i64) -> Result<(), Error> {
        let arguments = [
            expiry_id(id, expires).into(),
            id.into(),
            Argument::outside(expires),
            now_ms.into(),
        ];
        let insert = Statement::with(ANNOUNCE_EXPIRING, arguments);
        self.execute(&Operation::AnnounceExpiring(id.clone()), UNPREPARED, insert)
            .await?;
        Ok(())
    }

    /// The oldest at most `limit` that were not deleted yet, oldest first.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn operations(&self, limit: u32) -> Result<Vec<OperationRow>, Error> {
        let select = Statement::with(SELECT_OLDEST, [limit.into()]);
        self.fetch(&Operation::ListOperations, select, read).await
    }

    /// Deletes those that were published.
    ///
    /// # Errors
    ///
    /// Only the database's.
    pub async fn delete_operations(&self, ids: &[String]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut delete = Statement::new("DELETE FROM operations WHERE id IN ");
        delete.push_list("", ids.iter().map(|id| Argument::id(id)));
        self.execute(&Operation::DeleteOperations, UNPREPARED, delete)
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
