//! A row of the table `endpoints`, and how it is decoded into an endpoint.

use webhook::{
    BadSubscription, Disabled, Endpoint, EndpointId, OrganizationId, PreviousSecret, ProjectId, UnknownName,
};

use crate::{
    Error,
    sealing::{Keyring, Owner},
};

/// The column list in the order of [`Row`].
macro_rules! columns {
    () => {
        "id, organization_id, project_id, url, subscription, secret, disabled_reason, disabled_at_ms, deleted_at_ms, \
         version, created_at_ms, updated_at_ms, previous_secret, previous_until_ms"
    };
}
pub(crate) use columns;

/// A row of the table `endpoints`, in the order of [`columns!`].
pub(crate) type Row = (
    String,
    String,
    Option<String>,
    Option<String>,
    String,
    Option<String>,
    Option<String>,
    Option<i64>,
    Option<i64>,
    i64,
    i64,
    i64,
    Option<String>,
    Option<i64>,
);

/// A function that decodes a row that was written.
pub(crate) type Decode<T> = fn(Row, &Keyring) -> Result<T, Error>;

/// Returns whether the row belongs to a deleted endpoint.
pub(crate) fn is_deleted(row: &Row) -> bool {
    row.8.is_some()
}

/// Returns the id of a row that may not be decodable.
pub(crate) fn id_of(row: Row) -> EndpointId {
    EndpointId::new(row.0)
}

/// Returns the version of a row that may not be decodable.
pub(crate) fn version_of(row: &Row) -> i64 {
    row.9
}

/// Returns the organization that owns the endpoint.
pub(super) fn organization_of(row: &Row) -> OrganizationId {
    OrganizationId::new(row.1.as_str())
}

/// Returns the endpoint's URL; `None` if it is deleted.
pub(super) fn url_of(row: &Row) -> Option<&str> {
    row.3.as_deref()
}

/// Returns why the endpoint is disabled, or `None` if it is enabled. The reason may be unknown to this
/// version.
pub(super) fn disabled_reason_of(row: &Row) -> Option<&str> {
    row.6.as_deref()
}

/// Returns when the secret from before the last rotation expires, in Unix milliseconds; `None` if there is
/// none.
pub(super) fn previous_until_ms_of(row: &Row) -> Option<i64> {
    row.13
}

/// Decodes a row that does not belong to a deleted endpoint.
pub(crate) fn decode(row: Row, keyring: &Keyring) -> Result<Endpoint, Error> {
    let (
        id,
        organization_id,
        project_id,
        url,
        subscription,
        secret,
        reason,
        disabled_at_ms,
        _,
        version,
        created,
        updated,
        previous,
        previous_until_ms,
    ) = row;
    let (id, organization_id) = (EndpointId::new(id), OrganizationId::new(organization_id));
    let undecodable = |column, source| Error::Undecodable {
        id: id.clone(),
        column,
        source,
    };

    let url = url.ok_or_else(|| undecodable("url", None))?;
    let subscription = subscription
        .parse()
        .map_err(|error: BadSubscription| undecodable("subscription", Some(error.into())))?;
    let owner = Owner {
        organization: &organization_id,
        endpoint: &id,
    };
    let open = |column, sealed: &str| {
        let opened = keyring.open(sealed, owner);
        opened.map_err(|error| error.of(keyring, &id, column))
    };
    let secret = secret.ok_or_else(|| undecodable("secret", None))?;
    let secret = open("secret", &secret)?;
    let previous = match (previous, previous_until_ms) {
        (None, None) => None,
        (Some(previous), Some(until_ms)) => Some(PreviousSecret {
            secret: open("previous_secret", &previous)?,
            until_ms,
        }),
        _ => return Err(undecodable("previous_until_ms", None)),
    };
    let disabled = match (reason, disabled_at_ms) {
        (None, None) => None,
        (Some(reason), Some(at_ms)) => {
            let reason = reason
                .parse()
                .map_err(|error: UnknownName| undecodable("disabled_reason", Some(error.into())))?;
            Some(Disabled { reason, at_ms })
        }
        _ => return Err(undecodable("disabled_at_ms", None)),
    };
    Ok(Endpoint {
        id,
        organization_id,
        project_id: project_id.map(ProjectId::new),
        url,
        subscription,
        secret,
        previous,
        disabled,
        version,
        created_at_ms: created,
        updated_at_ms: updated,
    })
}
