//! The log of changes: who changed which endpoint or API key, when, and what is different.
//!
//! The log is append-only: the transaction of a change also writes its row, so that neither exists without
//! the other, and no statement changes or deletes a row. Rows are kept permanently: a row has about 200
//! bytes, and there are few changes.
//!
//! **Numbers.** The counter for rows is in the single row of the table `registry`. All writers lock this row
//! until they commit. Therefore the numbers have no gaps and grow in the order of the commits: a reader that
//! continues after a number misses nothing, and a row that was deleted by hand leaves a visible gap.
//!
//! **Nonces.** Each row has a random number, which distinguishes two rows with the same number: a database
//! that was restored from a backup assigns the same numbers again. See [`Position`](crate::Position).

use std::fmt;

use serde_json::Value;
use strum::{Display, EnumString, IntoStaticStr, VariantNames};
use webhook::{ApiKeyId, OrganizationId, UnknownName};

use crate::{
    Error, Operation, Store,
    columns::Columns,
    statement::{Argument, Statement},
};

/// The actor of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The actor is not known. This is the default of a store.
    Unknown,
    /// The command line.
    Cli,
    /// A worker, on its own initiative.
    Worker,
    /// A recorder, on its own initiative.
    Recorder,
    /// A client of the HTTP API with this key.
    ApiKey(ApiKeyId),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Cli => "cli",
            Self::Worker => "worker",
            Self::Recorder => "recorder",
            Self::ApiKey(id) => id.as_str(),
        })
    }
}

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, EnumString, IntoStaticStr, VariantNames)]
#[strum(parse_err_ty = UnknownName, parse_err_fn = unknown)]
pub enum ChangeKind {
    /// An endpoint was created.
    #[strum(serialize = "endpoint.created")]
    EndpointCreated,
    /// An endpoint's URL, project or event types were set.
    #[strum(serialize = "endpoint.updated")]
    EndpointUpdated,
    /// An endpoint was enabled.
    #[strum(serialize = "endpoint.enabled")]
    EndpointEnabled,
    /// An endpoint was disabled.
    #[strum(serialize = "endpoint.disabled")]
    EndpointDisabled,
    /// An endpoint's secret was replaced.
    #[strum(serialize = "endpoint.secret_rotated")]
    SecretRotated,
    /// An endpoint was deleted.
    #[strum(serialize = "endpoint.deleted")]
    EndpointDeleted,
    /// An API key was created.
    #[strum(serialize = "api_key.created")]
    ApiKeyCreated,
    /// An API key was revoked.
    #[strum(serialize = "api_key.revoked")]
    ApiKeyRevoked,
}

impl ChangeKind {
    /// Returns the name in the database and in listings.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown(name: &str) -> UnknownName {
    UnknownName::of::<ChangeKind>("kind of change", name)
}

/// A row of the log of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRow {
    /// The number of the change, from 1 without gaps over all organizations. Also serves as the cursor of a
    /// listing.
    pub number: u64,
    /// When the change was made, in Unix milliseconds.
    pub at_ms: u64,
    /// The organization that owns the endpoint or key; `None` for a platform key.
    pub organization_id: Option<OrganizationId>,
    /// `cli`, `worker`, `recorder`, the id of an API key, or `unknown`.
    pub actor: String,
    /// The kind of the change.
    pub kind: ChangeKind,
    /// The id of the endpoint or API key.
    pub subject: String,
    /// The differences as one JSON object, such as `{"events":{"from":"*","to":"lead.completed"}}`. It never
    /// contains a secret, and of URLs only the host.
    pub detail: String,
}

/// A change that is about to be written.
pub(crate) struct Change<'a> {
    pub(crate) at_ms: i64,
    /// The organization that owns the endpoint or key; `None` for a platform key.
    pub(crate) organization: Option<&'a OrganizationId>,
    pub(crate) kind: ChangeKind,
    pub(crate) subject: &'a str,
    pub(crate) detail: Value,
}

/// The `organization_id` of platform keys and of changes to them. The id of an organization is never empty.
const NO_ORGANIZATION: &str = "";

/// Returns the stored form of the organization that owns an endpoint or a key; `None` for a platform key.
pub(crate) fn stored_organization(owner: Option<&OrganizationId>) -> Argument<'_> {
    Argument::outside(owner.map_or(NO_ORGANIZATION, OrganizationId::as_str))
}

/// Reads the organization that owns an endpoint or a key; `None` for a platform key.
pub(crate) fn read_organization(row: &dyn Columns) -> Result<Option<OrganizationId>, sqlx::Error> {
    let id = row.text("organization_id")?;
    Ok((id != NO_ORGANIZATION).then(|| OrganizationId::new(id)))
}

/// Returns the number of the next change, for writes that are not part of the registry. Also takes the lock
/// that serializes writers.
pub(crate) const COUNT_CHANGE: &str =
    "UPDATE registry SET change_count = change_count + 1 WHERE id = 1 RETURNING change_count";

pub(crate) const INSERT_CHANGE: &str = "INSERT INTO changes (number, actor, at_ms, organization_id, kind, subject, detail, nonce) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

impl<'a> Change<'a> {
    /// Returns the arguments of [`INSERT_CHANGE`].
    pub(crate) fn arguments(&self, number: i64, actor: &Actor) -> [Argument<'a>; 8] {
        [
            number.into(),
            actor.to_string().into(),
            self.at_ms.into(),
            stored_organization(self.organization),
            self.kind.as_str().into(),
            self.subject.into(),
            self.detail.to_string().into(),
            rand::random::<i64>().into(),
        ]
    }
}

const SELECT: &str =
    "SELECT number, at_ms, organization_id, actor, kind, subject, detail FROM changes WHERE 1 = 1";

impl Store {
    /// Returns a handle with the same connections whose changes are logged under this actor.
    #[must_use]
    pub fn acting_as(&self, actor: Actor) -> Self {
        Self {
            actor,
            ..self.clone()
        }
    }

    /// Returns at most `limit` changes before number `before`, newest first; of one organization, or of all.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails or a row cannot be read.
    pub async fn changes(
        &self,
        organization: Option<&OrganizationId>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<ChangeRow>, Error> {
        let mut select = Statement::new(SELECT);
        if let Some(organization) = organization {
            select.push_with(
                " AND organization_id = ",
                Argument::outside(organization.as_str()),
            );
        }
        if let Some(before) = before {
            select.push_with(" AND number < ", before.into());
        }
        select.push_with(" ORDER BY number DESC LIMIT ", limit.into());
        self.fetch(&Operation::new("list changes"), select, read).await
    }
}

fn read(row: &dyn Columns) -> Result<ChangeRow, sqlx::Error> {
    Ok(ChangeRow {
        number: row.number("number")?,
        at_ms: row.number("at_ms")?,
        organization_id: read_organization(row)?,
        actor: row.text("actor")?,
        kind: row.word("kind")?,
        subject: row.text("subject")?,
        detail: row.text("detail")?,
    })
}
