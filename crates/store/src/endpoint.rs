//! Endpoints: written one transaction each, read one by one or in pages.

pub(crate) mod row;
pub(crate) mod history;
mod detail;
mod write;

use signature::Secret;
use webhook::{DisabledReason, Endpoint, EndpointId, OrganizationId, ProjectId, Subscription};

use crate::{Error, OPERATION_TIMEOUT, Operation, Store, database::on_connection, statement::storable};
use row::{Row, columns, decode, is_deleted};
use write::{DELETE, DISABLE, ENABLE, INSERT, ROTATE_SECRET, SELECT_ONE, Step, UPDATE, Write};

/// What a new endpoint is made of; the rest is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEndpoint {
    /// Whose endpoint it is.
    pub organization_id: OrganizationId,
    /// When set, only events of this project are delivered.
    pub project_id: Option<ProjectId>,
    /// Where to; not checked here.
    pub url: String,
    /// The event types wanted.
    pub subscription: Subscription,
    /// Signs every request.
    pub secret: Secret,
}

/// What to change of an endpoint: `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointChange {
    /// The new URL; not checked here.
    pub url: Option<String>,
    /// `Some(None)` takes events of every project.
    pub project_id: Option<Option<ProjectId>>,
    /// The event types wanted from now on.
    pub subscription: Option<Subscription>,
}

/// What is known about an endpoint's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It exists, enabled or not.
    Found(Endpoint),
    /// It existed, and was deleted.
    Deleted,
    /// There never was one.
    Unknown,
}

const SELECT_PAGE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM endpoints WHERE deleted_at_ms IS NULL AND id > $1 ORDER BY id LIMIT $2"
);

/// A statement of its own: with "or none given" in one statement, SQLite would not use the index.
const SELECT_PAGE_OF_ORGANIZATION: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM endpoints WHERE deleted_at_ms IS NULL AND id > $1 AND organization_id = $3 ORDER BY id LIMIT $2"
);

/// Of an endpoint whose row is gone.
const COUNT_DELETIONS: &str = "SELECT COUNT(*) FROM changes WHERE subject = $1 AND kind = 'endpoint.deleted'";

impl Store {
    /// The same connections, for writes of endpoints that have this version: of others they are refused with
    /// [`Error::VersionMismatch`], in the transaction that would have written. `None` writes over whatever is
    /// there. A new endpoint has no version: creating is never refused for it.
    #[must_use]
    pub fn if_version(&self, expected: Option<i64>) -> Self {
        Self {
            expected_version: expected,
            ..self.clone()
        }
    }

    /// Returns a handle with the same connections that creates no endpoint of an organization that has `max`
    /// already: [`Error::OrganizationFull`]. Other handles have no limit but
    /// [`ENDPOINTS_MAX`](crate::ENDPOINTS_MAX).
    #[must_use]
    pub fn per_organization_max(&self, max: u32) -> Self {
        Self {
            per_organization_max: max,
            ..self.clone()
        }
    }

    /// Registers an endpoint, enabled, under an id that the caller has made.
    ///
    /// `now_ms` is in Unix milliseconds, here and below.
    ///
    /// # Errors
    ///
    /// [`Error::EndpointExists`], also for the id of a deleted endpoint; [`Error::TooManyEndpoints`].
    pub async fn create_endpoint(
        &self,
        new: NewEndpoint,
        id: EndpointId,
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
            step: Step::Create(&new.organization_id, &new.secret),
            sql: INSERT,
            arguments,
        };
        self.write(&Operation::CreateEndpoint(id.clone()), write, decode)
            .await
    }

    /// Changes the fields that are `Some`. A change without any still counts as one.
    ///
    /// # Errors
    ///
    /// [`Error::EndpointNotFound`], also when it was deleted; [`Error::VersionMismatch`].
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
            step: Step::Update,
            sql: UPDATE,
            arguments,
        };
        self.write(&Operation::UpdateEndpoint(id.clone()), write, decode)
            .await
    }

    /// Replaces the secret. The old one stays valid until `overlap_until_ms`, in Unix milliseconds; without,
    /// it is void at once, and so is the one before, whose time may still run.
    ///
    /// # Errors
    ///
    /// [`Error::EndpointNotFound`], also when it was deleted; [`Error::VersionMismatch`];
    /// [`Error::RotationOpen`] when there is to be an overlap and the last one has not ended: the
    /// receiver may have any of three secrets then, and a request is tried with two.
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
        self.write(&Operation::RotateSecret(id.clone()), write, decode)
            .await
    }

    /// Resumes deliveries. Enabling an enabled endpoint changes only its version.
    ///
    /// # Errors
    ///
    /// [`Error::EndpointNotFound`], also when it was deleted; [`Error::VersionMismatch`].
    pub async fn enable_endpoint(&self, id: &EndpointId, now_ms: i64) -> Result<Endpoint, Error> {
        let write = Write {
            id,
            now_ms,
            step: Step::Enable,
            sql: ENABLE,
            arguments: Vec::new(),
        };
        self.write(&Operation::EnableEndpoint(id.clone()), write, decode)
            .await
    }

    /// Suspends deliveries. Of a disabled endpoint it replaces reason and time.
    ///
    /// # Errors
    ///
    /// [`Error::EndpointNotFound`], also when it was deleted; [`Error::VersionMismatch`].
    pub async fn disable_endpoint(
        &self,
        id: &EndpointId,
        reason: DisabledReason,
        now_ms: i64,
    ) -> Result<Endpoint, Error> {
        let (operation, write) = disabling(id, reason, now_ms);
        self.write(&operation, write, decode).await
    }

    /// Disables the endpoint if its version is still `version_seen`, and says whether it did.
    ///
    /// For the attempt that was answered with 410: what it was told is about the endpoint as it was when the
    /// attempt began. Of several such attempts the first one disables. `false` also when the endpoint is
    /// deleted or unknown.
    ///
    /// # Errors
    ///
    /// Only the database's.
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

    /// Deletes the endpoint for good: its URL and secret are wiped, and looking its id up returns
    /// [`Lookup::Deleted`].
    ///
    /// # Errors
    ///
    /// [`Error::EndpointNotFound`], also when it was deleted before; [`Error::VersionMismatch`].
    pub async fn delete_endpoint(&self, id: &EndpointId, now_ms: i64) -> Result<(), Error> {
        let write = Write {
            id,
            now_ms,
            step: Step::Delete,
            sql: DELETE,
            arguments: Vec::new(),
        };
        self.write(&Operation::DeleteEndpoint(id.clone()), write, |_, _| Ok(()))
            .await
    }

    /// Looks one endpoint up.
    ///
    /// # Errors
    ///
    /// The database's, and [`Error::Undecodable`].
    pub async fn endpoint(&self, id: &EndpointId) -> Result<Lookup, Error> {
        let operation = &Operation::LookUpEndpoint(id.clone());
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

    /// The next at most `limit` endpoints after `after`, ordered by id, disabled ones included; of one
    /// organization or of all. A page that is shorter than `limit` is the last one.
    ///
    /// Pages are read one by one: an endpoint that is created while paging may be missed.
    ///
    /// # Errors
    ///
    /// The database's, and [`Error::Undecodable`].
    pub async fn list_endpoints(
        &self,
        organization: Option<&OrganizationId>,
        after: Option<&EndpointId>,
        limit: u32,
    ) -> Result<Vec<Endpoint>, Error> {
        let operation = &Operation::ListEndpoints;
        // The empty text comes before every id.
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
    (Operation::DisableEndpoint(id.clone()), write)
}
