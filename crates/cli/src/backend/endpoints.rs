//! Endpoints: registering, listing, showing, changing and deleting them.

use anyhow::anyhow;
use broker::Changes;
use client::{CreateEndpoint, ListEndpoints, OldSecret, RotateSecret, UpdateEndpoint};
use runtime::{now_ms, time};
use service::{
    manage::{self, Registration, Rotation},
    view,
    workers::{self, Behind},
};
use store::{EndpointChange, Failing, Lookup};
use webhook::{DisabledReason, Endpoint, EndpointId, OrganizationId, ProjectId, Subscription};

use crate::{
    pages::{self, Pages},
    remote::told,
};

use super::{Api, Backend, Direct, not_found};

const LIST_THEM: &str = "`magnetite endpoint list` lists the existing endpoints";

/// Methods that change an endpoint wait until every running worker acts on the change, two seconds at most, and
/// name the workers that are not known to.
impl Backend {
    /// Registers an endpoint, and returns it with its secret.
    pub(crate) async fn create_endpoint(&self, new: Registration) -> anyhow::Result<wire::Endpoint> {
        match self {
            Self::Direct(direct) => {
                let configuration = &direct.configuration;
                let egress = configuration.egress.client()?;
                let max = configuration.api.endpoints_per_organization_max;
                let store = direct.store.per_organization_max(max);
                let created = manage::register(&store, &egress, new, now_ms() as i64).await?;
                Ok(direct.acted_on(view::endpoint_with_secret(&created)).await)
            }
            Self::Api(api) => {
                let client = api.client_for(Some(&new.organization_id));
                let new = CreateEndpoint {
                    events: Some(patterns(&new.subscription)),
                    project_id: new.project_id.as_ref().map(ProjectId::to_string),
                    url: new.url,
                };
                client.create_endpoint(&new).await.map_err(told)
            }
        }
    }

    /// Returns the endpoints of one organization, or of all, ordered by id.
    pub(crate) fn endpoints<'a>(
        &'a self,
        organization: Option<&'a OrganizationId>,
    ) -> Pages<'a, wire::Endpoint> {
        match self {
            Self::Direct(direct) => pages::of_rows(
                None,
                async move |after: Option<&EndpointId>, rows| {
                    direct.store.list_endpoints(organization, after, rows).await
                },
                |endpoint: &Endpoint| endpoint.id.clone(),
                |endpoint| view::endpoint(&endpoint),
            ),
            Self::Api(api) => api.endpoints(organization, false),
        }
    }

    /// Returns the endpoints that are failing, each with since when and why it fails.
    pub(crate) fn failing_endpoints<'a>(
        &'a self,
        organization: Option<&'a OrganizationId>,
    ) -> Pages<'a, wire::Endpoint> {
        let now_ms = now_ms();
        match self {
            Self::Direct(direct) => pages::of_rows(
                None,
                async move |after: Option<&EndpointId>, rows| {
                    direct.store.failing(organization, after, rows, now_ms).await
                },
                |found: &Failing| found.endpoint.id.clone(),
                |found| view::failing_endpoint(&found),
            ),
            Self::Api(api) => api.endpoints(organization, true),
        }
    }

    /// Returns an endpoint.
    pub(crate) async fn endpoint(&self, id: &EndpointId) -> anyhow::Result<wire::Endpoint> {
        match self {
            Self::Direct(direct) => Ok(view::endpoint(&direct.find(id).await?)),
            Self::Api(api) => {
                let found = api.client.get_endpoint(id.as_str()).await;
                found.map_err(|error| unknown(error, id))
            }
        }
    }

    /// Returns the health of an endpoint.
    pub(crate) async fn endpoint_health(&self, id: &EndpointId) -> anyhow::Result<wire::Health> {
        match self {
            Self::Direct(direct) => {
                let health = direct.store.endpoint_health(id, now_ms()).await?;
                Ok(view::health(&health))
            }
            Self::Api(api) => {
                let health = api.client.get_endpoint_health(id.as_str()).await;
                health.map_err(|error| unknown(error, id))
            }
        }
    }

    /// Changes an endpoint.
    pub(crate) async fn change_endpoint(
        &self,
        id: &EndpointId,
        change: EndpointChange,
    ) -> anyhow::Result<wire::Endpoint> {
        match self {
            Self::Direct(direct) => {
                let egress = direct.configuration.egress.client()?;
                let changed = manage::change(&direct.store, &egress, id, change, now_ms() as i64).await;
                let changed = changed.map_err(|error| match error {
                    manage::Error::Store(error) => hint(error),
                    error @ manage::Error::Url(_) => error.into(),
                })?;
                Ok(direct.acted_on(view::endpoint(&changed)).await)
            }
            Self::Api(api) => {
                let change = UpdateEndpoint {
                    url: change.url,
                    events: change.subscription.as_ref().map(patterns),
                    project_id: change
                        .project_id
                        .map(|project_id| project_id.as_ref().map(ProjectId::to_string)),
                };
                let changed = api.client.update_endpoint(id.as_str(), &change, None).await;
                changed.map_err(|error| unknown(error, id))
            }
        }
    }

    /// Deletes an endpoint. Returns the names of the workers that are not known to act on it.
    pub(crate) async fn delete_endpoint(&self, id: &EndpointId) -> anyhow::Result<Vec<String>> {
        match self {
            Self::Direct(direct) => {
                let deleted = direct.store.delete_endpoint(id, now_ms() as i64).await;
                deleted.map_err(hint)?;
                Ok(direct.behind().await.names())
            }
            Self::Api(api) => {
                let deleted = api.client.delete_endpoint(id.as_str(), None).await;
                let deleted = deleted.map_err(|error| unknown(error, id))?;
                Ok(deleted.workers_behind)
            }
        }
    }

    /// Resumes the deliveries to an endpoint.
    pub(crate) async fn enable_endpoint(&self, id: &EndpointId) -> anyhow::Result<wire::Endpoint> {
        match self {
            Self::Direct(direct) => {
                let enabled = direct.store.enable_endpoint(id, now_ms() as i64).await;
                let enabled = enabled.map_err(hint)?;
                Ok(direct.acted_on(view::endpoint(&enabled)).await)
            }
            Self::Api(api) => {
                let enabled = api.client.enable_endpoint(id.as_str(), None).await;
                enabled.map_err(|error| unknown(error, id))
            }
        }
    }

    /// Suspends the deliveries to an endpoint.
    pub(crate) async fn disable_endpoint(&self, id: &EndpointId) -> anyhow::Result<wire::Endpoint> {
        match self {
            Self::Direct(direct) => {
                let (store, reason) = (&direct.store, DisabledReason::Manual);
                let disabled = store.disable_endpoint(id, reason, now_ms() as i64).await;
                let disabled = disabled.map_err(hint)?;
                Ok(direct.acted_on(view::endpoint(&disabled)).await)
            }
            Self::Api(api) => {
                let disabled = api.client.disable_endpoint(id.as_str(), None).await;
                disabled.map_err(|error| unknown(error, id))
            }
        }
    }

    /// Replaces the secret of an endpoint, and returns the endpoint with its new secret.
    pub(crate) async fn rotate_secret(
        &self,
        id: &EndpointId,
        rotation: Rotation,
    ) -> anyhow::Result<wire::Endpoint> {
        match self {
            Self::Direct(direct) => {
                let rotated = manage::rotate(&direct.store, id, &rotation, now_ms() as i64).await;
                let rotated = rotated.map_err(explained)?;
                Ok(direct.acted_on(view::endpoint_with_secret(&rotated)).await)
            }
            Self::Api(api) => {
                let how = RotateSecret {
                    secret: rotation.secret,
                    old: rotation.overlap.map_or(OldSecret::Revoked, OldSecret::ValidFor),
                };
                let rotated = api.client.rotate_endpoint_secret(id.as_str(), &how, None).await;
                rotated.map_err(|error| match error.problem() {
                    Some(problem) if problem.name() == "conflict" => anyhow!(
                        "endpoint {id} already has two valid secrets: wait until the old one expires, which `magnetite endpoint \
                         show` tells, or use --revoke-now, after which only the new one is valid (request {})",
                        problem.instance
                    ),
                    _ => unknown(error, id),
                })
            }
        }
    }
}

impl Direct {
    /// Returns the endpoint, or an error if it was deleted or does not exist.
    pub(super) async fn find(&self, id: &EndpointId) -> anyhow::Result<Endpoint> {
        match self.store.endpoint(id).await? {
            Lookup::Found(endpoint) => Ok(endpoint),
            Lookup::Deleted => Err(anyhow!("endpoint {id} was deleted; {LIST_THEM}")),
            Lookup::Unknown => Err(anyhow!("endpoint {id} does not exist; {LIST_THEM}")),
        }
    }

    /// Adds the workers that are not known to act on the change.
    async fn acted_on(&self, changed: wire::Endpoint) -> wire::Endpoint {
        view::behind(changed, &self.behind().await)
    }

    async fn behind(&self) -> Behind {
        let configuration = &self.configuration;
        let changes = Changes::lazily(&configuration.broker.config(), configuration.topology());
        let behind = workers::act(&self.store, &changes).await;
        changes.close().await;
        behind
    }
}

impl Api {
    fn endpoints(
        &self,
        organization: Option<&OrganizationId>,
        failing: bool,
    ) -> Pages<'static, wire::Endpoint> {
        pages::of_api(None, |items| {
            self.client_for(organization).all_endpoints(ListEndpoints {
                failing,
                limit: Some(items),
                cursor: None,
            })
        })
    }
}

fn patterns(subscription: &Subscription) -> Vec<String> {
    subscription.patterns().iter().map(ToString::to_string).collect()
}

/// Converts an error of the API about this endpoint.
pub(super) fn unknown(error: client::Error, id: &EndpointId) -> anyhow::Error {
    not_found(error, "endpoint", id.as_str(), LIST_THEM)
}

fn hint(error: store::Error) -> anyhow::Error {
    match error {
        store::Error::EndpointNotFound { .. } => anyhow!("{error}; {LIST_THEM}"),
        error => error.into(),
    }
}

fn explained(error: store::Error) -> anyhow::Error {
    match error {
        store::Error::RotationOpen { id, until_ms } => anyhow!(
            "endpoint {id} already has two valid secrets, the old one until {}: wait until then, or use --revoke-now, after which only \
             the new one is valid",
            time::second(until_ms.try_into().unwrap_or_default())
        ),
        error => hint(error),
    }
}
