//! Endpoints: registering, changing and deleting them, and their health.

use std::time::Duration;

use futures_util::Stream;
use serde::Serialize;
use signature::Secret;
use wire::{Endpoint, Health, Listing, Ping, RecoveredEndpoint};

use crate::{
    client::Client,
    error::Error,
    operation::Operation,
    pages,
    request::{Request, whole_seconds},
};

/// An endpoint to register.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CreateEndpoint {
    /// The URL that events are delivered to: `https`, at a public address, without user and fragment.
    pub url: String,
    /// The event types to deliver: each is a type, a family such as `research.*`, or `*` for all. `None` for
    /// all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<String>>,
    /// Deliver only this project's events; `None` for those of all projects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
}

/// The fields of an endpoint to change; at least one is required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UpdateEndpoint {
    /// The new URL; `None` to keep the present one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The new event types; `None` to keep the present ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<String>>,
    /// The project whose events are delivered: `Some(None)` for all projects, and `None` to keep it as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<Option<String>>,
}

/// How to replace an endpoint's secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RotateSecret {
    /// The new secret; `None` for a random one.
    pub secret: Option<Secret>,
    /// What becomes of the old secret.
    pub old: OldSecret,
}

/// What becomes of a secret that is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OldSecret {
    /// It stays valid for a day, so that the receiver can switch to the new one without losing a request.
    #[default]
    ValidForADay,
    /// It stays valid for this time: whole seconds, from one second to 30 days.
    ValidFor(Duration),
    /// It is revoked at once, for example because it was disclosed.
    Revoked,
}

/// What to send again to an endpoint, which is the oldest of what it missed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RecoverEndpoint {
    /// Only for events received at this time or later, in Unix milliseconds; 0 for all.
    pub since_ms: u64,
    /// Only for events received before this time, in Unix milliseconds; `None` for now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// The kind of deliveries to send.
    pub state: RecoverState,
    /// The maximum number of deliveries to send, from 1 to 1000; `None` for 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The `next_cursor` of the previous result; `None` to begin with the oldest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Only count, and send nothing.
    pub dry_run: bool,
}

/// What an endpoint has missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RecoverState {
    /// Deliveries that were given up.
    Dead,
    /// Events that match now, but were received while the endpoint was disabled.
    Missed,
    /// Both.
    #[default]
    All,
}

/// Which endpoints to list, ordered by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListEndpoints {
    /// Only endpoints whose last attempt was not answered with a 2xx, each with since when and why it fails,
    /// except those that were disabled by hand.
    pub failing: bool,
    /// The maximum number of endpoints on a page, from 1 to 100; `None` for 20.
    pub limit: Option<u32>,
    /// The `next_cursor` of the previous page; `None` for the first page.
    pub cursor: Option<String>,
}

/// The result of deleting an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The workers that are not known to act on the deletion; empty if every running worker does. The name
    /// `unknown` means that it is not known which workers do.
    pub workers_behind: Vec<String>,
}

/// The body of a request to replace a secret.
#[derive(Serialize)]
struct Rotation<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overlap_s: Option<u64>,
    revoke_now: bool,
}

/// Endpoints. Requests that change one return it as it is then: its `version` is the number in its `ETag`,
/// and `workers_behind` names the workers that are not known to act on the change.
///
/// With `if_version`, an endpoint is changed only if it still has this `version`. Otherwise, the error is a
/// problem with the name `version-mismatch`.
impl Client {
    /// Registers an endpoint, and returns it with its `secret`, which is not shown again.
    ///
    /// # Errors
    /// Returns an error if the API refuses the endpoint, or is not reached.
    pub async fn create_endpoint(&self, new: &CreateEndpoint) -> Result<Endpoint, Error> {
        let request = Request::new(Operation::CREATE_ENDPOINT).json(new)?;
        self.send(&request).await?.json()
    }

    /// Returns a page of endpoints.
    ///
    /// # Errors
    /// Returns an error if the API refuses the request, or is not reached.
    pub async fn list_endpoints(&self, which: &ListEndpoints) -> Result<Listing<Endpoint>, Error> {
        pages::one(self, which.request(), which.cursor.as_deref()).await
    }

    /// Returns all endpoints from the page at `cursor` on. The pages are read when they are needed.
    pub fn all_endpoints(
        &self,
        which: ListEndpoints,
    ) -> impl Stream<Item = Result<Endpoint, Error>> + Send + Unpin + use<> {
        pages::all(self, which.request(), which.cursor)
    }

    /// Returns an endpoint.
    ///
    /// # Errors
    /// Returns an error if there is no such endpoint, or the API is not reached.
    pub async fn get_endpoint(&self, id: &str) -> Result<Endpoint, Error> {
        let request = Request::about(Operation::GET_ENDPOINT, id)?;
        self.send(&request).await?.json()
    }

    /// Changes an endpoint.
    ///
    /// # Errors
    /// Returns an error if the API refuses the change, or is not reached.
    pub async fn update_endpoint(
        &self,
        id: &str,
        change: &UpdateEndpoint,
        if_version: Option<i64>,
    ) -> Result<Endpoint, Error> {
        let request = Request::about(Operation::UPDATE_ENDPOINT, id)?.if_version(if_version);
        self.send(&request.json(change)?).await?.json()
    }

    /// Deletes an endpoint, and cancels its pending deliveries.
    ///
    /// If it is not known whether the endpoint was deleted, the request is repeated. If a repeat finds no
    /// such endpoint, the result is a success with the worker `unknown`.
    ///
    /// # Errors
    /// Returns an error if there is no such endpoint, or the API is not reached.
    pub async fn delete_endpoint(&self, id: &str, if_version: Option<i64>) -> Result<Deleted, Error> {
        let request = Request::about(Operation::DELETE_ENDPOINT, id)?.if_version(if_version);
        let workers_behind = match self.send(&request).await {
            Ok(received) => {
                received.no_content()?;
                received.workers_behind()
            }
            Err(Error::Api { call, problem, .. }) if call.maybe_done && problem.name() == "not-found" => {
                vec!["unknown".to_owned()]
            }
            Err(error) => return Err(error),
        };
        Ok(Deleted { workers_behind })
    }

    /// Resumes the deliveries to an endpoint. [`recover_endpoint`](Self::recover_endpoint) sends what it
    /// missed.
    ///
    /// # Errors
    /// Returns an error if there is no such endpoint, or the API is not reached.
    pub async fn enable_endpoint(&self, id: &str, if_version: Option<i64>) -> Result<Endpoint, Error> {
        let request = Request::about(Operation::ENABLE_ENDPOINT, id)?.if_version(if_version);
        self.send(&request).await?.json()
    }

    /// Suspends the deliveries to an endpoint.
    ///
    /// # Errors
    /// Returns an error if there is no such endpoint, or the API is not reached.
    pub async fn disable_endpoint(&self, id: &str, if_version: Option<i64>) -> Result<Endpoint, Error> {
        let request = Request::about(Operation::DISABLE_ENDPOINT, id)?.if_version(if_version);
        self.send(&request).await?.json()
    }

    /// Replaces an endpoint's secret, and returns the endpoint with its new `secret`, which is not shown
    /// again.
    ///
    /// # Errors
    /// Returns an error if the endpoint already has two valid secrets (`conflict`), the API refuses the
    /// request for another reason, or it is not reached.
    pub async fn rotate_endpoint_secret(
        &self,
        id: &str,
        how: &RotateSecret,
        if_version: Option<i64>,
    ) -> Result<Endpoint, Error> {
        let operation = Operation::ROTATE_ENDPOINT_SECRET;
        let rotation = Rotation {
            secret: how.secret.as_ref().map(Secret::expose),
            overlap_s: match how.old {
                OldSecret::ValidFor(time) => {
                    Some(whole_seconds(operation, time, "the time of the old secret")?)
                }
                OldSecret::ValidForADay | OldSecret::Revoked => None,
            },
            revoke_now: how.old == OldSecret::Revoked,
        };
        let request = Request::about(operation, id)?.if_version(if_version);
        self.send(&request.json(&rotation)?).await?.json()
    }

    /// Sends one signed request of type `webhook.ping` to an endpoint, and returns how it answered. Without a
    /// result after 35 s, `ok` is `None`, and the delivery has the result later.
    ///
    /// # Errors
    /// Returns an error if there is no such endpoint, or the API is not reached. What the endpoint answers is
    /// no error.
    pub async fn ping_endpoint(&self, id: &str) -> Result<Ping, Error> {
        let request = Request::about(Operation::PING_ENDPOINT, id)?.long();
        self.send(&request).await?.json()
    }

    /// Returns the health of an endpoint, according to its recorded attempts.
    ///
    /// # Errors
    /// Returns an error if there is no such endpoint, or the API is not reached.
    pub async fn get_endpoint_health(&self, id: &str) -> Result<Health, Error> {
        let request = Request::about(Operation::GET_ENDPOINT_HEALTH, id)?;
        self.send(&request).await?.json()
    }

    /// Sends again what an endpoint missed, oldest first. As long as the result has `more`, call it again
    /// with the `next_cursor` of the result as the `cursor`: nothing is found twice, not even a delivery that
    /// is given up again in the meantime. `event_missing` names the deliveries that cannot be sent.
    ///
    /// # Errors
    /// Returns an error if the endpoint is disabled (`conflict`) or does not exist, or the API is not
    /// reached. If the operation may have been carried out, it is safe to call it again with the same
    /// arguments, with one exception: what the broker has accepted without confirming it may be sent twice,
    /// with the same `webhook-id`.
    pub async fn recover_endpoint(
        &self,
        id: &str,
        what: &RecoverEndpoint,
    ) -> Result<RecoveredEndpoint, Error> {
        let request = Request::about(Operation::RECOVER_ENDPOINT, id)?.long();
        self.send(&request.json(what)?).await?.json()
    }
}

impl CreateEndpoint {
    /// Creates an endpoint for the events of all types and all projects.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..Self::default()
        }
    }
}

impl ListEndpoints {
    fn request(&self) -> Request {
        Request::new(Operation::LIST_ENDPOINTS)
            .query("failing", self.failing.then_some(true))
            .query("limit", self.limit)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn sent(body: &impl Serialize) -> Value {
        serde_json::to_value(body).unwrap()
    }

    #[test]
    fn what_is_not_given_is_not_sent() {
        let url = "https://example.com/webhook";
        assert_eq!(sent(&CreateEndpoint::new(url)), json!({ "url": url }));
        assert_eq!(sent(&UpdateEndpoint::default()), json!({}));
        let all_projects = UpdateEndpoint {
            project_id: Some(None),
            ..UpdateEndpoint::default()
        };
        assert_eq!(sent(&all_projects), json!({ "project_id": null }));
        assert_eq!(
            sent(&RecoverEndpoint::default()),
            json!({ "since_ms": 0, "state": "all", "dry_run": false })
        );
        let next = RecoverEndpoint {
            cursor: Some("a".to_owned()),
            ..RecoverEndpoint::default()
        };
        assert_eq!(
            sent(&next),
            json!({ "since_ms": 0, "state": "all", "dry_run": false, "cursor": "a" })
        );
    }

    /// An API of an earlier version answers without the newer fields.
    #[test]
    fn a_recovery_is_understood_without_cursor_and_missing_events() {
        let answered =
            json!({ "dead": 1, "missed": 2, "left": 3, "sent": 6, "more": true, "dry_run": false });
        let recovered: RecoveredEndpoint = serde_json::from_value(answered).unwrap();
        assert_eq!((recovered.sent, recovered.next_cursor), (6, None));
        assert!(recovered.event_missing.is_empty());
    }

    #[test]
    fn a_new_secret_is_not_shown() {
        let rotate = RotateSecret {
            secret: Some(Secret::generate([7; 32])),
            old: OldSecret::Revoked,
        };
        assert!(!format!("{rotate:?}").contains("whsec_"), "{rotate:?}");
    }
}
