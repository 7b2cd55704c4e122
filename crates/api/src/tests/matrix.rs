//! Who may do what: every operation of the document, with every kind of key that does not open it.

use std::collections::BTreeSet;

use axum::{body::Body, http::Method};
use serde_json::{Value, json};
use webhook::{OrganizationId, Scope};

use crate::{auth::Operations, context::now_ms, openapi::SECURITY_SCHEME};

use super::bed::{Answer, Bed, request};

/// What keeps another organization out of an operation, and a body that is valid.
enum Wall {
    /// The id in the path is one of the organization's: another's is like none.
    Endpoint(&'static str),
    /// What is made is the organization's own.
    Creates(&'static str),
    /// The listing has what is the organization's own.
    Listing,
    /// The body names the organization.
    Body(fn(&str) -> Value),
    /// It is the same for everyone.
    Same,
}

/// A new operation needs a row here.
fn wall(operation: &str) -> Option<Wall> {
    Some(match operation {
        "createEndpoint" => Wall::Creates(r#"{"url":"https://93.184.216.34/"}"#),
        "listEndpoints" => Wall::Listing,
        "getEndpoint" | "deleteEndpoint" | "enableEndpoint" | "disableEndpoint" => Wall::Endpoint(""),
        "updateEndpoint" => Wall::Endpoint(r#"{"events":["*"]}"#),
        "rotateEndpointSecret" => Wall::Endpoint("{}"),
        "listEventTypes" | "getEventType" => Wall::Same,
        "publishEvent" => Wall::Body(event),
        "publishEvents" => Wall::Body(|organization| json!([event(organization)])),
        _ => return None,
    })
}

fn event(organization: &str) -> Value {
    json!({
        "event": "lead.created", "timestamp": 1, "organization_id": organization, "project_id": "p", "lead_id": "l", "data": {}
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
    /// With an id of nothing in the path.
    async fn ask(&self, bed: &Bed, key: &str) -> Answer {
        self.ask_for(bed, key, "nothing", "").await
    }

    async fn ask_for(&self, bed: &Bed, key: &str, id: &str, json: &str) -> Answer {
        let parts = self
            .path
            .split('/')
            .map(|part| if part.starts_with('{') { id } else { part });
        let path = parts.collect::<Vec<_>>().join("/");
        let request = request(self.method.as_str(), &path, key).header("content-type", "application/json");
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
    let operations = operations(&bed);
    assert!(operations.len() >= 12, "the document has lost operations");
    for operation in &operations {
        let name = &operation.name;
        for (key, word) in [
            ("", "Send the header"),
            (&unknown, "not known"),
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
        for scope in Scope::ALL {
            let key = bed.key("org_1", scope.as_str()).await;
            let answer = operation.ask(&bed, &key).await;
            let opens = scope == operation.scope || scope == Scope::Admin;
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
    let (own, foreign) = (bed.endpoint("org_1").await, bed.endpoint("org_2").await);
    let id = |endpoint: &Value| endpoint["id"].as_str().unwrap().to_owned();
    let other = OrganizationId::new("org_2");
    let before = bed.context.store.changes(Some(&other), None, 100).await.unwrap();
    for operation in operations(&bed) {
        let name = &operation.name;
        let wall = wall(name).unwrap_or_else(|| panic!("{name} is not in the matrix: add it to `wall`"));
        match wall {
            Wall::Endpoint(json) => {
                let missing = "ep_00000000000000000000000000000000";
                let none = operation.ask_for(&bed, &key, missing, json).await;
                let other = operation.ask_for(&bed, &key, &id(&foreign), json).await;
                assert_eq!(other.status, 404, "{name}: {other:?}");
                let other = other.body.to_string().replace(&id(&foreign), missing);
                assert_eq!(other, none.body.to_string(), "{name} tells that there is one");
            }
            Wall::Creates(json) => {
                let created = operation.ask_for(&bed, &key, "", json).await;
                assert_eq!(created.body["organization_id"], "org_1", "{name}: {created:?}");
            }
            Wall::Listing => {
                let listed = operation.ask(&bed, &key).await;
                let text = listed.body.to_string();
                assert!(
                    text.contains(&id(&own)) && !text.contains(&id(&foreign)),
                    "{name}: {text}"
                );
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
            Wall::Same => {}
        }
    }
    let after = bed.context.store.changes(Some(&other), None, 100).await.unwrap();
    assert_eq!(after, before, "something was changed for the wrong organization");
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
#[should_panic(expected = "no security")]
fn an_operation_that_does_not_say_what_it_needs_cannot_be_served() {
    Operations::of(&json!({ "paths": { "/v1/planted": { "get": { "responses": {} } } } }));
}
