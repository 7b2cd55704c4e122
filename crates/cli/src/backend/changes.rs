//! The log of changes.

use client::ListChanges;
use service::view;
use store::ChangeRow;
use webhook::OrganizationId;

use crate::pages::{self, Pages};

use super::Backend;

impl Backend {
    /// Returns the changes to the endpoints and API keys of one organization, or of all, newest first.
    pub(crate) fn changes<'a>(
        &'a self,
        organization: Option<&'a OrganizationId>,
        wanted: u32,
    ) -> Pages<'a, wire::Change> {
        match self {
            Self::Direct(direct) => pages::of_rows(
                Some(wanted),
                async move |before: Option<&u64>, rows| {
                    direct.store.changes(organization, before.copied(), rows).await
                },
                |row: &ChangeRow| row.number,
                |row| view::change(&row),
            ),
            Self::Api(api) => pages::of_api(Some(wanted), |items| {
                api.client_for(organization).all_changes(ListChanges {
                    limit: Some(items),
                    ..ListChanges::default()
                })
            }),
        }
    }
}
