//! The leases of relays: endpoints without a URL, whose requests are passed to a program that is connected to the
//! API.
//!
//! A relay is an endpoint with the URL [`RELAY_URL`] and a lease, which is written in the same transaction
//! ([`Store::create_relay`]). The API renews the lease while the relay's program is connected. A recorder deletes the
//! endpoint when its lease has expired. A lease that has expired can be renewed until then.
//!
//! All times are by the database's clock, because several processes renew and end leases.

use std::time::Duration;

use webhook::{ApiKeyId, EndpointId, OrganizationId, RELAY_URL};

use crate::{
    Error, Operation, Store,
    columns::Columns,
    statement::{Argument, Statement, UNPREPARED},
};

/// The maximum number of expired relays that one call returns.
const EXPIRED_MAX: u32 = 100;

const LEASE: &str = "INSERT INTO relays (endpoint_id, organization_id, api_key_id, until_ms) \
    VALUES ($1, $2, $3, {now} + $4)";

/// Renews a lease only if its relay can be used: the endpoint exists and is a relay, and the key is valid.
const RENEW: &str = "UPDATE relays SET until_ms = {now} + $3 WHERE endpoint_id = $1 AND api_key_id = $2 \
    AND EXISTS (SELECT 1 FROM endpoints e WHERE e.id = relays.endpoint_id AND e.deleted_at_ms IS NULL AND e.url = $4) \
    AND EXISTS (SELECT 1 FROM api_keys k WHERE k.id = relays.api_key_id AND k.revoked_at_ms IS NULL \
        AND (k.expires_at_ms IS NULL OR k.expires_at_ms > {now}))";

const COUNT_VALID_KEYS: &str = "SELECT COUNT(*) AS valid FROM api_keys WHERE id = $1 AND revoked_at_ms IS NULL \
    AND (expires_at_ms IS NULL OR expires_at_ms > {now})";

const SELECT_OF_KEY: &str = "SELECT r.endpoint_id FROM relays r JOIN endpoints e ON e.id = r.endpoint_id \
    WHERE r.api_key_id = $1 AND r.organization_id = $2 AND e.deleted_at_ms IS NULL AND e.version < $3 ORDER BY e.version";

const SELECT_EXPIRED: &str = "SELECT endpoint_id FROM relays WHERE until_ms <= {now} AND endpoint_id > $1 ORDER BY endpoint_id LIMIT $2";

/// Removes a lease that has expired; `$1` is the relay's id. Writes no row if the lease was renewed in the meantime.
pub(crate) const EXPIRE: &str = "DELETE FROM relays WHERE endpoint_id = $1 AND until_ms <= {now}";

/// Removes the lease of an endpoint that is deleted, or that is not a relay any more.
const FORGET: &str = "DELETE FROM relays WHERE endpoint_id = $1 AND NOT EXISTS \
    (SELECT 1 FROM endpoints e WHERE e.id = relays.endpoint_id AND e.deleted_at_ms IS NULL AND e.url = $2)";

/// Removes the lease of an endpoint that is being deleted, if it has one.
pub(crate) const END: &str = "DELETE FROM relays WHERE endpoint_id = $1";

/// The lease of a new relay.
#[derive(Clone, Copy)]
pub(crate) struct Lease<'a> {
    pub(crate) key: &'a ApiKeyId,
    pub(crate) age: Duration,
}

/// The result of renewing a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease was renewed.
    Renewed,
    /// The relay has ended, or the key has not opened it.
    Ended,
    /// The key was revoked or has expired.
    KeyInvalid,
}

impl<'a> Lease<'a> {
    /// Returns the statement that writes the lease of this endpoint.
    pub(crate) fn statement(
        self,
        endpoint: &'a EndpointId,
        organization: &'a OrganizationId,
    ) -> Statement<'a> {
        let arguments = [
            endpoint.into(),
            organization.as_str().into(),
            self.key.as_str().into(),
            milliseconds(self.age),
        ];
        Statement::with(LEASE, arguments)
    }
}

impl Store {
    /// Renews the lease of a relay for the time `age` from now on, even if it has expired, unless the relay was ended
    /// or the key is not valid any more. One statement decides and renews.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn renew_relay(
        &self,
        endpoint: &EndpointId,
        key: &ApiKeyId,
        age: Duration,
    ) -> Result<Renewal, Error> {
        let operation = Operation::on("renew relay", endpoint);
        let arguments = [
            endpoint.into(),
            key.as_str().into(),
            milliseconds(age),
            RELAY_URL.into(),
        ];
        let renew = Statement::with(RENEW, arguments);
        if self.execute(&operation, UNPREPARED, renew).await? > 0 {
            return Ok(Renewal::Renewed);
        }
        let count = Statement::with(COUNT_VALID_KEYS, [key.as_str().into()]);
        let valid = self.fetch(&operation, count, read_valid).await?;
        Ok(if valid.first().is_some_and(|count| *count > 0) {
            Renewal::Ended
        } else {
            Renewal::KeyInvalid
        })
    }

    /// Returns the relays that the key has in this organization, the oldest first. With `before`, returns only those
    /// whose version is lower.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn relays_of(
        &self,
        key: &ApiKeyId,
        organization: &OrganizationId,
        before: Option<i64>,
    ) -> Result<Vec<EndpointId>, Error> {
        let arguments = [
            key.as_str().into(),
            organization.as_str().into(),
            before.unwrap_or(i64::MAX).into(),
        ];
        let select = Statement::with(SELECT_OF_KEY, arguments);
        let operation = Operation::on("find the relays of API key", key);
        self.fetch(&operation, select, read_id).await
    }

    /// Returns at most 100 relays whose lease has expired, ordered by id, after the id `after`.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn expired_relays(&self, after: Option<&EndpointId>) -> Result<Vec<EndpointId>, Error> {
        // The empty text sorts before every id.
        let after = after.map_or("", EndpointId::as_str);
        let select = Statement::with(SELECT_EXPIRED, [after.into(), EXPIRED_MAX.into()]);
        self.fetch(&Operation::new("find expired relays"), select, read_id)
            .await
    }

    /// Removes the lease of an endpoint that is deleted, or that is not a relay any more. A process of a version
    /// without relays leaves such a lease behind.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn forget_relay(&self, endpoint: &EndpointId) -> Result<(), Error> {
        let forget = Statement::with(FORGET, [endpoint.into(), RELAY_URL.into()]);
        let operation = Operation::on("remove the lease of relay", endpoint);
        self.execute(&operation, UNPREPARED, forget).await?;
        Ok(())
    }
}

fn milliseconds<'a>(age: Duration) -> Argument<'a> {
    (age.as_millis() as u64).into()
}

fn read_id(row: &dyn Columns) -> Result<EndpointId, sqlx::Error> {
    Ok(EndpointId::new(row.text("endpoint_id")?))
}

fn read_valid(row: &dyn Columns) -> Result<u64, sqlx::Error> {
    row.number("valid")
}
