//! Endpoints: each write is one transaction; reads return one endpoint or a page.

pub(crate) mod row;
pub(crate) mod history;
mod detail;
mod write;

use std::time::Duration;

use signature::Secret;
use webhook::{ApiKeyId, DisabledReason, Endpoint, EndpointId, OrganizationId, ProjectId, Subscription};

use crate::{
    Error, OPERATION_TIMEOUT, Operation, Store, database::on_connection, relays::Lease, statement::storable,
};
use row::{Row, columns, decode, is_deleted};
use write::{DELETE, DISABLE, ENABLE, INSERT, ROTATE_SECRET, SELECT_ONE, Step, UPDATE, Write};

/// The caller-supplied fields of a new endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEndpoint {
    /// The organization that owns the endpoint.
    pub organization_id: OrganizationId,
    /// The project whose events are delivered; `None` delivers events of every project.
    pub project_id: Option<ProjectId>,
    /// The URL to deliver to; not checked here.
    pub url: String,
    /// The event types to deliver.
    pub subscription: Subscription,
    /// The secret that signs every request.
    pub secret: Secret,
}

/// A change of an endpoint. A field that is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointChange {
    /// The new URL; not checked here.
    pub url: Option<String>,
    /// The new project; `Some(None)` delivers events of every project.
    pub project_id: Option<Option<ProjectId>>,
    /// The new event types to deliver.
    pub subscription: Option<Subscription>,
}

/// The result of looking up an endpoint by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The endpoint exists, enabled or disabled.
    Found(Endpoint),
    /// The endpoint existed and was deleted.
    Deleted,
    /// No endpoint with this id ever existed.
    Unknown,
}

const SELECT_PAGE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM endpoints WHERE deleted_at_ms IS NULL AND id > $1 ORDER BY id LIMIT $2"
);

/// Selects a page of one organization. It is a separate statement, because SQLite would not use the index if
/// one statement also allowed "no organization".
const SELECT_PAGE_OF_ORGANIZATION: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM endpoints WHERE deleted_at_ms IS NULL AND id > $1 AND organization_id = $3 ORDER BY id LIMIT $2"
);

/// Counts the deletions of an endpoint whose row has been removed.
const COUNT_DELETIONS: &str = "SELECT COUNT(*) FROM changes WHERE subject = $1 AND kind = 'endpoint.deleted'";

impl Store {
    /// Returns a handle with the same connections that writes an endpoint only if it has this version.
    /// Otherwise the write is refused with [`Error::VersionMismatch`], in the same transaction. With `None`,
    /// every version is overwritten. A new endpoint has no version, so creating one is never refused for this
    /// reason.
    #[must_use]
    pub fn if_version(&self, expected: Option<i64>) -> Self {
        Self {
            expected_version: expected,
            ..self.clone()
        }
    }

    /// Returns a handle with the same connections that refuses to create an endpoint of an organization that
    /// already has `max` endpoints, with [`Error::OrganizationFull`]. Other handles have no limit except
    /// [`ENDPOINTS_MAX`](crate::ENDPOINTS_MAX).
    #[must_use]
    pub fn per_organization_max(&self, max: u32) -> Self {
        Self {
            per_organization_max: max,
            ..self.clone()
        }
    }

    /// Creates an enabled endpoint with an id that the caller has generated.
    ///
    /// `now_ms` is in Unix milliseconds, here and below.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, [`Error::EndpointExists`] if the id is in use, also
    /// by a deleted endpoint, [`Error::TooManyEndpoints`], or [`Error::OrganizationFull`].
    pub async fn create_endpoint(
        &self,
        new: NewEndpoint,
        id: EndpointId,
        now_ms: i64,
    ) -> Result<Endpoint, Error> {
        self.create(new, id, None, now_ms).await
    }

    /// Creates an endpoint like [`create_endpoint`](Self::create_endpoint) that is a relay of this key, with a lease
    /// for the time `age`. The URL must be [`RELAY_URL`](webhook::RELAY_URL).
    ///
    /// # Errors
    ///
    /// Returns an error if [`create_endpoint`](Self::create_endpoint) would.
    pub async fn create_relay(
        &self,
        new: NewEndpoint,
        id: EndpointId,
        (key, age): (&ApiKeyId, Duration),
        now_ms: i64,
    ) -> Result<Endpoint, Error> {
        self.create(new, id, Some(Lease { key, age }), now_ms).await
    }

    async fn create(
        &self,
        new: NewEndpoint,
        id: EndpointId,
        lease: Option<Lease<'_>>,
        now_ms: i64,
    ) -> Result<Endpoint, Error> {
        let arguments = vec![
            new.organization_id.as_str().into(),
            new.project_id.as_ref().map(ProjectId::as_str).into(),
            new.url.as_str().into(),
            new.subscription.to_string().into(),
        ];
        let write = Write {
            id: &id,
            now_ms,
            step: Step::Create(&new.organization_id, &new.secret, lease),
            sql: INSERT,
            arguments,
        };
        self.write(&Operation::on("create endpoint", &id), write, decode)
            .await
    }

    /// Changes the fields that are `Some`. A change without any such field still creates a new version.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, [`Error::EndpointNotFound`], also for a deleted
    /// endpoint, [`Error::RelayUrl`], or [`Error::VersionMismatch`].
    pub async fn update_endpoint(
        &self,
        id: &EndpointId,
        change: EndpointChange,
        now_ms: i64,
    ) -> Result<Endpoint, Error> {
        let subscription = change.subscription.as_ref().map(ToString::to_string);
        let project_id = change
            .project_id
            .as_ref()
            .and_then(Option::as_ref)
            .map(ProjectId::as_str);
        let arguments = vec![
            change.url.as_deref().into(),
            subscription.as_deref().into(),
            i64::from(change.project_id.is_some()).into(),
            project_id.into(),
        ];
        let write = Write {
            id,
            now_ms,
            step: Step::Update {
                sets_url: change.url.is_some(),
            },
            sql: UPDATE,
            arguments,
        };
        self.write(&Operation::on("update endpoint", id), write, decode)
            .await
    }

    /// Replaces the secret. The old secret stays valid until `overlap_until_ms`, in Unix milliseconds. With
    /// `None` it becomes invalid at once, and so does the secret before it, even if its overlap has not
    /// ended.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, [`Error::EndpointNotFound`], also for a deleted
    /// endpoint, or [`Error::VersionMismatch`]. Returns [`Error::RotationOpen`] if an overlap is requested
    /// while the last one has not ended: the receiver could then use any of three secrets, but a request is
    /// tried with at most two.
    pub async fn rotate_secret(
        &self,
        id: &EndpointId,
        secret: &Secret,
        overlap_until_ms: Option<i64>,
        now_ms: i64,
    ) -> Result<Endpoint, Error> {
        let write = Write {
            id,
            now_ms,
            step: Step::Rotate {
                secret,
                overlaps: overlap_until_ms.is_some(),
            },
            sql: ROTATE_SECRET,
            arguments: vec![overlap_until_ms.unwrap_or_default().into()],
        };
        self.write(&Operation::on("rotate the secret of endpoint", id), write, decode)
            .await
    }

    /// Enables the endpoint, which resumes its deliveries. Enabling an enabled endpoint only changes its
    /// version and its update time.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, [`Error::EndpointNotFound`], also for a deleted
    /// endpoint, or [`Error::VersionMismatch`].
    pub async fn enable_endpoint(&self, id: &EndpointId, now_ms: i64) -> Result<Endpoint, Error> {
        let write = Write {
            id,
            now_ms,
            step: Step::Enable,
            sql: ENABLE,
            arguments: Vec::new(),
        };
        self.write(&Operation::on("enable endpoint", id), write, decode)
            .await
    }

    /// Disables the endpoint, which suspends its deliveries. If it is disabled already, the reason and the
    /// time are replaced.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, [`Error::EndpointNotFound`], also for a deleted
    /// endpoint, or [`Error::VersionMismatch`].
    pub async fn disable_endpoint(
        &self,
        id: &EndpointId,
        reason: DisabledReason,
        now_ms: i64,
    ) -> Result<Endpoint, Error> {
        let (operation, write) = disabling(id, reason, now_ms);
        self.write(&operation, write, decode).await
    }

    /// Disables the endpoint if its version is still `version_seen`, and returns whether it did.
    ///
    /// This is for an attempt that was answered with 410: the answer refers to the endpoint as it was when
    /// the attempt began. Of several such attempts the first one disables the endpoint. Also returns `false`
    /// if the endpoint is deleted or unknown.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn disable_endpoint_unless_changed(
        &self,
        id: &EndpointId,
        version_seen: i64,
        reason: DisabledReason,
        now_ms: i64,
    ) -> Result<bool, Error> {
        let (operation, write) = disabling(id, reason, now_ms);
        let unchanged = self.if_version(Some(version_seen));
        match unchanged.write(&operation, write, |_, _| Ok(())).await {
            Ok(()) => Ok(true),
            Err(Error::VersionMismatch { .. } | Error::EndpointNotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes the endpoint permanently: wipes its URL and its secret. Looking up its id then returns
    /// [`Lookup::Deleted`].
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, [`Error::EndpointNotFound`], also if it was deleted
    /// before, or [`Error::VersionMismatch`].
    pub async fn delete_endpoint(&self, id: &EndpointId, now_ms: i64) -> Result<(), Error> {
        let write = Write {
            id,
            now_ms,
            step: Step::Delete,
            sql: DELETE,
            arguments: Vec::new(),
        };
        self.write(&Operation::on("delete endpoint", id), write, |_, _| Ok(()))
            .await
    }

    /// Deletes a relay like [`delete_endpoint`](Self::delete_endpoint) if its lease has expired, and returns whether it
    /// did. A lease that is renewed at the same time either prevents the deletion or is not renewed.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn expire_relay(&self, id: &EndpointId, now_ms: i64) -> Result<bool, Error> {
        let write = Write {
            id,
            now_ms,
            step: Step::Expire,
            sql: DELETE,
            arguments: Vec::new(),
        };
        let operation = Operation::on("end relay", id);
        match self.write(&operation, write, |_, _| Ok(())).await {
            Ok(()) => Ok(true),
            Err(Error::EndpointNotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Looks up one endpoint.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, [`Error::SealingKeyMissing`], or
    /// [`Error::Undecodable`].
    pub async fn endpoint(&self, id: &EndpointId) -> Result<Lookup, Error> {
        let operation = &Operation::on("look up endpoint", id);
        let stored_id = storable(id.as_str());
        let (row, was_deleted): (Option<Row>, bool) = on_connection!(
            &self.database,
            reader,
            operation,
            OPERATION_TIMEOUT,
            |connection, _dialect| {
                let row = sqlx::query_as(SELECT_ONE)
                    .bind(&*stored_id)
                    .fetch_optional(&mut *connection)
                    .await?;
                if row.is_some() {
                    return Ok((row, false));
                }
                let deletions: i64 = sqlx::query_scalar(COUNT_DELETIONS)
                    .bind(&*stored_id)
                    .fetch_one(&mut *connection)
                    .await?;
                Ok((None, deletions > 0))
            }
        )?;
        match row {
            None if was_deleted => Ok(Lookup::Deleted),
            None => Ok(Lookup::Unknown),
            Some(row) if is_deleted(&row) => Ok(Lookup::Deleted),
            Some(row) => decode(row, &self.keyring).map(Lookup::Found),
        }
    }

    /// Returns at most `limit` endpoints after `after`, ordered by id and including disabled ones; of one
    /// organization, or of all. A page that is shorter than `limit` is the last one.
    ///
    /// Each page is a separate read: an endpoint that is created while paging may be missed.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails, [`Error::SealingKeyMissing`], or
    /// [`Error::Undecodable`].
    pub async fn list_endpoints(
        &self,
        organization: Option<&OrganizationId>,
        after: Option<&EndpointId>,
        limit: u32,
    ) -> Result<Vec<Endpoint>, Error> {
        let operation = &Operation::new("list endpoints");
        // The empty text sorts before every id.
        let after = after.map_or("", EndpointId::as_str);
        let rows: Vec<Row> = on_connection!(
            &self.database,
            reader,
            operation,
            OPERATION_TIMEOUT,
            |connection, _dialect| {
                let query = match organization {
                    None => sqlx::query_as(SELECT_PAGE).bind(after).bind(i64::from(limit)),
                    Some(organization) => sqlx::query_as(SELECT_PAGE_OF_ORGANIZATION)
                        .bind(after)
                        .bind(i64::from(limit))
                        .bind(organization.as_str()),
                };
                Ok(query.fetch_all(connection).await?)
            }
        )?;
        rows.into_iter().map(|row| decode(row, &self.keyring)).collect()
    }
}

fn disabling(id: &EndpointId, reason: DisabledReason, now_ms: i64) -> (Operation, Write<'_>) {
    let write = Write {
        id,
        now_ms,
        step: Step::Disable(reason),
        sql: DISABLE,
        arguments: vec![reason.as_str().into()],
    };
    (Operation::on("disable endpoint", id), write)
}
