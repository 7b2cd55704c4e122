//! The API keys of organizations: creating, listing and revoking them. Platform keys are created and revoked
//! on the command line only.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use runtime::now_ms;
use serde::Deserialize;
use service::{
    api_keys::{self, LIFETIME, NewKey},
    view,
};
use store::ApiKeyRow;
use utoipa::ToSchema;
use webhook::{ApiKeyId, OrganizationId, Scope, Scopes, valid_id};
use wire::{Listing, schema::SCOPES_MAX};

use crate::{
    caller::{Caller, Organization},
    context::Context,
    extract::{Checked, Id, JsonBody, Query, present},
    pagination::{Page, listing},
    problem::{FieldError, Kind, Problem},
};

/// An API key to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateApiKey {
    /// A name for people, such as where the key is used. At most 255 bytes of UTF-8.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$",
        example = "lead form"
    )]
    name: String,
    /// What the key allows.
    #[schema(schema_with = wire::schema::scopes)]
    scopes: Vec<String>,
    /// How long the key is valid, in seconds, at most ten years; without it, until the key is revoked.
    #[serde(default, deserialize_with = "present")]
    #[schema(minimum = 1, maximum = 316_224_000, nullable = false, example = 7_776_000)]
    expires_in_s: Option<u64>,
}

/// Create an API key.
///
/// The key belongs to the organization that the request is for, and has at most the scopes of the key that
/// creates it. The response contains the key, which is not shown again. Platform keys cannot be created over
/// HTTP.
#[utoipa::path(
    post,
    path = "/v1/api-keys",
    operation_id = "createApiKey",
    tag = "API keys",
    security(("api_key" = ["admin"])),
    request_body(
        content = CreateApiKey,
        example = json!({ "name": "lead form", "scopes": ["events:write", "endpoints:read"], "expires_in_s": 7_776_000 }),
    ),
    responses(
        (status = 201, description = "The key, with its text.", body = wire::ApiKey),
        (status = 409, description = "The organization has its maximum number of keys that are not revoked."),
    ),
)]
pub(super) async fn create(
    State(context): State<Context>,
    caller: Caller,
    Organization(organization): Organization,
    JsonBody(new): JsonBody<CreateApiKey>,
) -> Result<(StatusCode, Json<wire::ApiKey>), Problem> {
    let new = new.key(organization, &caller.key.scopes)?;
    let created = api_keys::create(&context.store_for(&caller), new, now_ms()).await?;
    Ok((StatusCode::CREATED, Json(view::api_key_with_text(&created))))
}

/// List API keys.
///
/// Ordered by id, including revoked and expired ones; never with the keys themselves. With a platform key and
/// without Magnetite-Organization, lists the keys of all organizations and the platform keys.
#[utoipa::path(
    get,
    path = "/v1/api-keys",
    operation_id = "listApiKeys",
    tag = "API keys",
    security(("api_key" = ["admin"])),
    params(Page),
    responses((status = 200, description = "A page of API keys.", body = Listing<wire::ApiKey>)),
)]
pub(super) async fn list(
    State(context): State<Context>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Result<Json<Listing<wire::ApiKey>>, Problem> {
    let (limit, after) = (page.limit()?, page.after()?.map(|id: String| ApiKeyId::new(id)));
    let keys = context
        .store
        .api_keys(caller.organization.as_ref(), after.as_ref(), limit + 1)
        .await?;
    let place = |last: &ApiKeyRow| last.id.to_string();
    Ok(Json(listing(keys, limit, place, |key| view::api_key(&key))))
}

/// Revoke an API key.
///
/// Every request with the key is refused within a second. A key may revoke itself. Revoking a key again
/// changes nothing, not even `revoked_at_ms`. Keys that the revoked key has created stay valid. Platform keys
/// cannot be revoked over HTTP.
#[utoipa::path(
    delete,
    path = "/v1/api-keys/{id}",
    operation_id = "revokeApiKey",
    tag = "API keys",
    security(("api_key" = ["admin"])),
    params(("id" = String, Path, description = "The key's id.", example = "key_86f1e90be5ba9e3ea5a5a94bb9df0a56")),
    responses(
        (status = 200, description = "The revoked key, without its text.", body = wire::ApiKey),
        (status = 404, description = "The organization has no such key."),
    ),
)]
pub(super) async fn revoke(
    State(context): State<Context>,
    caller: Caller,
    Organization(organization): Organization,
    Id(id): Id,
) -> Result<Json<wire::ApiKey>, Problem> {
    let (store, id) = (context.store_for(&caller), ApiKeyId::new(id));
    let revoked = api_keys::revoke(&store, &organization, &id, now_ms()).await?;
    let shown = view::api_key(&revoked);
    context.keys.replace(revoked).await;
    Ok(Json(shown))
}

impl CreateApiKey {
    /// Returns the key to create, which may have at most the scopes of the key that creates it.
    fn key(self, organization_id: OrganizationId, scopes_max: &Scopes) -> Result<NewKey, Problem> {
        let (scopes, errors) = self.checked();
        let scopes = match scopes {
            Some(scopes) if errors.is_empty() => scopes,
            _ => return Err(Problem::fields(errors)),
        };
        if !scopes_max.include(&scopes) {
            return Err(Problem::new(
                Kind::InsufficientScope,
                format!(
                    "Ask only for scopes of the key that sends the request: it has {scopes_max}, and cannot create a key with others."
                ),
            ));
        }
        Ok(NewKey {
            organization_id: Some(organization_id),
            name: self.name,
            scopes,
            lifetime: self.expires_in_s.map(Duration::from_secs),
        })
    }

    /// Returns the scopes, unless they are not valid, and the errors of all fields.
    fn checked(&self) -> (Option<Scopes>, Vec<FieldError>) {
        let mut errors = Vec::new();
        if let Err(error) = valid_id(&self.name) {
            errors.push(FieldError::at("/name", error.to_string()));
        }
        let lifetime = self.expires_in_s.map(Duration::from_secs);
        if lifetime.is_some_and(|lifetime| !LIFETIME.contains(&lifetime)) {
            let (least, most) = (LIFETIME.start().as_secs(), LIFETIME.end().as_secs());
            errors.push(FieldError::at(
                "/expires_in_s",
                format!("expected an integer from {least} to {most}"),
            ));
        }
        (scopes(&self.scopes, &mut errors), errors)
    }
}

impl Checked for CreateApiKey {
    fn errors(&self) -> Vec<FieldError> {
        self.checked().1
    }
}

fn scopes(names: &[String], errors: &mut Vec<FieldError>) -> Option<Scopes> {
    if !(1..=SCOPES_MAX).contains(&names.len()) {
        errors.push(FieldError::at(
            "/scopes",
            format!("expected 1 to {SCOPES_MAX} scopes"),
        ));
        return None;
    }
    for (index, name) in names.iter().enumerate() {
        if let Err(error) = name.parse::<Scope>() {
            errors.push(FieldError::at(format!("/scopes/{index}"), error.to_string()));
        }
    }
    names.join(",").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The operation needs a key with the scope admin, which includes all others. This must hold without that
    /// as well.
    #[test]
    fn scopes_cannot_be_widened() {
        for (own, asked, is_allowed) in [
            ("admin", "admin", true),
            ("admin", "events:write", true),
            ("events:write,endpoints:read", "endpoints:read", true),
            ("events:write", "events:write,endpoints:read", false),
            ("endpoints:write", "endpoints:read", false),
            ("events:write", "admin", false),
        ] {
            let new = CreateApiKey {
                name: "test".to_owned(),
                scopes: asked.split(',').map(str::to_owned).collect(),
                expires_in_s: None,
            };
            let made = new.key(OrganizationId::new("org_1"), &own.parse().unwrap());
            match made {
                Ok(made) => assert_eq!((made.scopes.to_string(), is_allowed), (asked.to_owned(), true)),
                Err(problem) => {
                    assert_eq!(
                        (problem.kind(), is_allowed),
                        (Kind::InsufficientScope, false),
                        "{own}"
                    );
                }
            }
        }
    }
}
