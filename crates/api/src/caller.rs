//! The caller of a request, and the organization that the request is for.
//!
//! | the key belongs to | without the header `Magnetite-Organization` | with it |
//! |---|---|---|
//! | an organization | the key's organization | refused, unless it names the key's organization |
//! | the platform | no single organization | the organization that it names |
//!
//! A request that is for no single organization can publish events of any organization and list the objects
//! of all. Operations that act within one organization extract an [`Organization`], which refuses it.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, request::Parts},
};
use store::ApiKeyRow;
use webhook::{ID_BYTES_MAX, OrganizationId, valid_id};

use crate::problem::{FieldError, Kind, Problem};

/// The request header that names an organization.
pub(crate) const ORGANIZATION: &str = "Magnetite-Organization";

/// The API key of a request, and the organization that the request is for. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) key: Arc<ApiKeyRow>,
    /// The only organization whose objects the request may see and change; `None` if it may see those of all.
    pub(crate) organization: Option<OrganizationId>,
}

/// The organization that a request is for.
pub(crate) struct Organization(pub(crate) OrganizationId);

impl Caller {
    /// Returns the caller of a request with this key and these headers.
    ///
    /// # Errors
    /// Returns an error if the headers name something other than one organization, or an organization that
    /// the key gives no access to.
    pub(crate) fn of(key: Arc<ApiKeyRow>, headers: &HeaderMap) -> Result<Self, Problem> {
        let named = named(headers)?;
        let own = key.organization_id.as_ref();
        if let (Some(own), Some(named)) = (own, &named)
            && own != named
        {
            return Err(Problem::new(
                Kind::OtherOrganization,
                format!("Omit the header {ORGANIZATION}, or use a key of the organization that it names."),
            ));
        }
        let organization = own.cloned().or(named);
        Ok(Self { key, organization })
    }
}

#[cfg(test)]
impl Caller {
    /// Returns a caller with a key of this organization or, if it is `None`, with a platform key.
    pub(crate) fn with(key_id: &str, organization: Option<&str>) -> Self {
        let organization = organization.map(OrganizationId::new);
        let key = Arc::new(ApiKeyRow {
            id: webhook::ApiKeyId::new(key_id),
            organization_id: organization.clone(),
            name: "test".to_owned(),
            scopes: "admin".parse().expect("it is a scope"),
            prefix: "mgk_".to_owned(),
            created_at_ms: 1,
            expires_at_ms: None,
            last_used_at_ms: None,
            revoked_at_ms: None,
        });
        Self { key, organization }
    }
}

/// Returns the organization that the headers name; `None` if they name none.
///
/// A comma is refused, because a proxy may have joined two headers with it (RFC 9110 section 5.3).
fn named(headers: &HeaderMap) -> Result<Option<OrganizationId>, Problem> {
    let mut values = headers.get_all(ORGANIZATION).iter();
    let (Some(value), next) = (values.next(), values.next()) else {
        return Ok(None);
    };
    let text = std::str::from_utf8(value.as_bytes()).unwrap_or_default();
    // Spaces around the value do not belong to it (RFC 9110 section 5.5).
    match valid_id(text.trim_matches([' ', '\t'])) {
        Ok(id) if next.is_none() && !id.contains(',') => Ok(Some(OrganizationId::new(id))),
        _ => Err(invalid(format!(
            "expected one header with the id of one organization: 1 to {ID_BYTES_MAX} bytes of UTF-8 without control characters or commas"
        ))),
    }
}

fn invalid(detail: String) -> Problem {
    Problem::fields(vec![FieldError::of_parameter(ORGANIZATION, detail)])
}

/// Available in every operation that needs a key.
impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::of_status(StatusCode::NOT_FOUND))
    }
}

/// Refuses a request that is for no single organization.
impl<S: Send + Sync> FromRequestParts<S> for Organization {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        caller.organization.map(Self).ok_or_else(|| {
            invalid(format!(
                "send the header {ORGANIZATION} with the id of the organization that the request is for: the key is a platform key"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    /// Returns the organization of a request with these headers, or the kind of the problem.
    fn organization(key_of: Option<&str>, named: &[&[u8]]) -> Result<Option<String>, Kind> {
        let mut headers = HeaderMap::new();
        for value in named {
            headers.append(ORGANIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        let key = Caller::with("key_1", key_of).key;
        let caller = Caller::of(key, &headers).map_err(|problem| problem.kind())?;
        Ok(caller.organization.map(|id| id.to_string()))
    }

    #[test]
    fn an_organization_key_acts_for_its_organization_only() {
        let own = Ok(Some("org_1".to_owned()));
        let fitting: [&[&[u8]]; 3] = [&[], &[b"org_1"], &[b" org_1\t"]];
        for named in fitting {
            assert_eq!(organization(Some("org_1"), named), own);
        }
        for other in ["org_2", "ORG_1", "Org_1", "org_1 1", "org", "\u{6f}rg_\u{661}"] {
            let refused = organization(Some("org_1"), &[other.as_bytes()]);
            assert_eq!(refused, Err(Kind::OtherOrganization), "{other}");
        }
    }

    #[test]
    fn a_platform_key_acts_for_the_organization_that_is_named() {
        assert_eq!(organization(None, &[]), Ok(None));
        for id in ["org_1", "Ö 1", "日本", &"é".repeat(127), &"x".repeat(255)] {
            let found = organization(None, &[id.as_bytes()]);
            assert_eq!(found, Ok(Some(id.to_owned())));
        }
    }

    #[test]
    fn what_is_not_the_id_of_one_organization_is_refused_for_every_key() {
        let (many_bytes, many_chars) = ("x".repeat(256), "é".repeat(128));
        let unfit: [&[&[u8]]; 12] = [
            &[b""],
            &[b" "],
            &[b"org_1", b"org_1"],
            &[b"org_1", b""],
            &[b"org_1,org_1"],
            &[b"org_1, org_2"],
            &[b"org_1,"],
            &[b"org\t1"],
            &[b"\xff"],
            &["\u{85}".as_bytes()],
            &[many_bytes.as_bytes()],
            &[many_chars.as_bytes()],
        ];
        for named in unfit {
            for key_of in [None, Some("org_1")] {
                let refused = organization(key_of, named);
                assert_eq!(refused, Err(Kind::InvalidFields), "{named:?}");
            }
        }
    }
}
