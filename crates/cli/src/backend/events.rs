//! Events.

use anyhow::anyhow;
use client::ListEvents;
use service::{history, view};
use store::{EventCursor, EventFilter, EventRow};
use webhook::{EventId, LeadId, OrganizationId, ProjectId};

use crate::pages::{self, Pages};

use super::{Backend, Direct, found};

impl Backend {
    /// Returns the events that the filter permits, newest first.
    pub(crate) fn events<'a>(
        &'a self,
        filter: &'a EventFilter,
        wanted: Option<u32>,
    ) -> Pages<'a, wire::EventSummary> {
        match self {
            Self::Direct(direct) => pages::of_rows(
                wanted,
                async move |before: Option<&EventCursor>, rows| {
                    direct.store.events(filter, before, rows).await
                },
                |row: &EventRow| EventCursor::from(row),
                |row| view::event(&row),
            ),
            Self::Api(api) => pages::of_api(wanted, |items| {
                api.client_for(filter.organization.as_ref())
                    .all_events(ListEvents {
                        event_type: filter.event_type,
                        project_id: filter.project.as_ref().map(ProjectId::to_string),
                        lead_id: filter.lead.as_ref().map(LeadId::to_string),
                        state: filter.state,
                        since_ms: filter.since_ms,
                        until_ms: filter.until_ms,
                        limit: Some(items),
                        cursor: None,
                    })
            }),
        }
    }

    /// Returns the history of each event with this id, with its body. An id is unique within an organization;
    /// the API looks for the event of one organization only.
    pub(crate) async fn histories(
        &self,
        id: &EventId,
        organization: Option<&OrganizationId>,
    ) -> anyhow::Result<Vec<wire::EventHistory>> {
        match self {
            Self::Direct(Direct { store, .. }) => {
                let mut histories = Vec::new();
                for stored in store.event(id, organization).await? {
                    let history = history::gather(stored, store).await?;
                    histories.push(view::history(&history, true));
                }
                Ok(histories)
            }
            Self::Api(api) => {
                let history = api.client_for(organization).get_event(id.as_str()).await;
                Ok(found(history, id.as_str())?.into_iter().collect())
            }
        }
    }

    /// Returns the error for an event without a history: where it may be.
    pub(crate) fn no_event(&self, id: &EventId) -> anyhow::Error {
        let place = self.place();
        match self {
            Self::Direct(_) => anyhow!(
                "event {id} is not in the journal in {place}. If it was published just now, try again in a second; otherwise it may \
                 have been rejected (`magnetite rejected list`), be waiting in a queue (`magnetite topology check`), be in a gap of \
                 the journal (`magnetite audit`) or have been deleted because of its age"
            ),
            Self::Api(_) => anyhow!(
                "event {id} is not in the journal of {place}, or belongs to another organization. If it was published just now, try \
                 again in a second; otherwise ask the operator: it may have been rejected, be waiting in a queue, be in a gap of the \
                 journal or have been deleted because of its age"
            ),
        }
    }
}
