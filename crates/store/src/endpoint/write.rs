//! The single code path that writes endpoints. A write is one statement in one transaction, which first
//! advances the registry, checks the existing row, and logs the change.

use signature::Secret;
use sqlx::Connection as _;
use webhook::{DisabledReason, EndpointId, OrganizationId, RELAY_URL};

use super::{
    detail::detail,
    history,
    row::{
        Decode, Row, columns, disabled_reason_of, is_deleted, organization_of, previous_until_ms_of, url_of,
        version_of,
    },
};
use crate::{
    ChangeKind, ENDPOINTS_MAX, Error, OPERATION_TIMEOUT, Operation, Store,
    changes::{Change, INSERT_CHANGE},
    database::on_connection,
    operations::{ANNOUNCE_DISABLED, operation_id},
    relays::{self, Lease},
    sealing::{CHOOSE_SEALING_KEY, Owner},
    statement::{Argument, Statement, bind_all},
};

/// Advances the registry; the first statement of every write. It takes the lock that serializes writers and
/// returns the numbers of this write and of its row in the log.
const ADVANCE_REGISTRY: &str = "UPDATE registry SET version = version + 1, endpoint_count = endpoint_count + $1, \
    change_count = change_count + 1 WHERE id = 1 RETURNING version, endpoint_count, change_count";

/// Counts the endpoints of an organization.
const COUNT_EXISTING: &str =
    "SELECT COUNT(*) FROM endpoints WHERE organization_id = $1 AND deleted_at_ms IS NULL";

pub(super) const SELECT_ONE: &str = concat!("SELECT ", columns!(), " FROM endpoints WHERE id = $1");

pub(super) const INSERT: &str = concat!(
    "INSERT INTO endpoints (version, id, created_at_ms, updated_at_ms, organization_id, project_id, url, subscription, \
     secret) VALUES ($1, $2, $3, $3, $4, $5, $6, $7, $8) RETURNING ",
    columns!()
);

pub(super) const UPDATE: &str = concat!(
    "UPDATE endpoints SET version = $1, updated_at_ms = $3, url = COALESCE($4, url), \
     subscription = COALESCE($5, subscription), \
     project_id = CASE WHEN $6 = 1 THEN $7 ELSE project_id END \
     WHERE id = $2 RETURNING ",
    columns!()
);

pub(super) const ENABLE: &str = concat!(
    "UPDATE endpoints SET version = $1, updated_at_ms = $3, disabled_reason = NULL, disabled_at_ms = NULL \
     WHERE id = $2 RETURNING ",
    columns!()
);

pub(super) const DISABLE: &str = concat!(
    "UPDATE endpoints SET version = $1, updated_at_ms = $3, disabled_reason = $4, disabled_at_ms = $3 \
     WHERE id = $2 RETURNING ",
    columns!()
);

pub(super) const DELETE: &str = concat!(
    "UPDATE endpoints SET version = $1, updated_at_ms = $3, deleted_at_ms = $3, url = NULL, secret = NULL, \
     previous_secret = NULL, previous_until_ms = NULL \
     WHERE id = $2 RETURNING ",
    columns!()
);

/// Replaces the secret. `$4` is when the old secret expires, or 0 if it becomes invalid at once.
pub(super) const ROTATE_SECRET: &str = concat!(
    "UPDATE endpoints SET version = $1, updated_at_ms = $3, secret = $5, \
     previous_secret = CASE WHEN $4 > 0 THEN secret END, previous_until_ms = CASE WHEN $4 > 0 THEN $4 END \
     WHERE id = $2 RETURNING ",
    columns!()
);

/// One write of one endpoint.
pub(super) struct Write<'a> {
    pub(super) id: &'a EndpointId,
    pub(super) now_ms: i64,
    pub(super) step: Step<'a>,
    /// The statement that writes the endpoint. `$1` is the new version, `$2` the id, `$3` the time.
    pub(super) sql: &'static str,
    /// The arguments from `$4` on.
    pub(super) arguments: Vec<Argument<'a>>,
}

/// The operation on the endpoint.
#[derive(Clone, Copy)]
pub(super) enum Step<'a> {
    /// Creates the endpoint. A relay has a lease.
    Create(&'a OrganizationId, &'a Secret, Option<Lease<'a>>),
    Update {
        sets_url: bool,
    },
    Enable,
    /// Disables the endpoint. Also stores an operational event, unless the endpoint is already disabled for
    /// the same reason.
    Disable(DisabledReason),
    /// Replaces the secret. The old secret may stay valid, but not while an earlier one is still valid.
    Rotate {
        secret: &'a Secret,
        overlaps: bool,
    },
    Delete,
    /// Deletes a relay whose lease has expired.
    Expire,
}

impl<'a> Step<'a> {
    fn kind(self) -> ChangeKind {
        match self {
            Self::Create(..) => ChangeKind::EndpointCreated,
            Self::Update { .. } => ChangeKind::EndpointUpdated,
            Self::Enable => ChangeKind::EndpointEnabled,
            Self::Disable(_) => ChangeKind::EndpointDisabled,
            Self::Rotate { .. } => ChangeKind::SecretRotated,
            Self::Delete | Self::Expire => ChangeKind::EndpointDeleted,
        }
    }

    /// Returns the statement that updates the endpoint's history, if any.
    fn history(self) -> Option<&'static str> {
        match self {
            Self::Create(..) | Self::Update { .. } | Self::Enable | Self::Disable(_) => {
                Some(history::REMEMBER)
            }
            // The history stays as long as the endpoint's row.
            Self::Delete | Self::Expire | Self::Rotate { .. } => None,
        }
    }

    /// Returns by how much the number of endpoints changes.
    fn growth(self) -> i64 {
        match self {
            Self::Create(..) => 1,
            Self::Delete | Self::Expire => -1,
            _ => 0,
        }
    }

    /// Returns the secret that, once sealed, becomes the last argument.
    fn secret(self) -> Option<&'a Secret> {
        match self {
            Self::Create(_, secret, _) | Self::Rotate { secret, .. } => Some(secret),
            _ => None,
        }
    }
}

impl Write<'_> {
    /// Checks whether this write may replace the existing row, for a writer that expects this version.
    fn admit(&self, found: Option<&Row>, expected: Option<i64>) -> Result<(), Error> {
        let id = || self.id.clone();
        let found = match (self.step, found) {
            (Step::Create(..), None) => return Ok(()),
            (Step::Create(..), Some(_)) => return Err(Error::EndpointExists { id: id() }),
            (_, Some(row)) if !is_deleted(row) => row,
            _ => return Err(Error::EndpointNotFound { id: id() }),
        };
        if let Some(expected) = expected.filter(|expected| *expected != version_of(found)) {
            let (id, found) = (id(), version_of(found));
            return Err(Error::VersionMismatch { id, expected, found });
        }
        let is_relay = url_of(found) == Some(RELAY_URL);
        match self.step {
            Step::Update { sets_url: true } if is_relay => return Err(Error::RelayUrl { id: id() }),
            Step::Expire if !is_relay => return Err(Error::EndpointNotFound { id: id() }),
            _ => {}
        }
        let open_until_ms = previous_until_ms_of(found).filter(|until_ms| self.now_ms < *until_ms);
        match (self.step, open_until_ms) {
            (Step::Rotate { overlaps: true, .. }, Some(until_ms)) => {
                Err(Error::RotationOpen { id: id(), until_ms })
            }
            _ => Ok(()),
        }
    }

    /// Returns the organization that owns the endpoint.
    fn organization(&self, found: Option<&Row>) -> OrganizationId {
        match (self.step, found) {
            (Step::Create(organization, ..), _) => organization.clone(),
            (_, found) => organization_of(found.expect("only a creation has no existing row")),
        }
    }

    /// Returns the statement that writes or removes the endpoint's lease, if any.
    fn lease<'b>(&'b self, organization: &'b OrganizationId) -> Option<Statement<'b>> {
        match self.step {
            Step::Create(.., Some(lease)) => Some(lease.statement(self.id, organization)),
            Step::Delete => Some(Statement::with(relays::END, [self.id.into()])),
            Step::Expire => Some(Statement::with(relays::EXPIRE, [self.id.into()])),
            _ => None,
        }
    }

    /// Returns the arguments of [`ANNOUNCE_DISABLED`] if an operational event is to be stored.
    fn announcement<'b>(
        &'b self,
        found: Option<&Row>,
        organization: &'b OrganizationId,
        version: i64,
    ) -> Option<[Argument<'b>; 5]> {
        let Step::Disable(reason) = self.step else {
            return None;
        };
        let reason = reason.as_str();
        (found.and_then(disabled_reason_of) != Some(reason)).then(|| {
            [
                operation_id(self.id, version).into(),
                self.id.into(),
                Argument::outside(organization.as_str()),
                reason.into(),
                self.now_ms.into(),
            ]
        })
    }
}

/// Evaluates to the row that a write is about to replace, if there is one, and to its organization, after the
/// write was found to be allowed; steps of an [`on_connection!`].
macro_rules! admit {
    ($tx:ident, $write:ident, $store:ident) => {{
        let found: Option<Row> = sqlx::query_as(SELECT_ONE)
            .bind($write.id.as_str())
            .fetch_optional(&mut *$tx)
            .await?;
        $write.admit(found.as_ref(), $store.expected_version)?;
        let (organization, max) = ($write.organization(found.as_ref()), $store.per_organization_max);
        if $write.step.growth() > 0 {
            let existing: i64 = sqlx::query_scalar(COUNT_EXISTING)
                .bind(organization.as_str())
                .fetch_one(&mut *$tx)
                .await?;
            if existing >= i64::from(max) {
                return Err(Error::OrganizationFull { organization, max }.into());
            }
        }
        (found, organization)
    }};
}

/// Writes an endpoint, and evaluates to its row; steps of an [`on_connection!`].
macro_rules! write_row {
    ($tx:ident, $write:ident, $keyring:expr, $version:ident, $organization:ident) => {{
        let mut query = bind_all!(
            sqlx::query_as($write.sql)
                .bind($version)
                .bind($write.id.as_str())
                .bind($write.now_ms),
            &$write.arguments
        );
        if let Some(secret) = $write.step.secret() {
            let key: String = sqlx::query_scalar(CHOOSE_SEALING_KEY)
                .bind($keyring.first())
                .fetch_one(&mut *$tx)
                .await?;
            let owner = Owner {
                organization: &$organization,
                endpoint: $write.id,
            };
            query = query.bind($keyring.seal(&key, secret, owner)?);
        }
        let row: Row = query.fetch_one(&mut *$tx).await?;
        if let Some(history) = $write.step.history() {
            sqlx::query(history)
                .bind($write.id.as_str())
                .execute(&mut *$tx)
                .await?;
        }
        row
    }};
}

/// Writes or removes the lease of a relay together with its endpoint; steps of an [`on_connection!`]. A relay whose
/// lease was renewed in the meantime is not deleted.
macro_rules! write_lease {
    ($tx:ident, $write:ident, $dialect:ident, $organization:ident) => {
        if let Some(lease) = $write.lease(&$organization) {
            let query = bind_all!(sqlx::query(lease.sql($dialect)), &lease.arguments);
            let rows = query.execute(&mut *$tx).await?.rows_affected();
            if rows == 0 && matches!($write.step, Step::Expire) {
                let id = $write.id.clone();
                return Err(Error::EndpointNotFound { id }.into());
            }
        }
    };
}

impl Store {
    /// Writes an endpoint; all writes use this function. A write that is refused, or whose result cannot be
    /// decoded, is not committed.
    pub(super) async fn write<T>(
        &self,
        operation: &Operation,
        write: Write<'_>,
        decode: Decode<T>,
    ) -> Result<T, Error> {
        on_connection!(
            &self.database,
            writer,
            operation,
            OPERATION_TIMEOUT,
            |connection, dialect| {
                let mut tx = connection.begin_with(dialect.begin_write).await?;
                let growth = write.step.growth();
                let (version, endpoint_count, change_number): (i64, i64, i64) =
                    sqlx::query_as(ADVANCE_REGISTRY)
                        .bind(growth)
                        .fetch_one(&mut *tx)
                        .await?;
                if growth > 0 && endpoint_count > i64::from(ENDPOINTS_MAX) {
                    return Err(Error::TooManyEndpoints.into());
                }
                let (found, organization) = admit!(tx, write, self);
                if let Some(arguments) = write.announcement(found.as_ref(), &organization, version) {
                    bind_all!(sqlx::query(ANNOUNCE_DISABLED), &arguments)
                        .execute(&mut *tx)
                        .await?;
                }
                let row = write_row!(tx, write, self.keyring, version, organization);
                write_lease!(tx, write, dialect, organization);
                let change = Change {
                    at_ms: write.now_ms,
                    organization: Some(&organization),
                    kind: write.step.kind(),
                    subject: write.id.as_str(),
                    detail: detail(write.step.kind(), found.as_ref(), &row),
                };
                bind_all!(
                    sqlx::query(INSERT_CHANGE),
                    &change.arguments(change_number, &self.actor)
                )
                .execute(&mut *tx)
                .await?;
                let written = decode(row, &self.keyring)?;
                tx.commit().await?;
                Ok(written)
            }
        )
    }
}
