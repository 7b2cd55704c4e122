//! Tests of authorization: every operation in the document, with every kind of key that must not be accepted,
//! and with platform keys, for one organization and for none.

use std::collections::BTreeSet;

use axum::{body::Body, http::Method};
use runtime::now_ms;
use serde_json::{Value, json};
use webhook::{OrganizationId, Scope};

use crate::{caller::ORGANIZATION, openapi::SECURITY_SCHEME, operations::Operations};

use super::{
    bed::{Answer, Bed, request},
    things::Things,
};

/// What keeps another organization out of an operation, with a valid body.
enum Wall {
    /// The id in the path belongs to an object of the organization. Another organization's id is treated like
    /// one that does not exist.
    Own(fn(&Things) -> &str, &'static str),
    /// The ids in the body belong to objects of the organization. Other ids are treated like ones that do not
    /// exist.
    OwnIds(fn(&Things) -> Value),
    /// The created object belongs to the caller's organization.
    Creates(&'static str),
    /// The listing contains this object of the organization, and nothing of another organization.
    Listing(fn(&Things) -> &str),
    /// The response counts the organization's objects: this many of those at this pointer.
    Counts(&'static str, u64),
    /// The body names the organization.
    Body(fn(&str) -> Value),
    /// The stream contains what workers record of the organization, which the end-to-end tests check. Without a
    /// broker, there is no stream.
    Stream,
    /// The response is the same for every organization.
    Same,
}

/// Returns what keeps other organizations out of an operation. A new operation needs a row here.
fn wall(operation: &str) -> Option<Wall> {
    Some(match operation {
        "createEndpoint" => Wall::Creates(r#"{"url":"https://93.184.216.34/"}"#),
        "openRelay" => Wall::Creates("{}"),
        "createApiKey" => Wall::Creates(r#"{"name":"new","scopes":["admin"]}"#),
        "listEndpoints" | "listChanges" => Wall::Listing(endpoint),
        "listApiKeys" => Wall::Listing(|things| &things.api_key),
        "revokeApiKey" => Wall::Own(|things| &things.api_key, ""),
        "listEvents" => Wall::Listing(|things| &things.event),
        "listDeliveries" => Wall::Listing(delivery),
        "getEndpoint" | "deleteEndpoint" | "enableEndpoint" | "disableEndpoint" | "pingEndpoint"
        | "getEndpointHealth" | "connectRelay" => Wall::Own(endpoint, ""),
        "updateEndpoint" => Wall::Own(endpoint, r#"{"events":["*"]}"#),
        "rotateEndpointSecret" => Wall::Own(endpoint, "{}"),
        "recoverEndpoint" => Wall::Own(endpoint, r#"{"since_ms":0}"#),
        "getEvent" => Wall::Own(|things| &things.event, ""),
        "getDelivery" | "listAttempts" | "resendDelivery" => Wall::Own(delivery, ""),
        "resendDeliveries" => Wall::OwnIds(|things| json!({ "ids": [things.delivery] })),
        // The endpoint of `Things`, and those that createEndpoint and openRelay, which come first, have created.
        "getStatus" => Wall::Counts("/endpoints/all", 3),
        "tailEvents" => Wall::Stream,
        "listEventTypes" | "getEventType" => Wall::Same,
        "publishEvent" => Wall::Body(event),
        "publishEvents" => Wall::Body(|organization| json!([event(organization)])),
        _ => return None,
    })
}

fn endpoint(things: &Things) -> &str {
    &things.endpoint
}

fn delivery(things: &Things) -> &str {
    &things.delivery
}

fn event(organization: &str) -> Value {
    json!({
        "event": "lead.created", "timestamp": 1_703_123_456_789_u64, "organization_id": organization, "project_id": "p", "lead_id": "l", "data": {}
    })
}

/// An operation that needs a key.
struct Operation {
    name: String,
    method: Method,
    path: String,
    scope: Scope,
}

impl Operation {
    /// Sends a request with an id in the path that does not exist.
    async fn ask(&self, bed: &Bed, key: &str) -> Answer {
        self.ask_for(bed, key, "nothing", "").await
    }

    async fn ask_for(&self, bed: &Bed, key: &str, id: &str, json: &str) -> Answer {
        self.ask_as(bed, key, None, id, json).await
    }

    /// Sends a request that names an organization, or none.
    async fn ask_as(&self, bed: &Bed, key: &str, organization: Option<&str>, id: &str, json: &str) -> Answer {
        let parts = self
            .path
            .split('/')
            .map(|part| if part.starts_with('{') { id } else { part });
        let path = parts.collect::<Vec<_>>().join("/");
        let mut request =
            request(self.method.as_str(), &path, key).header("content-type", "application/json");
        if let Some(organization) = organization {
            request = request.header(ORGANIZATION, organization);
        }
        bed.ask(request.body(Body::from(json.to_owned())).unwrap()).await
    }
}

fn operations(bed: &Bed) -> Vec<Operation> {
    let of = |(method, path, documented): (Method, &str, &Value)| {
        let requirement = documented["security"].as_array().unwrap().first()?;
        let scope = requirement[SECURITY_SCHEME][0].as_str().unwrap();
        Some(Operation {
            name: documented["operationId"].as_str().unwrap().to_owned(),
            method,
            path: path.to_owned(),
            scope: scope.parse().unwrap(),
        })
    };
    bed.operations().into_iter().filter_map(of).collect()
}

#[tokio::test]
async fn every_operation_refuses_every_key_that_does_not_open_it() {
    let bed = Bed::new().await;
    let unknown = webhook::ApiKey::generate([7; 32]).expose().to_owned();
    let (revoked, row) = bed.key_row("org_1", "admin", None).await;
    bed.context.store.revoke_api_key(&row.id, now_ms()).await.unwrap();
    let (expired, _) = bed.key_row("org_1", "admin", Some(now_ms() - 1)).await;
    let mut keys = Vec::new();
    for scope in Scope::ALL.iter().copied() {
        keys.push((scope, bed.key("org_1", scope.as_str()).await));
    }
    let operations = operations(&bed);
    assert!(operations.len() >= 30, "the document has lost operations");
    for operation in &operations {
        let name = &operation.name;
        for (key, word) in [
            ("", "Send the header"),
            (&unknown, "Unknown API key"),
            (&revoked, "revoked"),
            (&expired, "expired"),
        ] {
            let refused = operation.ask(&bed, key).await;
            assert_eq!(refused.problem(), "unauthorized", "{name}: {refused:?}");
            assert!(refused.header("www-authenticate").starts_with("Bearer"), "{name}");
            assert!(
                refused.body["detail"].as_str().unwrap().contains(word),
                "{name}: {refused:?}"
            );
        }
        for (scope, key) in &keys {
            let answer = operation.ask(&bed, key).await;
            let opens = [operation.scope, Scope::Admin].contains(scope);
            assert_eq!(
                answer.problem() != "insufficient-scope",
                opens,
                "{name} with {scope}: {answer:?}"
            );
            let named = answer.body["detail"]
                .as_str()
                .unwrap_or_default()
                .contains(operation.scope.as_str());
            assert!(opens || named, "{name} with {scope}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn every_operation_keeps_organizations_apart() {
    let bed = Bed::new().await;
    let key = bed.key("org_1", "admin").await;
    let (own, foreign, missing) = (
        bed.things("org_1").await,
        bed.things("org_2").await,
        Things::missing(),
    );
    let other = OrganizationId::new("org_2");
    let before = bed.context.store.changes(Some(&other), None, 100).await.unwrap();
    for operation in operations(&bed) {
        let name = &operation.name;
        match walled(&operation) {
            Wall::Own(id, json) => {
                let (none, there) = (id(&missing), id(&foreign));
                let none_answered = operation.ask_for(&bed, &key, none, json).await;
                let answered = operation.ask_for(&bed, &key, there, json).await;
                assert_eq!(answered.status, 404, "{name}: {answered:?}");
                let answered = answered.body.to_string().replace(there, none);
                assert_eq!(
                    answered,
                    none_answered.body.to_string(),
                    "{name} tells that there is one"
                );
            }
            Wall::OwnIds(body) => {
                let none = operation
                    .ask_for(&bed, &key, "", &body(&missing).to_string())
                    .await;
                let answered = operation
                    .ask_for(&bed, &key, "", &body(&foreign).to_string())
                    .await;
                let answered = answered
                    .body
                    .to_string()
                    .replace(&foreign.delivery, &missing.delivery);
                assert_eq!(answered, none.body.to_string(), "{name} tells that there is one");
                assert!(answered.contains("not_found"), "{name}: {answered}");
            }
            Wall::Creates(json) => {
                let created = operation.ask_for(&bed, &key, "", json).await;
                assert_eq!(created.body["organization_id"], "org_1", "{name}: {created:?}");
            }
            Wall::Listing(id) => {
                let listed = operation.ask(&bed, &key).await;
                let text = listed.body.to_string();
                assert!(text.contains(id(&own)), "{name} lacks its own: {text}");
                let leaked = foreign.ids().into_iter().find(|id| text.contains(id));
                assert_eq!(leaked, None, "{name}: {text}");
            }
            Wall::Counts(pointer, count) => {
                let counted = operation.ask(&bed, &key).await;
                assert_eq!(counted.body.pointer(pointer), Some(&count.into()), "{name}");
            }
            Wall::Body(body) => {
                let refused = operation
                    .ask_for(&bed, &key, "", &body("org_2").to_string())
                    .await;
                assert_eq!(refused.problem(), "other-organization", "{name}: {refused:?}");
                let allowed = operation
                    .ask_for(&bed, &key, "", &body("org_1").to_string())
                    .await;
                assert_eq!(allowed.problem(), "broker-unavailable", "{name}: {allowed:?}");
            }
            Wall::Stream | Wall::Same => {}
        }
    }
    let after = bed.context.store.changes(Some(&other), None, 100).await.unwrap();
    assert_eq!(after, before, "something was changed for the wrong organization");
}

/// Without this, the test above would prove nothing.
#[tokio::test]
async fn what_another_organization_does_not_find_its_own_does() {
    let bed = Bed::new().await;
    let (key, things) = (bed.key("org_2", "admin").await, bed.things("org_2").await);
    for operation in deletions_last(&bed) {
        if let Wall::Own(id, json) = walled(&operation) {
            let answered = operation.ask_for(&bed, &key, id(&things), json).await;
            assert_ne!(answered.status, 404, "{}: {answered:?}", operation.name);
        }
    }
}

/// Returns the operations with those last that delete what others need.
fn deletions_last(bed: &Bed) -> Vec<Operation> {
    let mut operations = operations(bed);
    operations.sort_by_key(|operation| operation.method == Method::DELETE);
    operations
}

fn assert_names_the_header(operation: &Operation, refused: &Answer) {
    let name = &operation.name;
    assert_eq!(
        (refused.status.as_u16(), refused.problem()),
        (422, "invalid-fields"),
        "{name}: {refused:?}"
    );
    assert_eq!(refused.body["errors"][0]["parameter"], ORGANIZATION, "{name}");
}

#[tokio::test]
async fn a_platform_key_that_names_no_organization_publishes_and_lists_for_all_and_nothing_else() {
    let bed = Bed::new().await;
    let key = bed.platform_key("admin").await;
    let all = [bed.things("org_1").await, bed.things("org_2").await];
    let before = bed.context.store.changes(None, None, 100).await.unwrap();
    for operation in operations(&bed) {
        let name = &operation.name;
        match walled(&operation) {
            Wall::Own(id, json) => {
                let refused = operation.ask_for(&bed, &key, id(&all[0]), json).await;
                assert_names_the_header(&operation, &refused);
            }
            Wall::OwnIds(body) => {
                let refused = operation
                    .ask_for(&bed, &key, "", &body(&all[0]).to_string())
                    .await;
                assert_names_the_header(&operation, &refused);
            }
            Wall::Creates(json) => {
                assert_names_the_header(&operation, &operation.ask_for(&bed, &key, "", json).await);
            }
            Wall::Counts(..) => assert_names_the_header(&operation, &operation.ask(&bed, &key).await),
            Wall::Listing(id) => {
                let text = operation.ask(&bed, &key).await.body.to_string();
                assert!(
                    all.iter().all(|things| text.contains(id(things))),
                    "{name}: {text}"
                );
            }
            Wall::Body(body) => {
                for organization in ["org_1", "org_2"] {
                    let body = body(organization).to_string();
                    let allowed = operation.ask_for(&bed, &key, "", &body).await;
                    assert_eq!(allowed.problem(), "broker-unavailable", "{name}: {allowed:?}");
                }
            }
            Wall::Stream => {
                let answered = operation.ask(&bed, &key).await;
                assert_eq!(answered.problem(), "broker-unavailable", "{name}: {answered:?}");
            }
            Wall::Same => {
                let answered = operation.ask(&bed, &key).await;
                assert!(
                    matches!(answered.status.as_u16(), 200 | 404),
                    "{name}: {answered:?}"
                );
            }
        }
    }
    let after = bed.context.store.changes(None, None, 100).await.unwrap();
    assert_eq!(after, before, "something was changed for no organization");
}

#[tokio::test]
async fn a_platform_key_that_names_an_organization_reaches_that_one_alone() {
    let bed = Bed::new().await;
    let key = bed.platform_key("admin").await;
    let (own, foreign) = (bed.things("org_1").await, bed.things("org_2").await);
    let ask = async |operation: &Operation, id: &str, json: &str| {
        operation.ask_as(&bed, &key, Some("org_1"), id, json).await
    };
    for operation in deletions_last(&bed) {
        let name = &operation.name;
        match walled(&operation) {
            Wall::Own(id, json) => {
                let answered = ask(&operation, id(&foreign), json).await;
                assert_eq!(answered.status, 404, "{name}: {answered:?}");
                let answered = ask(&operation, id(&own), json).await;
                let status = answered.status.as_u16();
                assert!(!matches!(status, 401 | 403 | 404 | 422), "{name}: {answered:?}");
            }
            Wall::OwnIds(body) => {
                let answered = ask(&operation, "", &body(&foreign).to_string()).await;
                let text = answered.body.to_string();
                assert!(text.contains("not_found"), "{name}: {text}");
                let answered = ask(&operation, "", &body(&own).to_string()).await;
                assert_eq!(answered.problem(), "broker-unavailable", "{name}: {answered:?}");
            }
            Wall::Creates(json) => {
                let created = ask(&operation, "", json).await;
                assert_eq!(created.body["organization_id"], "org_1", "{name}: {created:?}");
            }
            Wall::Listing(id) => {
                let text = ask(&operation, "", "").await.body.to_string();
                assert!(text.contains(id(&own)), "{name} lacks its own: {text}");
                let leaked = foreign.ids().into_iter().find(|id| text.contains(id));
                assert_eq!(leaked, None, "{name}: {text}");
            }
            Wall::Counts(pointer, count) => {
                let counted = ask(&operation, "", "").await;
                assert_eq!(counted.body.pointer(pointer), Some(&count.into()), "{name}");
            }
            Wall::Body(body) => {
                let refused = ask(&operation, "", &body("org_2").to_string()).await;
                assert_eq!(refused.problem(), "other-organization", "{name}: {refused:?}");
                let allowed = ask(&operation, "", &body("org_1").to_string()).await;
                assert_eq!(allowed.problem(), "broker-unavailable", "{name}: {allowed:?}");
            }
            Wall::Stream | Wall::Same => {}
        }
    }
}

#[tokio::test]
async fn every_operation_refuses_an_organization_that_is_invalid_or_not_the_keys() {
    let bed = Bed::new().await;
    let keys = [bed.platform_key("admin").await, bed.key("org_1", "admin").await];
    bed.things("org_2").await;
    for operation in operations(&bed) {
        let name = &operation.name;
        for key in &keys {
            for invalid in ["", "org_1,org_1", &"x".repeat(256)] {
                let refused = operation.ask_as(&bed, key, Some(invalid), "nothing", "").await;
                assert_names_the_header(&operation, &refused);
            }
        }
        let [_, key] = &keys;
        let mut refusals = Vec::new();
        // The response does not tell whether there is such an organization.
        for other in ["org_2", "org_9", "ORG_1"] {
            let refused = operation.ask_as(&bed, key, Some(other), "nothing", "").await;
            assert_eq!(refused.problem(), "other-organization", "{name}: {refused:?}");
            refusals.push(refused.body);
        }
        assert!(refusals.iter().all(|body| *body == refusals[0]), "{refusals:?}");
        let own = operation.ask_as(&bed, key, Some("org_1"), "nothing", "").await;
        let without = operation.ask(&bed, key).await;
        assert_eq!(own.status, without.status, "{name}: {own:?}");
    }
}

fn walled(operation: &Operation) -> Wall {
    let name = &operation.name;
    wall(name).unwrap_or_else(|| panic!("{name} is not in the matrix: add it to `wall`"))
}

#[tokio::test]
async fn what_is_open_to_everyone_is_this_and_nothing_else() {
    let bed = Bed::new().await;
    let is_open = |documented: &Value| documented["security"].as_array().unwrap().is_empty();
    let open = bed
        .operations()
        .into_iter()
        .filter(|(.., documented)| is_open(documented));
    let open: BTreeSet<_> = open.map(|(method, path, _)| format!("{method} {path}")).collect();
    assert_eq!(open, BTreeSet::from(["GET /openapi.json".to_owned()]));
}

#[test]
fn an_operation_that_does_not_say_what_it_needs_cannot_be_served() {
    for operation in [
        json!({ "responses": {} }),
        json!({ "responses": {}, "security": [{ "api_key": ["everything"] }] }),
    ] {
        let document = json!({ "paths": { "/v1/planted": { "get": operation } } });
        let refused = Operations::of(&document).err().expect("it is not served");
        assert!(
            refused.to_string().starts_with("get /v1/planted has no security"),
            "{refused}"
        );
    }
}
