//! The log of changes: who changed which endpoint or API key, when, and what is different since.
//!
//! It is only ever added to: a row is written by the transaction of the change that it tells of, so that
//! neither is there without the other, and no statement changes or deletes one. It is kept for good: a change
//! is some 200 bytes, and people make few.
//!
//! **Numbers.** Rows are counted in the table `registry`, in the row whose lock all writers hold until they
//! commit. So the numbers have no gaps and grow in the order of the commits: who reads on from a number
//! misses nothing, and a row that somebody deleted is missed.
//!
//! **Nonces.** Each row has a random number, by which two rows of one number are told apart: a database that
//! was restored from a backup counts again from there. See [`Position`](crate::Position).

use std::{fmt, str::FromStr};

use serde_json::Value;
use webhook::{ApiKeyId, OrganizationId};

use crate::{
    Error, Operation, Store,
    columns::Columns,
    statement::{Argument, Statement},
};

/// Who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Nobody said who; what a store begins with.
    Unknown,
    /// The command line.
    Cli,
    /// A worker, by itself.
    Worker,
    /// A recorder, by itself.
    Recorder,
    /// Whoever has this key of the HTTP API.
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

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// An endpoint was registered.
    EndpointCreated,
    /// Its URL, project or event types were set.
    EndpointUpdated,
    /// Its deliveries were resumed.
    EndpointEnabled,
    /// Its deliveries were suspended.
    EndpointDisabled,
    /// It has a new secret.
    SecretRotated,
    /// It is gone.
    EndpointDeleted,
    /// An API key was made.
    ApiKeyCreated,
    /// It lets nobody in any more.
    ApiKeyRevoked,
}

/// A kind that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind of change {0:?}")]
pub struct UnknownChangeKind(pub String);

impl ChangeKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::EndpointCreated,
        Self::EndpointUpdated,
        Self::EndpointEnabled,
        Self::EndpointDisabled,
        Self::SecretRotated,
        Self::EndpointDeleted,
        Self::ApiKeyCreated,
        Self::ApiKeyRevoked,
    ];

    /// The name in the database and in listings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EndpointCreated => "endpoint.created",
            Self::EndpointUpdated => "endpoint.updated",
            Self::EndpointEnabled => "endpoint.enabled",
            Self::EndpointDisabled => "endpoint.disabled",
            Self::SecretRotated => "endpoint.secret_rotated",
            Self::EndpointDeleted => "endpoint.deleted",
            Self::ApiKeyCreated => "api_key.created",
            Self::ApiKeyRevoked => "api_key.revoked",
        }
    }
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ChangeKind {
    type Err = UnknownChangeKind;

    fn from_str(name: &str) -> Result<Self, UnknownChangeKind> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == name);
        found.ok_or_else(|| UnknownChangeKind(name.to_owned()))
    }
}

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRow {
    /// From 1 on without gaps, over all organizations; also a place in the listing.
    pub number: u64,
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// Whose endpoint or key it is.
    pub organization_id: OrganizationId,
    /// `cli`, `worker`, `recorder`, the id of an API key, or `unknown`.
    pub actor: String,
    /// What was done.
    pub kind: ChangeKind,
    /// The id of the endpoint or API key.
    pub subject: String,
    /// What is different since: one JSON object, such as `{"events":{"from":"*","to":"lead.completed"}}`.
    /// Never a secret, and of URLs the host alone.
    pub detail: String,
}

/// A change that is about to be made.
pub(crate) struct Change<'a> {
    pub(crate) at_ms: i64,
    pub(crate) organization: &'a str,
    pub(crate) kind: ChangeKind,
    pub(crate) subject: &'a str,
    pub(crate) detail: Value,
}

/// For writes of what is not in the registry: the lock that puts writers in a row, and the number of the
/// change.
pub(crate) const COUNT_CHANGE: &str =
    "UPDATE registry SET change_count = change_count + 1 WHERE id = 1 RETURNING change_count";

pub(crate) const INSERT_CHANGE: &str = "INSERT INTO changes (number, actor, at_ms, organization_id, kind, subject, detail, nonce) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

impl<'a> Change<'a> {
    /// The arguments of [`INSERT_CHANGE`].
    pub(crate) fn arguments(&self, number: i64, actor: &Actor) -> [Argument<'a>; 8] {
        [
            number.into(),
            actor.to_string().into(),
            self.at_ms.into(),
            Argument::outside(self.organization),
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
    /// The same connections, for somebody whose changes are to be told from those of others.
    #[must_use]
    pub fn acting_as(&self, actor: Actor) -> Self {
        Self {
            actor,
            ..self.clone()
        }
    }

    /// The next at most `limit` changes before number `before`, newest first; of one organization or of all.
    ///
    /// # Errors
    ///
    /// Only the database's, and that a row cannot be read.
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
        self.fetch(&Operation::ListChanges, select, read).await
    }
}

fn read(row: &dyn Columns) -> Result<ChangeRow, sqlx::Error> {
    Ok(ChangeRow {
        number: row.number("number")?,
        at_ms: row.number("at_ms")?,
        organization_id: OrganizationId::new(row.text("organization_id")?),
        actor: row.text("actor")?,
        kind: row.word("kind")?,
        subject: row.text("subject")?,
        detail: row.text("detail")?,
    })
}
