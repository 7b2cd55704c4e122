//! The JSON types of the HTTP API, which the command line also prints. A server serializes them, and a client
//! deserializes them.
//!
//! The types only hold data: `service::view` creates most of them from the rows of the database, and the API
//! the others. [`schema`] describes closed sets, such as the states of a delivery, for the OpenAPI document.
//!
//! Times are in Unix milliseconds. A field without a value is null or absent; its documentation says what
//! that means.

pub mod schema;
mod credential;
mod problem;
mod listing;
mod endpoint;
mod failing;
mod health;
mod status;
mod event_type;
mod published;
mod event;
mod delivery;
mod tail;
mod resent;
mod ping;
mod relay;
mod change;
mod api_key;

pub use api_key::ApiKey;
pub use change::Change;
pub use credential::Credential;
pub use delivery::{Attempt, Delivery, DeliveryWithAttempts};
pub use endpoint::Endpoint;
pub use event::{Considered, DisabledSince, EventHistory, EventSummary, States};
pub use event_type::EventTypeInfo;
pub use failing::Failing;
pub use health::Health;
pub use listing::Listing;
pub use ping::Ping;
pub use problem::{FieldError, Problem};
pub use published::{Published, PublishedBatch};
pub use relay::{RelayAnswer, RelayRequest};
pub use resent::{RecoveredEndpoint, ResendResult, Resent, ResentDeliveries};
pub use status::{Activity, AttemptCounts, EndpointCounts, Status};
pub use tail::TailLine;
