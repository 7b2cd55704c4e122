//! All endpoints, in memory.
//!
//! The registry is loaded before anything is consumed. It is refreshed at intervals, and when the broker
//! forwards a notice that something was changed. While the database is unavailable, the worker continues with
//! the endpoints in memory.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use egress::{Egress, Target};
use runtime::Lasting;
use store::{Changes, Position, Snapshot, Store};
use tokio::sync::{Mutex, Notify};
use webhook::{Disabled, DisabledReason, Endpoint, EndpointId, Event, OrganizationId, journal::Verdict};

use crate::{display_chain, meters, signing::Signing};

/// An endpoint, with its signing keys and its target prepared.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) endpoint: Endpoint,
    pub(crate) signing: Signing,
    /// The target of its requests, set by the first attempt.
    target: OnceLock<Target>,
    /// Whether this worker disabled the endpoint before the database did. In that case the endpoint's history
    /// at the registry's position does not say so.
    ahead: bool,
}

/// Every endpoint of an event's organization, with whether it matches the event, and the registry's position
/// at which this was decided.
pub(crate) struct Considered {
    pub(crate) endpoints: Vec<(Arc<Registered>, Verdict)>,
    pub(crate) position: Position,
}

/// The endpoints in memory.
pub(crate) struct Registry {
    known: RwLock<Known>,
    /// Locked while the registry is being refreshed.
    refreshing: Mutex<()>,
    /// Notified when this worker receives a notice of a change.
    told: Notify,
    /// Notified when the position has changed.
    moved: Notify,
    /// Whether the last refresh failed.
    failing: AtomicBool,
}

#[derive(Default)]
struct Known {
    /// The position up to which all changes are included.
    position: Position,
    by_id: HashMap<EndpointId, Arc<Registered>>,
    by_organization: HashMap<OrganizationId, Vec<Arc<Registered>>>,
}

/// How long the worker waits before it tries to load again: long enough to keep the log readable, and short
/// enough not to delay the start noticeably.
const LOAD_RETRY: Duration = Duration::from_secs(1);

impl Registry {
    /// Loads every endpoint. Waits while the database is unavailable.
    pub(crate) async fn load(store: &Store) -> Result<Self, store::Error> {
        let known = Known::from(snapshot(store).await?);
        known.report();
        Ok(known.into())
    }

    /// Refreshes the registry when notified of a change and at intervals.
    ///
    /// Returns only on an error that waiting cannot resolve: a missing sealing key. Without it, a new
    /// endpoint cannot be read and would not get its events.
    pub(crate) async fn follow(&self, store: &Store, every: Duration) -> store::Error {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let away = Lasting::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.told.notified() => {}
            }
            match self.refresh(store).await {
                Ok(()) => {
                    if let Some(ended) = away.end() {
                        tracing::info!(
                            failures = ended.times,
                            "the database answers again; the endpoints are up to date"
                        );
                    }
                }
                Err(error @ store::Error::SealingKeyMissing { .. }) => return error,
                Err(error) => {
                    if let Some(report) = away.again() {
                        tracing::warn!(
                            error = display_chain(&error),
                            failures = report.times,
                            "cannot check for changed endpoints; continuing with the endpoints in memory"
                        );
                    }
                    meters::REGISTRY_FAILURES.count([]).increment(1);
                }
            }
        }
    }

    /// Reads the changes since the last refresh. Waits for another refresh that is in progress, and then
    /// still refreshes.
    pub(crate) async fn refresh(&self, store: &Store) -> Result<(), store::Error> {
        let _alone = self.refreshing.lock().await;
        let before = self.position();
        let refreshed = self.take_changes(store).await;
        self.failing.store(refreshed.is_err(), Ordering::Relaxed);
        if self.position() != before {
            self.moved.notify_one();
        }
        refreshed
    }

    async fn take_changes(&self, store: &Store) -> Result<(), store::Error> {
        let current = store.registry_position().await?;
        let mut position = self.read().position;
        while position != current {
            let changes = match store.registry_changes(&position).await {
                Err(why @ (store::Error::RegistryWentBack { .. } | store::Error::RegistryForgot { .. })) => {
                    return self.reload(store, &why).await;
                }
                changes => changes?,
            };
            position = changes.position;
            self.take_over(changes);
            // More changes were written meanwhile. The next refresh reads them.
            if position.version >= current.version {
                break;
            }
        }
        Ok(())
    }

    fn take_over(&self, changes: Changes) {
        let mut known = self.write();
        changes.deleted.iter().for_each(|id| drop(known.remove(id)));
        let changed = changes.endpoints.into_iter();
        changed.for_each(|endpoint| known.insert(Arc::new(endpoint.into())));
        known.position = changes.position;
        known.report();
    }

    async fn reload(&self, store: &Store, why: &store::Error) -> Result<(), store::Error> {
        tracing::warn!(
            reason = display_chain(why),
            "the changes since the last refresh are not available; loading all endpoints again"
        );
        let snapshot = snapshot(store).await?;
        let unreadable = snapshot.unreadable.clone();
        let mut loaded = Known::from(snapshot);
        let mut known = self.write();
        // An endpoint that cannot be read now keeps its previous state.
        let kept = unreadable.iter().filter_map(|id| known.by_id.get(id).cloned());
        kept.for_each(|registered| loaded.insert(registered));
        loaded.report();
        *known = loaded;
        Ok(())
    }

    /// Makes [`follow`](Self::follow) refresh the registry at once.
    pub(crate) fn tell(&self) {
        self.told.notify_one();
    }

    /// Waits until the position has changed since the last call.
    ///
    /// # Cancel safety
    /// This method is cancel safe.
    pub(crate) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Returns the position up to which all changes are included.
    pub(crate) fn position(&self) -> Position {
        self.read().position
    }

    /// Returns whether the last refresh failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Returns every endpoint of the event's organization with whether it matches the event, all from the
    /// same state of the registry.
    pub(crate) fn consider(&self, event: &Event) -> Considered {
        let known = self.read();
        let of_organization = known.by_organization.get(&event.organization_id);
        let considered = of_organization.into_iter().flatten();
        let endpoints = considered
            .map(|registered| (Arc::clone(registered), Verdict::of(&registered.endpoint, event)))
            .collect();
        Considered {
            endpoints,
            position: known.position,
        }
    }

    /// Returns the endpoint as it is known now.
    pub(crate) fn get(&self, id: &EndpointId) -> Option<Arc<Registered>> {
        self.read().by_id.get(id).cloned()
    }

    /// Returns the current state of an endpoint that was found in the registry or looked up earlier; `None`
    /// if it was deleted.
    pub(crate) fn renewed(&self, found: &Arc<Registered>) -> Option<Arc<Registered>> {
        let known = self.read();
        match known.by_id.get(&found.endpoint.id) {
            Some(registered) => Some(Arc::clone(registered)),
            // The endpoint was looked up in the database because it is newer than this registry's position.
            None if found.endpoint.version > known.position.version => Some(Arc::clone(found)),
            None => None,
        }
    }

    /// Returns every endpoint, all from the same state of the registry.
    pub(crate) fn all(&self) -> Vec<Arc<Registered>> {
        self.read().by_id.values().cloned().collect()
    }

    /// Disables an endpoint in memory, before the store does, if it is still at `version`.
    pub(crate) fn disable_gone(&self, id: &EndpointId, version: i64, at_ms: u64) {
        let mut known = self.write();
        if let Some(registered) = known.by_id.get(id)
            && registered.endpoint.version == version
        {
            let mut endpoint = registered.endpoint.clone();
            endpoint.disabled = Some(Disabled {
                reason: DisabledReason::Gone,
                at_ms: at_ms as i64,
            });
            known.insert(Arc::new(Registered {
                ahead: true,
                ..endpoint.into()
            }));
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads every endpoint from the store. Waits while the database is unavailable.
async fn snapshot(store: &Store) -> Result<Snapshot, store::Error> {
    let away = Lasting::new();
    loop {
        match store.load_registry().await {
            Ok(snapshot) => {
                tracing::info!(
                    endpoints = snapshot.endpoints.len(),
                    unreadable = snapshot.unreadable.len(),
                    version = snapshot.position.version,
                    "endpoints loaded"
                );
                return Ok(snapshot);
            }
            Err(error) if error.is_unavailable() => {
                if away.again().is_some() {
                    tracing::warn!(
                        error = display_chain(&error),
                        "the database is unavailable, and nothing can be delivered before the endpoints are loaded; trying again"
                    );
                }
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOAD_RETRY).await;
    }
}

impl From<Known> for Registry {
    fn from(known: Known) -> Self {
        Self {
            known: RwLock::new(known),
            refreshing: Mutex::default(),
            told: Notify::new(),
            moved: Notify::new(),
            failing: AtomicBool::new(false),
        }
    }
}

impl From<Snapshot> for Known {
    fn from(snapshot: Snapshot) -> Self {
        let mut known = Self {
            position: snapshot.position,
            ..Self::default()
        };
        let endpoints = snapshot.endpoints.into_iter();
        endpoints.for_each(|endpoint| known.insert(Arc::new(endpoint.into())));
        known
    }
}

impl Known {
    fn insert(&mut self, registered: Arc<Registered>) {
        if let Some(known) = self.remove(&registered.endpoint.id)
            && (&known.endpoint.secret, &known.endpoint.previous)
                == (&registered.endpoint.secret, &registered.endpoint.previous)
        {
            registered.signing.go_on_from(&known.signing);
        }
        let organization = registered.endpoint.organization_id.clone();
        self.by_organization
            .entry(organization)
            .or_default()
            .push(Arc::clone(&registered));
        self.by_id.insert(registered.endpoint.id.clone(), registered);
    }

    fn remove(&mut self, id: &EndpointId) -> Option<Arc<Registered>> {
        let removed = self.by_id.remove(id)?;
        let organization = &removed.endpoint.organization_id;
        if let Some(siblings) = self.by_organization.get_mut(organization) {
            siblings.retain(|sibling| sibling.endpoint.id != *id);
            if siblings.is_empty() {
                self.by_organization.remove(organization);
            }
        }
        Some(removed)
    }

    fn report(&self) {
        meters::REGISTRY_ENDPOINTS.level([]).set(self.by_id.len() as f64);
        meters::REGISTRY_VERSION
            .level([])
            .set(self.position.version as f64);
    }
}

impl Registered {
    /// Returns whether the endpoint's history agrees with what this worker knows of it.
    pub(crate) fn is_told_by_history(&self) -> bool {
        !self.ahead
    }

    /// Returns the target of the endpoint's requests.
    pub(crate) fn target(&self, egress: &Egress) -> &Target {
        self.target.get_or_init(|| egress.target(&self.endpoint.url))
    }
}

impl From<Endpoint> for Registered {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            signing: Signing::of(&endpoint),
            endpoint,
            target: OnceLock::new(),
            ahead: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use signature::Secret;
    use webhook::{ProjectId, Subscription};

    use super::*;

    fn endpoint(id: &str, organization: &str, project: Option<&str>, events: &str, version: i64) -> Endpoint {
        Endpoint {
            id: EndpointId::new(id),
            organization_id: OrganizationId::new(organization),
            project_id: project.map(ProjectId::new),
            url: "https://example.com".to_owned(),
            subscription: events.parse::<Subscription>().unwrap(),
            secret: Secret::generate([7; 32]),
            previous: None,
            disabled: None,
            version,
            created_at_ms: 0,
            updated_at_ms: 0,
        }
    }

    fn event(organization: &str, project: &str, event_type: &str) -> Event {
        let body = format!(
            r#"{{"event":"{event_type}","timestamp":1703123456789,"organization_id":"{organization}","project_id":"{project}","lead_id":"l","data":{{}}}}"#
        );
        Event::from_message(None, None, Bytes::from(body)).unwrap()
    }

    fn registry(endpoints: Vec<Endpoint>) -> Registry {
        let mut known = Known::default();
        for endpoint in endpoints {
            known.insert(Arc::new(endpoint.into()));
        }
        known.into()
    }

    fn matched(registry: &Registry, event: &Event) -> Vec<String> {
        let considered = registry.consider(event);
        let matched = considered
            .endpoints
            .iter()
            .filter(|(_, verdict)| *verdict == Verdict::Matched);
        matched.map(|(found, _)| found.endpoint.id.to_string()).collect()
    }

    #[test]
    fn organization_project_type_and_state_decide_who_gets_an_event() {
        let mut off = endpoint("off", "org", None, "*", 1);
        off.disabled = Some(Disabled {
            reason: DisabledReason::Manual,
            at_ms: 0,
        });
        let registry = registry(vec![
            endpoint("all", "org", None, "*", 1),
            endpoint("project", "org", Some("p1"), "*", 1),
            endpoint("research", "org", None, "research.*", 1),
            endpoint("stranger", "other", None, "*", 1),
            off,
        ]);
        assert_eq!(
            matched(&registry, &event("org", "p1", "lead.created")),
            ["all", "project"]
        );
        assert_eq!(
            matched(&registry, &event("org", "p2", "research.failed")),
            ["all", "research"]
        );
        assert_eq!(
            matched(&registry, &event("unknown", "p1", "lead.created")),
            [""; 0]
        );
    }

    #[test]
    fn a_changed_endpoint_replaces_the_old_one_and_a_removed_one_is_gone() {
        let registry = registry(vec![
            endpoint("a", "org", None, "*", 1),
            endpoint("b", "org", None, "*", 2),
        ]);
        registry
            .write()
            .insert(Arc::new(endpoint("a", "org", None, "lead.failed", 3).into()));
        assert_eq!(matched(&registry, &event("org", "p", "lead.created")), ["b"]);
        registry.write().remove(&EndpointId::new("b"));
        assert!(registry.get(&EndpointId::new("b")).is_none());
        assert_eq!(matched(&registry, &event("org", "p", "lead.failed")), ["a"]);
    }

    #[test]
    fn an_attempt_is_made_with_what_has_become_of_its_endpoint() {
        let registry = registry(vec![endpoint("a", "org", None, "*", 1)]);
        registry.write().position.version = 5;
        let id = EndpointId::new("a");
        let found = registry.get(&id).unwrap();
        registry
            .write()
            .insert(Arc::new(endpoint("a", "org", None, "lead.failed", 6).into()));
        assert_eq!(registry.renewed(&found).unwrap().endpoint.version, 6);
        registry.write().remove(&id);
        assert!(registry.renewed(&found).is_none(), "the endpoint was deleted");
        let looked_up = Arc::new(endpoint("b", "org", None, "*", 7).into());
        assert!(
            registry.renewed(&looked_up).is_some(),
            "the endpoint is not known here yet"
        );
        registry.write().position.version = 8;
        assert!(registry.renewed(&looked_up).is_none(), "the endpoint was deleted");
    }

    #[test]
    fn a_410_disables_the_version_that_was_asked_and_no_later_one() {
        let registry = registry(vec![endpoint("a", "org", None, "*", 5)]);
        let id = EndpointId::new("a");
        registry.disable_gone(&id, 4, 9);
        assert_eq!(registry.get(&id).unwrap().endpoint.disabled, None);
        registry.disable_gone(&id, 5, 9);
        assert!(registry.get(&id).unwrap().endpoint.disabled.is_some());
        assert_eq!(matched(&registry, &event("org", "p", "lead.created")), [""; 0]);
    }
}
