//! A row of the table `endpoints`, and how it becomes an endpoint.

use signature::Secret;
use webhook::{
    BadSubscription, Disabled, Endpoint, EndpointId, OrganizationId, ProjectId, UnknownDisabledReason,
};

use crate::Error;

/// Column lists in the order of [`Row`].
macro_rules! columns {
    () => {
        "id, organization_id, project_id, url, subscription, secret, disabled_reason, disabled_at_ms, deleted_at_ms, \
         version, created_at_ms, updated_at_ms"
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
);

/// Whether the row is what is left of a deleted endpoint.
pub(crate) fn is_deleted(row: &Row) -> bool {
    row.8.is_some()
}

/// The id of a row that may not be decodable.
pub(crate) fn id_of(row: Row) -> EndpointId {
    EndpointId::new(row.0)
}

/// The version of a row that may not be decodable.
pub(crate) fn version_of(row: &Row) -> i64 {
    row.9
}

/// Reads a row that is not of a deleted endpoint.
pub(crate) fn decode(row: Row) -> Result<Endpoint, Error> {
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
    ) = row;
    let id = EndpointId::new(id);
    let undecodable = |column, source| Error::Undecodable {
        id: id.clone(),
        column,
        source,
    };

    let url = url.ok_or_else(|| undecodable("url", None))?;
    let subscription = subscription
        .parse()
        .map_err(|error: BadSubscription| undecodable("subscription", Some(error.into())))?;
    let secret = secret.as_deref().and_then(|secret| Secret::parse(secret).ok());
    let secret = secret.ok_or_else(|| undecodable("secret", None))?;
    let disabled = match (reason, disabled_at_ms) {
        (None, None) => None,
        (Some(reason), Some(at_ms)) => {
            let reason = reason
                .parse()
                .map_err(|error: UnknownDisabledReason| undecodable("disabled_reason", Some(error.into())))?;
            Some(Disabled { reason, at_ms })
        }
        _ => return Err(undecodable("disabled_at_ms", None)),
    };
    Ok(Endpoint {
        id,
        organization_id: OrganizationId::new(organization_id),
        project_id: project_id.map(ProjectId::new),
        url,
        subscription,
        secret,
        disabled,
        version,
        created_at_ms: created,
        updated_at_ms: updated,
    })
}
