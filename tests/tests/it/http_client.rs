//! Tests the Rust client with the real API: it has every operation of the API, each works, and errors arrive
//! with what the API says.

mod errors;
mod relay;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use client::{
    About, ApiKey, Client, CreateApiKey, CreateEndpoint, Credential, DeliveryState, Error, Event, EventKind,
    EventType, LeadId, ListApiKeys, ListChanges, ListDeliveries, ListEndpoints, ListEvents, OPERATIONS,
    Object, OldSecret, Operation, OrganizationId, ProjectId, RecoverEndpoint, RotateSecret, Scope,
    TailEvents, TailLine, ThenKind, UpdateEndpoint,
};
use e2e::{Api, Installation, Receiver, Role, SOON, now_ms, wait_for, wait_until};
use futures_util::TryStreamExt as _;
use serde_json::Value;
use tokio::time::timeout;

/// An API, a worker and a recorder, and a client with a key of `org_1` for everything.
struct Rig {
    installation: Installation,
    api: Api,
    client: Client,
    worker: Role,
    recorder: Role,
}

impl Rig {
    async fn new(name: &str) -> Self {
        let installation = Installation::with_delays(name, &[200]).await;
        let api = Api::start(&installation).await;
        let key = installation.key("org_1", "admin").await;
        Self {
            client: client(&api, &key),
            api,
            worker: installation.worker().await,
            recorder: installation.recorder().await,
            installation,
        }
    }

    fn keep_secret(&self, secret: Option<&Credential>) -> String {
        let Credential(secret) = secret.expect("it is shown once");
        self.installation.keep_secret(secret);
        secret.clone()
    }

    async fn end(self) {
        for role in [self.api.role, self.worker, self.recorder] {
            assert!(role.terminate().await);
        }
        self.installation.delete().await;
    }
}

fn client(api: &Api, key: &str) -> Client {
    client_of(api.url(), key)
}

fn client_of(url: &str, key: &str) -> Client {
    let key = ApiKey::parse(key).unwrap();
    Client::builder(url, key).no_proxy().build().unwrap()
}

/// Returns an event of type `lead.completed`.
fn event(organization: &str, lead: &str) -> Event {
    let about = About {
        organization_id: OrganizationId::new(organization),
        project_id: ProjectId::new("proj_1"),
        lead_id: LeadId::new(lead),
        timestamp_ms: now_ms(),
    };
    Event::new(EventType::LeadCompleted, &about, &Object::new())
}

/// Returns the name of the problem with which the API answered.
fn problem<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.unwrap_err();
    let problem = error.problem().unwrap_or_else(|| panic!("{error}"));
    problem.name().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_has_the_operations_of_the_document_and_no_others() {
    let installation = Installation::new("client-operations").await;
    let document: Value = serde_json::from_str(&installation.cli_ok(&["openapi"]).await).unwrap();
    let mut documented = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if let Some(id) = operation["operationId"].as_str() {
                documented.insert((id, method.to_uppercase(), path.as_str()));
            }
        }
    }
    let known: BTreeSet<_> = OPERATIONS
        .iter()
        .map(|operation| (operation.id(), operation.method().to_owned(), operation.path()))
        .collect();
    assert_eq!(known, documented);
    assert_eq!(known.len(), OPERATIONS.len());
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_works_with_the_real_api() {
    let rig = Rig::new("client").await;
    let receiver = Receiver::ok().await;
    let endpoint = manages_endpoints(&rig, &receiver).await;
    rotates_and_pings(&rig, &endpoint).await;
    let delivery = publishes(&rig, &receiver, &endpoint).await;
    sends_again(&rig, &receiver, &endpoint, &delivery).await;
    relay::receives_over_a_relay(&rig).await;
    manages_keys(&rig).await;
    reads_the_rest(&rig, &endpoint).await;
    watches(&rig, &endpoint).await;
    rig.client.delete_endpoint(&endpoint, None).await.unwrap();
    assert_eq!(problem(rig.client.get_endpoint(&endpoint).await), "not-found");
    every_operation_was_called(&rig.api).await;
    rig.end().await;
}

/// Creates two endpoints, and deletes one of them. Returns the id of the other one, which receives the events
/// of all projects.
async fn manages_endpoints(rig: &Rig, receiver: &Receiver) -> String {
    let client = &rig.client;
    let new = CreateEndpoint {
        events: Some(vec!["lead.*".to_owned()]),
        project_id: Some("proj_2".to_owned()),
        ..CreateEndpoint::new(receiver.url())
    };
    let created = client.create_endpoint(&new).await.unwrap();
    rig.keep_secret(created.secret.as_ref());
    assert_eq!((&created.url, &created.project_id), (&new.url, &new.project_id));
    let got = client.get_endpoint(&created.id).await.unwrap();
    assert_eq!((got.secret, got.version), (None, created.version));

    let other = client
        .create_endpoint(&CreateEndpoint::new(receiver.url()))
        .await
        .unwrap();
    rig.keep_secret(other.secret.as_ref());
    let which = ListEndpoints {
        limit: Some(1),
        ..ListEndpoints::default()
    };
    let page = client.list_endpoints(&which).await.unwrap();
    assert!(page.data.len() == 1 && page.next_cursor.is_some(), "{page:?}");
    let all: Vec<_> = client.all_endpoints(which).try_collect().await.unwrap();
    let ids: BTreeSet<_> = all.into_iter().map(|endpoint| endpoint.id).collect();
    assert_eq!(ids, BTreeSet::from([created.id.clone(), other.id.clone()]));
    client
        .delete_endpoint(&other.id, Some(other.version))
        .await
        .unwrap();

    let change = UpdateEndpoint {
        project_id: Some(None),
        ..UpdateEndpoint::default()
    };
    let stale = client
        .update_endpoint(&created.id, &change, Some(created.version - 1))
        .await;
    assert_eq!(problem(stale), "version-mismatch");
    let changed = client
        .update_endpoint(&created.id, &change, Some(created.version))
        .await;
    let changed = changed.unwrap();
    assert_eq!((&changed.project_id, &changed.events), (&None, &created.events));
    let disabled = client.disable_endpoint(&created.id, None).await.unwrap();
    assert!(!disabled.enabled);
    let recover = RecoverEndpoint::default();
    assert_eq!(
        problem(client.recover_endpoint(&created.id, &recover).await),
        "conflict"
    );
    let enabled = client
        .enable_endpoint(&created.id, Some(disabled.version))
        .await
        .unwrap();
    assert!(enabled.enabled, "{enabled:?}");
    created.id
}

async fn rotates_and_pings(rig: &Rig, endpoint: &str) {
    let client = &rig.client;
    let day = client
        .rotate_endpoint_secret(endpoint, &RotateSecret::default(), None)
        .await
        .unwrap();
    let first = rig.keep_secret(day.secret.as_ref());
    assert!(day.old_secret_until_ms.is_some(), "{day:?}");
    let hour = RotateSecret {
        old: OldSecret::ValidFor(Duration::from_hours(1)),
        ..RotateSecret::default()
    };
    assert_eq!(
        problem(client.rotate_endpoint_secret(endpoint, &hour, None).await),
        "conflict"
    );
    let revoked = RotateSecret {
        old: OldSecret::Revoked,
        ..RotateSecret::default()
    };
    let second = client
        .rotate_endpoint_secret(endpoint, &revoked, None)
        .await
        .unwrap();
    assert_ne!(rig.keep_secret(second.secret.as_ref()), first);

    let ping = client.ping_endpoint(endpoint).await.unwrap();
    assert_eq!((ping.ok, ping.status), (Some(true), Some(200)), "{ping:?}");
}

/// Publishes three events, and returns the id of the delivery of the first one, when it is recorded.
async fn publishes(rig: &Rig, receiver: &Receiver, endpoint: &str) -> String {
    let client = &rig.client;
    let before = receiver.count();
    let first = event("org_1", "lead_1");
    let published = client.publish_event(&first).await.unwrap();
    assert_eq!(published.id, first.id().as_str());
    let batch = [event("org_1", "lead_2"), event("org_1", "lead_3")];
    let published = client.publish_events(&batch).await.unwrap();
    let ids = batch.map(|event| event.id().to_string());
    assert_eq!(published.ids, ids);
    wait_until("all of them arrive", SOON, || receiver.count() == before + 3).await;

    let which = ListEvents {
        event_type: Some(EventKind::Of(EventType::LeadCompleted)),
        lead_id: Some("lead_1".to_owned()),
        state: Some(DeliveryState::Delivered),
        since_ms: Some(now_ms() - 3_600_000),
        ..ListEvents::default()
    };
    let listed = wait_for("the event is recorded", SOON, || async {
        let listed = client.list_events(&which).await.unwrap();
        if listed.data.len() == 1 {
            Ok(listed.data)
        } else {
            Err(format!("{listed:?}"))
        }
    })
    .await;
    assert_eq!(listed[0].id, first.id().as_str());
    let all: Vec<_> = client.all_events(which).try_collect().await.unwrap();
    assert_eq!(all, listed);
    let history = client.get_event(&listed[0].id).await.unwrap();
    let at = history
        .endpoints
        .iter()
        .find(|at| at.endpoint_id == endpoint)
        .unwrap();
    assert_eq!((at.verdict.as_str(), at.deliveries.len()), ("matched", 1));
    let now = at.endpoint.as_ref().map(|now| (now.id.as_str(), now.enabled));
    assert_eq!((now, history.verdicts_missing), (Some((endpoint, true)), false));
    at.deliveries[0].delivery.id.clone()
}

async fn sends_again(rig: &Rig, receiver: &Receiver, endpoint: &str, delivery: &str) {
    let client = &rig.client;
    let got = client.get_delivery(delivery).await.unwrap();
    assert_eq!(
        (got.state.as_str(), got.endpoint_id.as_str()),
        ("delivered", endpoint)
    );
    let which = ListDeliveries {
        event_id: Some(got.event_id.clone()),
        ..ListDeliveries::default()
    };
    assert_eq!(client.list_deliveries(&which).await.unwrap().data, [got]);
    let attempts = client.list_attempts(delivery).await.unwrap();
    assert_eq!((attempts.len(), attempts[0].status), (1, Some(200)));
    let health = client.get_endpoint_health(endpoint).await.unwrap();
    assert!(health.attempts_last_hour >= 1, "{health:?}");

    let before = receiver.count();
    let resent = client.resend_delivery(delivery).await.unwrap();
    assert_eq!(resent.resend_of, delivery);
    wait_until("it arrives again", SOON, || receiver.count() == before + 1).await;
    let none = client
        .resend_deliveries(&["dlv_nothing".to_owned()])
        .await
        .unwrap();
    assert_eq!(none[0].refused.as_deref(), Some("not_found"));
    let runs = wait_for("the new delivery is recorded", SOON, || async {
        let runs: Vec<_> = client.all_deliveries(which.clone()).try_collect().await.unwrap();
        if runs.len() == 2 {
            Ok(runs)
        } else {
            Err(format!("{runs:?}"))
        }
    })
    .await;
    assert!(runs.iter().any(|run| run.id == resent.id), "{runs:?}");

    let count = RecoverEndpoint {
        dry_run: true,
        limit: Some(10),
        ..RecoverEndpoint::default()
    };
    let counted = client.recover_endpoint(endpoint, &count).await.unwrap();
    assert_eq!((counted.sent, counted.dry_run), (0, true), "{counted:?}");
    assert_eq!(
        (counted.more, &counted.next_cursor),
        (false, &None),
        "{counted:?}"
    );
    let foreign = RecoverEndpoint {
        cursor: Some("cursor".to_owned()),
        ..count
    };
    let refused = client.recover_endpoint(endpoint, &foreign).await;
    assert_eq!(problem(refused), "invalid-fields");
}

/// Opens a stream, and publishes events until an attempt is in it, because workers learn only after a moment that
/// the API watches.
async fn watches(rig: &Rig, endpoint: &str) {
    let which = TailEvents {
        event_type: Some(EventKind::Of(EventType::LeadCompleted)),
        endpoint_id: Some(endpoint.to_owned()),
        outcome: Some(ThenKind::Delivered),
    };
    let mut lines = rig.client.tail_events(&which).await.unwrap();
    let first = lines.try_next().await.unwrap();
    assert!(matches!(first, Some(TailLine::Watching { .. })), "{first:?}");
    let until = Instant::now() + SOON;
    let mut number = 0;
    let line = loop {
        assert!(Instant::now() < until, "no attempt within {SOON:?}");
        let lead = format!("watched_{number}");
        rig.client.publish_event(&event("org_1", &lead)).await.unwrap();
        number += 1;
        if let Ok(line) = timeout(Duration::from_secs(1), lines.try_next()).await {
            break line.unwrap();
        }
    };
    let Some(TailLine::Attempt {
        endpoint_id, outcome, ..
    }) = &line
    else {
        panic!("{line:?}")
    };
    assert_eq!((endpoint_id.as_str(), outcome.as_str()), (endpoint, "delivered"));
}

/// Creates a key, and revokes it twice.
async fn manages_keys(rig: &Rig) {
    let new = CreateApiKey {
        expires_in: Some(Duration::from_hours(1)),
        ..CreateApiKey::new("lead form", [Scope::EndpointsRead])
    };
    let created = rig.client.create_api_key(&new).await.unwrap();
    let own = client(&rig.api, &rig.keep_secret(created.key.as_ref()));
    assert_eq!(created.organization_id.as_deref(), Some("org_1"));
    assert_eq!(
        (&created.name, &created.scopes[..]),
        (&new.name, &["endpoints:read".to_owned()][..])
    );
    assert_eq!(created.expires_at_ms, Some(created.created_at_ms + 3_600_000));
    let which = ListEndpoints::default();
    own.list_endpoints(&which).await.unwrap();
    assert_eq!(problem(own.create_api_key(&new).await), "insufficient-scope");

    let pages = ListApiKeys {
        limit: Some(1),
        ..ListApiKeys::default()
    };
    let page = rig.client.list_api_keys(&pages).await.unwrap();
    assert!(page.data.len() == 1 && page.next_cursor.is_some(), "{page:?}");
    let revoked = rig.client.revoke_api_key(&created.id).await.unwrap();
    assert!(
        revoked.key.is_none() && revoked.revoked_at_ms.is_some(),
        "{revoked:?}"
    );
    let again = rig.client.revoke_api_key(&created.id).await.unwrap();
    assert_eq!(again.revoked_at_ms, revoked.revoked_at_ms);
    let all: Vec<_> = rig.client.all_api_keys(pages).try_collect().await.unwrap();
    let listed = all.iter().find(|key| key.id == created.id).unwrap();
    assert_eq!(
        (all.len(), &listed.key, &listed.prefix),
        (2, &None, &created.prefix)
    );
    assert_eq!(listed.revoked_at_ms, revoked.revoked_at_ms);
    assert_eq!(problem(own.list_endpoints(&which).await), "unauthorized");
    assert_eq!(problem(rig.client.revoke_api_key("key_1").await), "not-found");
}

async fn reads_the_rest(rig: &Rig, endpoint: &str) {
    let client = &rig.client;
    let page = client.list_changes(&ListChanges::default()).await.unwrap();
    let all: Vec<_> = client
        .all_changes(ListChanges::default())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(page.data[0], all[0]);
    let created = all
        .iter()
        .any(|change| change.subject == endpoint && change.kind == "endpoint.created");
    assert!(created, "{all:?}");

    let status = client.get_status(None).await.unwrap();
    assert_eq!((status.endpoints.all, status.endpoints.disabled), (1, 0));
    assert_eq!(status.at_ms - status.since_ms, 3_600_000);

    let types = client.list_event_types().await.unwrap();
    let names: Vec<_> = types.iter().map(|info| info.name.as_str()).collect();
    assert_eq!(names, EventType::ALL.map(EventType::as_str));
    let one = client.get_event_type(EventType::LeadCompleted).await.unwrap();
    assert!(types.contains(&one), "{one:?}");
    let document = client.get_open_api().await.unwrap();
    assert_eq!(
        document["openapi"].as_str().map(|version| &version[..3]),
        Some("3.1")
    );
}

/// Returns the class of the status with which an operation succeeds.
fn succeeds_with(operation: &Operation) -> &'static str {
    match operation.id() {
        // The connection becomes a WebSocket.
        "connectRelay" => "1xx",
        _ => "2xx",
    }
}

/// The API counts its requests. A method of the client that did not send the operation that it is named after
/// would leave a count at 0.
async fn every_operation_was_called(api: &Api) {
    let metrics = api.role.get("/metrics").await.unwrap();
    for operation in OPERATIONS {
        let labels = [
            format!("method=\"{}\"", operation.method()),
            format!("route=\"{}\"", operation.path()),
            format!("status_class=\"{}\"", succeeds_with(operation)),
        ];
        let called = metrics.lines().any(|line| {
            line.starts_with("magnetite_api_request_duration_seconds_count{")
                && labels.iter().all(|label| line.contains(label))
                && !line.ends_with(" 0")
        });
        assert!(called, "{operation} was not called, or did not succeed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_key_acts_for_the_organization_that_is_named_or_lists_those_of_all() {
    let installation = Installation::new("client-platform").await;
    let (api, receiver) = (Api::start(&installation).await, Receiver::ok().await);
    let platform = client(&api, &installation.platform_key("admin").await);
    let new = CreateEndpoint::new(receiver.url());
    let new_key = CreateApiKey::new("customer", [Scope::EventsWrite]);
    let (mut endpoints, mut keys) = (BTreeSet::new(), BTreeSet::from([None]));
    for id in ["org_1", "org_2"] {
        let of_one = platform.for_organization(OrganizationId::new(id));
        let endpoint = of_one.create_endpoint(&new).await.unwrap();
        installation.keep_secret(&endpoint.secret.unwrap().0);
        assert_eq!(endpoint.organization_id, id);
        endpoints.insert(endpoint.id);
        let created = of_one.create_api_key(&new_key).await.unwrap();
        let key = created.key.unwrap().0;
        installation.keep_secret(&key);
        keys.insert(created.organization_id);
        let customer = client(&api, &key);
        customer.publish_event(&event(id, "lead_1")).await.unwrap();
        let listed = of_one.list_endpoints(&ListEndpoints::default()).await.unwrap();
        assert_eq!(listed.data.len(), 1, "{listed:?}");
    }

    let which = ListEndpoints {
        limit: Some(1),
        ..ListEndpoints::default()
    };
    let all: Vec<_> = platform.all_endpoints(which).try_collect().await.unwrap();
    let ids: BTreeSet<_> = all.into_iter().map(|endpoint| endpoint.id).collect();
    assert_eq!(ids, endpoints);
    let all = platform.all_api_keys(ListApiKeys::default());
    let all: Vec<_> = all.try_collect().await.unwrap();
    let organizations: BTreeSet<_> = all.into_iter().map(|key| key.organization_id).collect();
    assert_eq!(organizations, keys);
    let both = [event("org_1", "lead_2"), event("org_2", "lead_2")];
    platform.publish_events(&both).await.unwrap();

    let error = platform.create_api_key(&new_key).await.unwrap_err();
    let refused = error.problem().unwrap();
    assert_eq!((refused.name(), refused.status), ("invalid-fields", 422));
    assert_eq!(
        refused.errors[0].parameter.as_deref(),
        Some("Magnetite-Organization")
    );
    assert!(api.role.terminate().await);
    installation.delete().await;
}
