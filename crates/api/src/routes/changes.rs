//! The changes to endpoints and API keys, and who made them.

use axum::{Json, extract::State};
use service::view;
use store::ChangeRow;
use wire::Listing;

use crate::{
    caller::Caller,
    context::Context,
    extract::Query,
    pagination::{Page, listing},
    problem::Problem,
};

/// List changes.
///
/// Returns the changes to the organization's endpoints and API keys, newest first. They are kept permanently.
/// With a platform key and without Magnetite-Organization, lists all changes, including those to platform
/// keys.
#[utoipa::path(
    get,
    path = "/v1/changes",
    operation_id = "listChanges",
    tag = "Changes",
    security(("api_key" = ["admin"])),
    params(Page),
    responses((status = 200, description = "A page of changes.", body = Listing<wire::Change>)),
)]
pub(super) async fn list(
    State(context): State<Context>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Result<Json<Listing<wire::Change>>, Problem> {
    let (limit, before) = (page.limit()?, page.after()?);
    let changes = context
        .store
        .changes(caller.organization.as_ref(), before, limit + 1)
        .await?;
    let place = |last: &ChangeRow| last.number;
    Ok(Json(listing(changes, limit, place, |change| {
        view::change(&change)
    })))
}
