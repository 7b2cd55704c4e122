//! Authentication and authorization: one decision for every request, before any handler runs. [`Caller::of`]
//! decides which organization the request is for.
//!
//! The scope that an operation needs is in the `security` of the OpenAPI document, from which [`Operations`]
//! is read. A request to a route that is not in the document is answered like one to a path that does not
//! exist, whatever its handler would do.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use runtime::now_ms;
use store::ApiKeyRow;
use webhook::ApiKey;

use crate::{
    caller::Caller,
    context::Context,
    key_cache::Known,
    operations::Access,
    problem::{Kind, Problem},
};

/// The path of the browsable documentation and its files. They are not operations, and need no key.
pub(crate) const DOCS: &str = "/docs";

/// Passes a request on with its [`Caller`], or answers it with a problem.
pub(crate) async fn admit(State(context): State<Context>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match caller(&context, &parts).await {
        Ok(caller) => pass(caller, Request::from_parts(parts, body), next).await,
        Err(problem) => problem.into_response(),
    }
}

async fn pass(caller: Option<Caller>, mut request: Request, next: Next) -> Response {
    let Some(caller) = caller else {
        return next.run(request).await;
    };
    request.extensions_mut().insert(caller.clone());
    let mut response = next.run(request).await;
    // For the log line that `observe` writes.
    response.extensions_mut().insert(caller);
    response
}

async fn caller(context: &Context, request: &Parts) -> Result<Option<Caller>, Problem> {
    let path = request.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let path = path.ok_or_else(|| Problem::of_status(StatusCode::NOT_FOUND))?;
    if path == DOCS || path.strip_prefix(DOCS).is_some_and(|rest| rest.starts_with('/')) {
        return Ok(None);
    }
    let scope = match context.operations.access(&request.method, path)? {
        Access::Open => return Ok(None),
        Access::Needs(scope) => scope,
    };
    let known = valid_key(context, &request.headers).await?;
    known.use_at(now_ms()).map_err(|wait| {
        let wait_s = wait.as_millis().div_ceil(1000) as u64;
        Problem::new(
            Kind::RateLimited,
            format!(
                "A key may make {} requests per second. Send this request again later, or publish events in batches.",
                context.config.rate_per_key
            ),
        )
        .retry_after(wait_s)
    })?;
    if !known.row.scopes.allow(scope) {
        return Err(Problem::new(
            Kind::InsufficientScope,
            format!(
                "Use a key with the scope {scope}; this one has {}.",
                known.row.scopes
            ),
        ));
    }
    Caller::of(Arc::clone(&known.row), &request.headers).map(Some)
}

/// Returns whether the key of a request that was admitted is still valid. While the database cannot be asked, it
/// is until it expires. `key` is the key's row at that time.
pub(crate) async fn is_still_valid(context: &Context, key: &ApiKeyRow, headers: &HeaderMap) -> bool {
    if !key.is_valid_at(now_ms()) {
        return false;
    }
    match valid_key(context, headers).await {
        Ok(_) => true,
        Err(problem) => problem.kind() != Kind::Unauthorized,
    }
}

async fn valid_key(context: &Context, headers: &HeaderMap) -> Result<Arc<Known>, Problem> {
    let missing =
        "Send the header Authorization: Bearer mgk_... with an API key. The operator creates the first one.";
    let Some(given) = headers.get(header::AUTHORIZATION) else {
        return Err(unauthorized(missing, false));
    };
    let unknown = || {
        unauthorized(
            "Unknown API key. Check that it is complete and belongs to this installation.",
            true,
        )
    };
    let key = bearer(given).ok_or_else(|| unauthorized(missing, false))?;
    let key = ApiKey::parse(key).map_err(|_| unknown())?;
    let found = context.keys.find(&key).await.map_err(|error| database(&error))?;
    let known = found.ok_or_else(unknown)?;
    if known.row.revoked_at_ms.is_some() {
        return Err(unauthorized("The key was revoked; use another one.", true));
    }
    if !known.row.is_valid_at(now_ms()) {
        return Err(unauthorized("The key has expired; use another one.", true));
    }
    Ok(known)
}

/// Returns the key of a bearer token. The name of the scheme is case-insensitive (RFC 9110 section 11.1).
fn bearer(header: &HeaderValue) -> Option<&str> {
    let (scheme, key) = header.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Returns the problem for a request without a valid key. `was_given` says whether it has a key.
pub(crate) fn unauthorized(detail: &str, was_given: bool) -> Problem {
    let challenge = if was_given {
        "Bearer realm=\"magnetite\", error=\"invalid_token\""
    } else {
        "Bearer realm=\"magnetite\""
    };
    Problem::new(Kind::Unauthorized, detail)
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

/// Returns the problem for a database error. Takes the `Arc`, because several requests may share the error,
/// so that it cannot be moved out.
fn database(error: &Arc<store::Error>) -> Problem {
    let problem = if error.is_unavailable() {
        Problem::new(Kind::DatabaseUnavailable, "Send the request again.").retry_after(5)
    } else {
        Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR)
    };
    problem.because(error.as_ref())
}
