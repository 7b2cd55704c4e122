//! API keys: created, revoked, and looked up by their hash.
//!
//! A key belongs to one organization, or to none: then it is a platform key.

use serde_json::json;
use sqlx::Connection as _;
use webhook::{ApiKey, ApiKeyId, OrganizationId, Scopes};

use crate::{
    API_KEYS_MAX, ChangeKind, Error, OPERATION_TIMEOUT, Operation, Store,
    changes::{COUNT_CHANGE, Change, INSERT_CHANGE, read_organization, stored_organization},
    columns::Columns,
    database::on_connection,
    statement::{Argument, Statement, bind_all},
};

/// The caller-supplied fields of a new API key.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// The organization to which the key gives access; `None` for a platform key, which gives access to all.
    pub organization_id: Option<OrganizationId>,
    /// A name for users to recognize the key.
    pub name: String,
    /// The operations that the key allows.
    pub scopes: Scopes,
    /// The key itself. Only its hash and its beginning are stored.
    pub key: ApiKey,
    /// When the key expires, in Unix milliseconds; `None` if it is valid until it is revoked.
    pub expires_at_ms: Option<u64>,
}

/// A stored API key. Times are in Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyRow {
    /// The id, which names the key where the key itself must not be shown.
    pub id: ApiKeyId,
    /// The organization to which the key gives access; `None` for a platform key, which gives access to all.
    pub organization_id: Option<OrganizationId>,
    /// A name for users to recognize the key.
    pub name: String,
    /// The operations that the key allows.
    pub scopes: Scopes,
    /// The beginning of the key.
    pub prefix: String,
    /// When the key was created.
    pub created_at_ms: u64,
    /// When the key expires; `None` if it is valid until it is revoked.
    pub expires_at_ms: Option<u64>,
    /// When the key was last used, as far as [noted](Store::note_api_key_uses); `None` if never.
    pub last_used_at_ms: Option<u64>,
    /// When the key was revoked, after which it is invalid; `None` if it was not revoked.
    pub revoked_at_ms: Option<u64>,
}

impl ApiKeyRow {
    /// Returns whether the key is neither revoked nor expired at `now_ms`.
    pub fn is_valid_at(&self, now_ms: u64) -> bool {
        self.revoked_at_ms.is_none()
            && self
                .expires_at_ms
                .is_none_or(|expires_at_ms| now_ms < expires_at_ms)
    }
}

macro_rules! columns {
    () => {
        "id, organization_id, name, scopes, prefix, created_at_ms, expires_at_ms, last_used_at_ms, revoked_at_ms"
    };
}

const INSERT: &str = concat!(
    "INSERT INTO api_keys (id, organization_id, name, scopes, prefix, hash, created_at_ms, expires_at_ms) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING ",
    columns!()
);

const REVOKE: &str = concat!(
    "UPDATE api_keys SET revoked_at_ms = $2 WHERE id = $1 AND revoked_at_ms IS NULL RETURNING ",
    columns!()
);

const SELECT: &str = concat!("SELECT ", columns!(), " FROM api_keys WHERE ");

/// Counts an organization's keys that are not revoked.
const COUNT_NOT_REVOKED: &str =
    "SELECT COUNT(*) FROM api_keys WHERE organization_id = $1 AND revoked_at_ms IS NULL";

const NOTE_USE: &str = "UPDATE api_keys SET last_used_at_ms = $2 \
    WHERE id = $1 AND (last_used_at_ms IS NULL OR last_used_at_ms < $2)";

impl Store {
    /// Stores a key under an id that the caller has generated. `now_ms` is in Unix milliseconds, here and
    /// below.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, [`Error::ApiKeyExists`] if a key with this id or the
    /// same key exists already, [`Error::TooManyApiKeys`] if the organization has [`API_KEYS_MAX`] keys that
    /// are not revoked, or [`Error::EmptyOrganization`].
    pub async fn create_api_key(
        &self,
        new: NewApiKey,
        id: ApiKeyId,
        now_ms: u64,
    ) -> Result<ApiKeyRow, Error> {
        let (scopes, hash) = (new.scopes.to_string(), new.key.hash());
        let organization = new.organization_id.as_ref();
        if organization.is_some_and(|id| id.as_str().is_empty()) {
            return Err(Error::EmptyOrganization { id });
        }
        let write = Write {
            sql: INSERT,
            arguments: vec![
                id.as_str().into(),
                stored_organization(organization),
                Argument::outside(&new.name),
                scopes.as_str().into(),
                new.key.prefix().into(),
                hash.as_slice().into(),
                now_ms.into(),
                new.expires_at_ms.into(),
            ],
            grows: organization,
            kind: ChangeKind::ApiKeyCreated,
            now_ms,
        };
        let operation = Operation::on("create API key", &id);
        let created = self.write_api_key(&operation, write).await?;
        created.ok_or(Error::ApiKeyExists { id })
    }

    /// Revokes the key. If it was revoked before, it keeps the time of the first revocation.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, or [`Error::ApiKeyNotFound`].
    pub async fn revoke_api_key(&self, id: &ApiKeyId, now_ms: u64) -> Result<ApiKeyRow, Error> {
        let write = Write {
            sql: REVOKE,
            arguments: vec![Argument::outside(id.as_str()), now_ms.into()],
            grows: None,
            kind: ChangeKind::ApiKeyRevoked,
            now_ms,
        };
        let operation = Operation::on("revoke API key", id);
        match self.write_api_key(&operation, write).await? {
            Some(revoked) => Ok(revoked),
            None => self.api_key(id).await,
        }
    }

    /// Returns the key with this id, even if it has expired or was revoked.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails or the row cannot be read, or
    /// [`Error::ApiKeyNotFound`].
    pub async fn api_key(&self, id: &ApiKeyId) -> Result<ApiKeyRow, Error> {
        let mut select = Statement::new(SELECT);
        select.push_with("id = ", Argument::outside(id.as_str()));
        let operation = Operation::on("look up API key", id);
        let found = self.fetch(&operation, select, read).await?.into_iter().next();
        found.ok_or_else(|| Error::ApiKeyNotFound { id: id.clone() })
    }

    /// Returns the key with this [hash](ApiKey::hash), even if it has expired or was revoked; see
    /// [`ApiKeyRow::is_valid_at`].
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails or the row cannot be read.
    pub async fn api_key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiKeyRow>, Error> {
        let mut select = Statement::new(SELECT);
        select.push_with("hash = ", hash.as_slice().into());
        let found = self
            .fetch(&Operation::new("look up an API key"), select, read)
            .await?;
        Ok(found.into_iter().next())
    }

    /// Returns at most `limit` keys after `after`, ordered by id and including expired and revoked ones; of
    /// one organization, or of all with the platform keys.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails or a row cannot be read.
    pub async fn api_keys(
        &self,
        organization: Option<&OrganizationId>,
        after: Option<&ApiKeyId>,
        limit: u32,
    ) -> Result<Vec<ApiKeyRow>, Error> {
        let mut select = Statement::new(SELECT);
        // The empty text sorts before every id.
        select.push_with("id > ", Argument::outside(after.map_or("", ApiKeyId::as_str)));
        if let Some(organization) = organization {
            select.push_with(
                " AND organization_id = ",
                Argument::outside(organization.as_str()),
            );
        }
        select.push_with(" ORDER BY id LIMIT ", limit.into());
        self.fetch(&Operation::new("list API keys"), select, read).await
    }

    /// Notes when keys were last used, in one transaction. Times earlier than the stored ones change nothing,
    /// so that several processes can each note the uses that they have seen. Using a key does not change it,
    /// so the log of changes has no row for it.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn note_api_key_uses(&self, uses: &[(ApiKeyId, u64)]) -> Result<(), Error> {
        if uses.is_empty() {
            return Ok(());
        }
        // The fixed order prevents two processes from waiting for each other's rows.
        let mut uses: Vec<_> = uses.iter().collect();
        uses.sort_unstable();
        on_connection!(
            &self.database,
            writer,
            &Operation::new("note when API keys were used"),
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_write).await?;
                for (id, at_ms) in uses {
                    let arguments = [id.as_str().into(), Argument::from(*at_ms)];
                    bind_all!(sqlx::query(NOTE_USE), &arguments)
                        .execute(&mut *tx)
                        .await?;
                }
                tx.commit().await?;
                Ok(())
            }
        )
    }

    /// Writes a key and a row of the log of changes; creating and revoking keys use this function. Returns
    /// `None` if the statement wrote nothing.
    async fn write_api_key(
        &self,
        operation: &Operation,
        write: Write<'_>,
    ) -> Result<Option<ApiKeyRow>, Error> {
        let actor = &self.actor;
        on_connection!(
            &self.database,
            writer,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_write).await?;
                let number: i64 = sqlx::query_scalar(COUNT_CHANGE).fetch_one(&mut *tx).await?;
                if let Some(organization) = write.grows {
                    let existing: i64 = sqlx::query_scalar(COUNT_NOT_REVOKED)
                        .bind(organization.as_str())
                        .fetch_one(&mut *tx)
                        .await?;
                    if existing >= i64::from(API_KEYS_MAX) {
                        let (organization, max) = (organization.clone(), API_KEYS_MAX);
                        return Err(Error::TooManyApiKeys { organization, max }.into());
                    }
                }
                let query = bind_all!(sqlx::query(write.sql), &write.arguments).try_map(|row| read(&row));
                let Some(written) = query.fetch_optional(&mut *tx).await? else {
                    tx.rollback().await?;
                    return Ok(None);
                };
                let change = change(&written, write.kind, write.now_ms);
                bind_all!(sqlx::query(INSERT_CHANGE), &change.arguments(number, actor))
                    .execute(&mut *tx)
                    .await?;
                tx.commit().await?;
                Ok(Some(written))
            }
        )
    }
}

/// One write of one key.
struct Write<'a> {
    sql: &'static str,
    arguments: Vec<Argument<'a>>,
    /// The organization that gets another key, if its number of keys is limited.
    grows: Option<&'a OrganizationId>,
    kind: ChangeKind,
    now_ms: u64,
}

fn change(key: &ApiKeyRow, kind: ChangeKind, now_ms: u64) -> Change<'_> {
    Change {
        at_ms: now_ms as i64,
        organization: key.organization_id.as_ref(),
        kind,
        subject: key.id.as_str(),
        detail: json!({
            "name": key.name,
            "scopes": key.scopes.to_string(),
            "prefix": key.prefix,
            "expires_at_ms": key.expires_at_ms,
        }),
    }
}

fn read(row: &dyn Columns) -> Result<ApiKeyRow, sqlx::Error> {
    Ok(ApiKeyRow {
        id: ApiKeyId::new(row.text("id")?),
        organization_id: read_organization(row)?,
        name: row.text("name")?,
        scopes: row.word("scopes")?,
        prefix: row.text("prefix")?,
        created_at_ms: row.number("created_at_ms")?,
        expires_at_ms: row.maybe_number("expires_at_ms")?,
        last_used_at_ms: row.maybe_number("last_used_at_ms")?,
        revoked_at_ms: row.maybe_number("revoked_at_ms")?,
    })
}
