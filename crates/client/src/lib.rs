//! A typed client of the HTTP API of Magnetite webhooks: manages endpoints and API keys, publishes events,
//! and shows and resends deliveries.
//!
//! A [`Client`] needs the URL of the API and an API key. The operator of the installation creates the first
//! key. Each operation of the API is a method, named after its `operationId`; [`OPERATIONS`] lists them.
//!
//! ```no_run
//! use client::{
//!     About, ApiKey, Client, CreateEndpoint, Event, EventType, LeadId, Object, OrganizationId, ProjectId,
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let key = ApiKey::parse(&std::env::var("MAGNETITE_API_KEY")?)?;
//! let client = Client::builder("https://webhooks.example.com", key).build()?;
//!
//! let endpoint = client
//!     .create_endpoint(&CreateEndpoint::new("https://example.com/webhook"))
//!     .await?;
//! // The secret is not shown again: give it to the receiver.
//! let secret = endpoint.secret.map(|secret| secret.0);
//! println!("{} has the secret {secret:?}", endpoint.id);
//!
//! let about = About {
//!     organization_id: OrganizationId::new("org_123abc"),
//!     project_id: ProjectId::new("proj_456def"),
//!     lead_id: LeadId::new("lead_789ghi"),
//!     timestamp_ms: 1_703_123_456_789,
//! };
//! let event = Event::new(EventType::ResearchStarted, &about, &Object::new());
//! client.publish_event(&event).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Lists
//!
//! `list_…` returns one page; [`Client::list_event_types`] and [`Client::list_attempts`] return everything.
//! `all_…` returns a stream of all items, which reads a page when its items are needed:
//!
//! ```no_run
//! use client::{Client, ListDeliveries};
//! use futures_util::TryStreamExt as _;
//!
//! # async fn example(client: &Client) -> Result<(), client::Error> {
//! let mut deliveries = client.all_deliveries(ListDeliveries::default());
//! while let Some(delivery) = deliveries.try_next().await? {
//!     println!("{} is {}", delivery.id, delivery.state);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What happens now
//!
//! [`Client::tail_events`] returns a stream of what workers record, as it happens.
//!
//! # Relays
//!
//! A relay is an endpoint without a URL: a program receives its requests over a connection that the program has
//! opened, and answers them as a server would. It therefore works where the API cannot connect to.
//!
//! ```no_run
//! use client::{Client, OpenRelay, RelayAnswer};
//!
//! # async fn example(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
//! let relay = client.open_relay(&OpenRelay::default()).await?;
//! let mut connection = client.connect_relay(&relay.id).await?;
//! while let Some(request) = connection.next().await? {
//!     println!("{}", request.body);
//!     let answer = RelayAnswer {
//!         request: request.request,
//!         status: Some(200),
//!         retry_after: None,
//!         body: String::new(),
//!     };
//!     connection.answer(&answer).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Errors and repeats
//!
//! An [`Error`] says what happened, to which operation, and what to do.
//! [`Error::may_have_been_carried_out`] says whether the API may have done what was requested nevertheless.
//!
//! A request that fails for a reason that may pass is sent again, for at most a minute, if that is safe:
//! [`Retries`] has the rules. In particular, [`Client::publish_event`] fixes the id of an event before it
//! sends the event for the first time, so that a repeat publishes the same event.
//!
//! # Invariants
//!
//! - Every call ends: after the longer of one request's timeout and [`Retries::total_max`]. The stream of
//!   [`Client::tail_events`] goes on while the API sends something at least every 45 s, and a
//!   [`RelayConnection`] while it does so every 30 s.
//! - The body of an answer is read up to 64 MiB, that of an error up to 64 KiB, and a line of a stream or a message
//!   of a relay's connection up to 4 MiB.
//! - No message of this crate, and no `Debug` of its types, contains an API key or an endpoint's secret.
//! - The API key is sent only to the URL that was given, because redirects are not followed. If the URL begins
//!   with `http`, the network and the proxies before the API can read the key.
//!
//! # Deliberately absent
//!
//! - A cache: every call is a request.
//! - A queue of events that are still to be published: a crash would lose them. Publish from where the event
//!   is stored, and delete it there after `Ok`.

mod operation;
mod error;
mod build_error;
mod base_url;
mod tls;
mod retries;
mod websocket;
mod request;
mod received;
mod lines;
mod client;
mod builder;
mod pages;
mod event;
mod endpoints;
mod relay_closed;
mod relay_connection;
mod relays;
mod event_types;
mod events;
mod deliveries;
mod tail;
mod api_keys;
mod changes;
mod status;
mod documentation;

pub use signature::{Secret, SecretError};
pub use webhook::{
    About, ApiKey, BadApiKey, EventId, EventKind, EventType, LeadId, OrganizationId, ProjectId, Scope,
    journal::{DeliveryState, ThenKind},
};
pub use wire::{
    Activity, ApiKey as ApiKeyInfo, Attempt, AttemptCounts, Change, Considered, Credential, Delivery,
    DeliveryWithAttempts, DisabledSince, Endpoint, EndpointCounts, EventHistory, EventSummary, EventTypeInfo,
    Failing, FieldError, Health, Listing, Ping, Problem, Published, PublishedBatch, RecoveredEndpoint,
    RelayAnswer, RelayRequest, ResendResult, Resent, States, Status, TailLine,
};

pub use api_keys::{CreateApiKey, ListApiKeys};
pub use build_error::BuildError;
pub use builder::ClientBuilder;
pub use changes::ListChanges;
pub use client::Client;
pub use deliveries::ListDeliveries;
pub use endpoints::{
    CreateEndpoint, Deleted, ListEndpoints, OldSecret, RecoverEndpoint, RecoverState, RotateSecret,
    UpdateEndpoint,
};
pub use error::{Call, Error};
pub use event::{Event, Object};
pub use events::ListEvents;
pub use operation::{OPERATIONS, Operation};
pub use relay_closed::RelayClosed;
pub use relay_connection::{NotAnswered, RelayAnswers, RelayConnection};
pub use relays::OpenRelay;
pub use retries::Retries;
pub use tail::TailEvents;
