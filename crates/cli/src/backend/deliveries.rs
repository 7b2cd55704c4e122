//! Deliveries.

use anyhow::anyhow;
use client::ListDeliveries;
use futures_util::TryStreamExt as _;
use service::{history::Run, view};
use store::{DeliveryCursor, DeliveryFilter, DeliveryRow, Lookup};
use webhook::{DeliveryId, EndpointId, EventId, OrganizationId};
use wire::{Delivery, DeliveryWithAttempts, Endpoint};

use crate::pages::{self, Pages};

use super::{Api, Backend, Direct, found, not_found};

const LIST_THEM: &str = "`magnetite delivery list` lists the recorded deliveries";

impl Backend {
    /// Returns the deliveries that the filter permits, newest first.
    pub(crate) fn deliveries<'a>(
        &'a self,
        filter: &'a DeliveryFilter,
        wanted: Option<u32>,
    ) -> Pages<'a, Delivery> {
        match self {
            Self::Direct(direct) => pages::of_rows(
                wanted,
                async move |before: Option<&DeliveryCursor>, rows| {
                    direct.store.deliveries(filter, before, rows).await
                },
                |row: &DeliveryRow| DeliveryCursor::from(row),
                |row| view::delivery(&row),
            ),
            Self::Api(api) => pages::of_api(wanted, |items| {
                api.client_for(filter.organization.as_ref())
                    .all_deliveries(ListDeliveries {
                        endpoint_id: filter.endpoint.as_ref().map(EndpointId::to_string),
                        event_id: filter.event.as_ref().map(EventId::to_string),
                        state: filter.state,
                        since_ms: filter.since_ms,
                        until_ms: filter.until_ms,
                        limit: Some(items),
                        cursor: None,
                    })
            }),
        }
    }

    /// Returns a delivery with its attempts.
    pub(crate) async fn delivery(&self, id: &DeliveryId) -> anyhow::Result<DeliveryWithAttempts> {
        match self {
            Self::Direct(Direct { store, .. }) => {
                let delivery = store.delivery(id).await?;
                let delivery =
                    delivery.ok_or_else(|| anyhow!("delivery {id} is not in the journal; {LIST_THEM}"))?;
                let attempts = store.attempts(id).await?;
                Ok(view::run(&Run { delivery, attempts }))
            }
            Self::Api(Api { client, .. }) => {
                let refused = |error| not_found(error, "delivery", id.as_str(), LIST_THEM);
                Ok(DeliveryWithAttempts {
                    delivery: client.get_delivery(id.as_str()).await.map_err(refused)?,
                    attempts: client.list_attempts(id.as_str()).await.map_err(refused)?,
                })
            }
        }
    }

    /// Returns the endpoint of a delivery as it is now, or `None` if it was deleted.
    pub(crate) async fn endpoint_of(&self, delivery: &Delivery) -> anyhow::Result<Option<Endpoint>> {
        let id = delivery.endpoint_id.as_str();
        match self {
            Self::Direct(Direct { store, .. }) => match store.endpoint(&EndpointId::new(id)).await? {
                Lookup::Found(endpoint) => Ok(Some(view::endpoint(&endpoint))),
                Lookup::Deleted | Lookup::Unknown => Ok(None),
            },
            Self::Api(api) => found(api.client.get_endpoint(id).await, id),
        }
    }

    /// Returns whether the event of a delivery was sent to its endpoint again later.
    pub(crate) async fn is_superseded(&self, delivery: &Delivery) -> anyhow::Result<bool> {
        let filter = DeliveryFilter {
            organization: Some(OrganizationId::new(delivery.organization_id.as_str())),
            endpoint: Some(EndpointId::new(delivery.endpoint_id.as_str())),
            event: Some(EventId::new(delivery.event_id.as_str())),
            ..DeliveryFilter::default()
        };
        let mut pages = self.deliveries(&filter, None);
        while let Some(runs) = pages.try_next().await? {
            if runs.iter().any(|other| other.run > delivery.run) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
