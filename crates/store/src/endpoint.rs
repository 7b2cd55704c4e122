//! Endpoints: written one transaction each, read one by one or in pages.

pub(crate) mod row;
mod write;

use signature::Secret;
use webhook::{DisabledReason, Endpoint, EndpointId, OrganizationId, ProjectId, Subscription};

use crate::{Error, OPERATION_TIMEOUT, Operation, Store, database::on_connection, sealing::Owner};
use row::{Row, columns, decode, is_deleted};
use write::{
    Announcement, DELETE, DISABLE, DISABLE_UNLESS_CHANGED, ENABLE, INSERT, ROTATE_SECRET, UPDATE, Write,
};

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
    /// It did exist.
    Deleted,
    /// There never was one.
    Unknown,
}

const SELECT_ONE: &str = concat!("SELECT ", columns!(), " FROM endpoints WHERE id = $1");

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

impl Store {
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
        let subscription = new.subscription.to_string();
        let arguments = vec![
            (&id).into(),
            now_ms.into(),
            new.organization_id.as_str().into(),
            new.project_id.as_ref().map(ProjectId::as_str).into(),
            new.url.as_str().into(),
            subscription.as_str().into(),
        ];
        let owner = Owner {
            organization: &new.organization_id,
            endpoint: &id,
        };
        let write = Write {
            sql: INSERT,
            arguments,
            secret: Some((&new.secret, owner)),
            growth: 1,
            announcement: None,
        };
        let created = self
            .write(&Operation::CreateEndpoint(id.clone()), write, decode)
            .await?;
        created.ok_or(Error::EndpointExists { id })
    }

    /// Changes the fields that are `Some`. A change without any still counts as one.
    ///
    /// # Errors
    ///
    /// [`Error::EndpointNotFound`], also when it was deleted.
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
            id.into(),
            now_ms.into(),
            change.url.as_deref().into(),
            subscription.as_deref().into(),
            i64::from(change.project_id.is_some()).into(),
            project_id.into(),
        ];
        let write = Write {
            sql: UPDATE,
            arguments,
            secret: None,
            growth: 0,
            announcement: None,
        };
        self.write_existing(id, &Operation::UpdateEndpoint(id.clone()), write, decode)
            .await
    }

    /// Replaces the secret. The old one stays valid until `overlap_until_ms`, in Unix milliseconds; without, it is void at once, and so
    /// is the one before, whose time may still run.
    ///
    /// # Errors
    ///
    /// [`Error::EndpointNotFound`], also when it was deleted; [`Error::RotationOpen`] when there is to be an overlap and the last one has
    /// not ended: the receiver may have any of three secrets then, and a request is tried with two.
    pub async fn rotate_secret(
        &self,
        id: &EndpointId,
        secret: &Secret,
        overlap_until_ms: Option<i64>,
        now_ms: i64,
    ) -> Result<Endpoint, Error> {
        let Lookup::Found(Endpoint { organization_id, .. }) = self.endpoint(id).await? else {
            return Err(Error::EndpointNotFound { id: id.clone() });
        };
        let owner = Owner {
            organization: &organization_id,
            endpoint: id,
        };
        let write = Write {
            sql: ROTATE_SECRET,
            arguments: vec![
                id.into(),
                now_ms.into(),
                overlap_until_ms.unwrap_or_default().into(),
            ],
            secret: Some((secret, owner)),
            growth: 0,
            announcement: None,
        };
        let rotated = self
            .write(&Operation::RotateSecret(id.clone()), write, decode)
            .await?;
        match rotated {
            Some(rotated) => Ok(rotated),
            None => Err(self.not_rotated(id).await?),
        }
    }

    async fn not_rotated(&self, id: &EndpointId) -> Result<Error, Error> {
        Ok(match self.endpoint(id).await? {
            Lookup::Found(Endpoint {
                previous: Some(previous),
                ..
            }) => Error::RotationOpen {
                id: id.clone(),
                until_ms: previous.until_ms,
            },
            _ => Error::EndpointNotFound { id: id.clone() },
        })
    }

    /// Resumes deliveries. Enabling an enabled endpoint changes only its version.
    ///
    /// # Errors
    ///
    /// [`Error::EndpointNotFound`], also when it was deleted.
    pub async fn enable_endpoint(&self, id: &EndpointId, now_ms: i64) -> Result<Endpoint, Error> {
        let write = Write {
            sql: ENABLE,
            arguments: vec![id.into(), now_ms.into()],
            secret: None,
            growth: 0,
            announcement: None,
        };
        self.write_existing(id, &Operation::EnableEndpoint(id.clone()), write, decode)
            .await
    }

    /// Suspends deliveries. Of a disabled endpoint it replaces reason and time.
    ///
    /// # Errors
    ///
    /// [`Error::EndpointNotFound`], also when it was deleted.
    pub async fn disable_endpoint(
        &self,
        id: &EndpointId,
        reason: DisabledReason,
        now_ms: i64,
    ) -> Result<Endpoint, Error> {
        let arguments = vec![id.into(), now_ms.into(), reason.as_str().into()];
        let write = Write {
            sql: DISABLE,
            arguments,
            secret: None,
            growth: 0,
            announcement: Some(Announcement {
                id,
                reason,
                version_seen: None,
                now_ms,
            }),
        };
        self.write_existing(id, &Operation::DisableEndpoint(id.clone()), write, decode)
            .await
    }

    /// Disables the endpoint if its version is still `version_seen`, and says whether it did.
    ///
    /// For the attempt that was answered with 410: what it was told is about the endpoint as it was when the attempt began. Of
    /// several such attempts the first one disables. `false` also when the endpoint is deleted or unknown.
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
        let arguments = vec![
            id.into(),
            now_ms.into(),
            reason.as_str().into(),
            version_seen.into(),
        ];
        let write = Write {
            sql: DISABLE_UNLESS_CHANGED,
            arguments,
            secret: None,
            growth: 0,
            announcement: Some(Announcement {
                id,
                reason,
                version_seen: Some(version_seen),
                now_ms,
            }),
        };
        let disabled = self
            .write(&Operation::DisableEndpoint(id.clone()), write, |_, _| Ok(()))
            .await?;
        Ok(disabled.is_some())
    }

    /// Deletes the endpoint for good: its URL and secret are wiped, its id is remembered as [`Lookup::Deleted`].
    ///
    /// # Errors
    ///
    /// [`Error::EndpointNotFound`], also when it was deleted before.
    pub async fn delete_endpoint(&self, id: &EndpointId, now_ms: i64) -> Result<(), Error> {
        let write = Write {
            sql: DELETE,
            arguments: vec![id.into(), now_ms.into()],
            secret: None,
            growth: -1,
            announcement: None,
        };
        self.write_existing(id, &Operation::DeleteEndpoint(id.clone()), write, |_, _| Ok(()))
            .await
    }

    /// Looks one endpoint up.
    ///
    /// # Errors
    ///
    /// The database's, and [`Error::Undecodable`].
    pub async fn endpoint(&self, id: &EndpointId) -> Result<Lookup, Error> {
        let operation = &Operation::LookUpEndpoint(id.clone());
        let row: Option<Row> = on_connection!(
            &self.database,
            reader,
            operation,
            OPERATION_TIMEOUT,
            |connection, _dialect| {
                Ok(sqlx::query_as(SELECT_ONE)
                    .bind(id.as_str())
                    .fetch_optional(connection)
                    .await?)
            }
        )?;
        match row {
            None => Ok(Lookup::Unknown),
            Some(row) if is_deleted(&row) => Ok(Lookup::Deleted),
            Some(row) => decode(row, &self.keyring).map(Lookup::Found),
        }
    }

    /// The next at most `limit` endpoints after `after`, ordered by id, disabled ones included; of one organization or of
    /// all. A page that is shorter than `limit` is the last one.
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
