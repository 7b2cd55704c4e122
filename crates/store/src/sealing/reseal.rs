//! Seals secrets that are already stored: those in clear text from older versions, and those sealed with a
//! key that is to be replaced.

use signature::Secret;
use sqlx::Connection as _;
use webhook::{EndpointId, OrganizationId};

use super::{Keyring, Owner};
use crate::{Error, OPERATION_TIMEOUT, Operation, Store, database::on_connection};

/// The number of endpoints whose secrets are resealed in one transaction. It is small, because every other
/// write of an endpoint waits for the transaction.
const CHUNK: i64 = 200;

pub(crate) const SELECT_PLAIN: &str =
    "SELECT id, organization_id, secret FROM endpoints WHERE secret LIKE 'whsec!_%' ESCAPE '!'";

pub(crate) const SET_SECRET: &str = "UPDATE endpoints SET secret = $2 WHERE id = $1";

/// Returns the key that seals: the one that has sealed first, or, if none has, `$1` from now on. Also takes
/// the lock that serializes the writers of endpoints.
pub(crate) const CHOOSE_SEALING_KEY: &str =
    "UPDATE registry SET sealing_key = COALESCE(sealing_key, $1) WHERE id = 1 RETURNING sealing_key";

/// Makes `$1` the key that seals from now on, in every process.
const SET_SEALING_KEY: &str = "UPDATE registry SET sealing_key = $1 WHERE id = 1";

/// Selects endpoints whose secrets are not all sealed with the current key. `$1` is the beginning of every
/// secret that this key has sealed, `$2` the id after which to continue.
const SELECT_OTHERS: &str = "SELECT id, organization_id, secret, previous_secret FROM endpoints \
    WHERE id > $2 AND deleted_at_ms IS NULL \
    AND (substr(secret, 1, length($1)) <> $1 OR substr(previous_secret, 1, length($1)) <> $1) ORDER BY id LIMIT $3";

const SET_BOTH: &str = "UPDATE endpoints SET secret = $2, previous_secret = $3 WHERE id = $1";

/// Id, organization, secret, previous secret.
type Sealed = (String, String, String, Option<String>);

/// Seals every secret that is stored in clear text, in the current transaction. For use inside
/// [`on_connection!`].
macro_rules! seal_plain {
    ($tx:ident, $keyring:expr) => {{
        use $crate::sealing::reseal;
        let rows: Vec<(String, String, String)> =
            sqlx::query_as(reseal::SELECT_PLAIN).fetch_all(&mut *$tx).await?;
        if !rows.is_empty() {
            let key: String = sqlx::query_scalar(reseal::CHOOSE_SEALING_KEY)
                .bind($keyring.first())
                .fetch_one(&mut *$tx)
                .await?;
            for (id, organization, secret) in rows {
                let Some(sealed) = reseal::sealed_plain($keyring, &key, &id, organization, &secret)? else {
                    continue;
                };
                sqlx::query(reseal::SET_SECRET)
                    .bind(id)
                    .bind(sealed)
                    .execute(&mut *$tx)
                    .await?;
            }
        }
    }};
}
pub(crate) use seal_plain;

/// Returns the sealed secret, or `None` if the text is not a secret. Such a row cannot be read, before or
/// after this.
pub(crate) fn sealed_plain(
    keyring: &Keyring,
    key: &str,
    id: &str,
    organization: String,
    secret: &str,
) -> Result<Option<String>, Error> {
    let Ok(secret) = Secret::parse(secret) else {
        tracing::error!(
            endpoint.id = id,
            "this endpoint's secret is not a valid secret; it was left unchanged"
        );
        return Ok(None);
    };
    let (organization, endpoint) = (OrganizationId::new(organization), EndpointId::new(id));
    let owner = Owner {
        organization: &organization,
        endpoint: &endpoint,
    };
    keyring.seal(key, &secret, owner).map(Some)
}

impl Store {
    /// Seals every secret with the first of the keys that this store was [connected](Store::connect) with,
    /// and makes all processes seal with it from now on. Returns the number of endpoints that were not sealed
    /// with it before. Workers can continue to read meanwhile if they have that key too, so give it to all of
    /// them first.
    ///
    /// May be interrupted and repeated: secrets that are already resealed are skipped. Once it has returned,
    /// no other key is needed.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, [`Error::SealingKeyMissing`] if a secret is sealed
    /// with a key that this process does not have, or [`Error::Undecodable`] if a secret does not open.
    /// Secrets that were resealed before the error stay resealed.
    pub async fn reseal_secrets(&self) -> Result<u64, Error> {
        let (mut after, mut resealed) = (String::new(), 0);
        loop {
            let ids = self.reseal_some(&after).await?;
            resealed += ids.len() as u64;
            match ids.into_iter().next_back() {
                Some(last) => after = last,
                None => return Ok(resealed),
            }
        }
    }

    /// Reseals the next endpoints after this id in one transaction and returns their ids.
    async fn reseal_some(&self, after: &str) -> Result<Vec<String>, Error> {
        let (operation, keyring) = (&Operation::new("reseal the secrets"), &self.keyring);
        on_connection!(
            &self.database,
            writer,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_write).await?;
                sqlx::query(SET_SEALING_KEY)
                    .bind(keyring.first())
                    .execute(&mut *tx)
                    .await?;
                let rows: Vec<Sealed> = sqlx::query_as(SELECT_OTHERS)
                    .bind(keyring.beginning())
                    .bind(after)
                    .bind(CHUNK)
                    .fetch_all(&mut *tx)
                    .await?;
                let mut ids = Vec::with_capacity(rows.len());
                for row in rows {
                    let (id, secret, previous) = resealed(keyring, row)?;
                    sqlx::query(SET_BOTH)
                        .bind(&id)
                        .bind(secret)
                        .bind(previous)
                        .execute(&mut *tx)
                        .await?;
                    ids.push(id);
                }
                tx.commit().await?;
                Ok(ids)
            }
        )
    }
}

fn resealed(
    keyring: &Keyring,
    (id, organization, secret, previous): Sealed,
) -> Result<(String, String, Option<String>), Error> {
    let (organization, endpoint) = (OrganizationId::new(organization), EndpointId::new(id));
    let owner = Owner {
        organization: &organization,
        endpoint: &endpoint,
    };
    let anew = |column, sealed: &str| {
        let opened = keyring.open(sealed, owner);
        let secret = opened.map_err(|error| error.of(keyring, &endpoint, column))?;
        keyring.seal(keyring.first(), &secret, owner)
    };
    let secret = anew("secret", &secret)?;
    let previous = previous.as_deref().map(|sealed| anew("previous_secret", sealed));
    let previous = previous.transpose()?;
    Ok((endpoint.to_string(), secret, previous))
}
