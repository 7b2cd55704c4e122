//! The JSON types of the HTTP API, which the command line prints as well. A server serializes them, a client
//! deserializes them.
//!
//! They hold what is shown and decide nothing: `service::view` makes them of what the database has.
//! [`schema`] describes closed sets, such as the states of a delivery, for the OpenAPI document.
//!
//! Times are Unix milliseconds. A field that is absent or null has no value; its documentation says what that
//! means.

pub mod schema;
mod endpoint;
mod failing;
mod health;
mod event;
mod delivery;
mod ping;
mod change;

pub use change::Change;
pub use delivery::{Attempt, Delivery, DeliveryWithAttempts};
pub use endpoint::Endpoint;
pub use event::{Considered, DisabledSince, EventSummary, States, Story};
pub use failing::Failing;
pub use health::Health;
pub use ping::Ping;
