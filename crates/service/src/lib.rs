//! The operations of the system, which the HTTP API and the command line share. This crate depends neither on
//! HTTP nor on a terminal.
//!
//! - [`manage`]: registers endpoints, changes them and rotates their secrets.
//! - [`api_keys`]: creates and revokes API keys.
//! - [`workers`]: waits until every running worker uses a change.
//! - [`ping`]: checks whether an endpoint responds.
//! - [`relay`]: opens endpoints whose requests are passed to a program over the API.
//! - [`publish`]: publishes events, those of concurrent callers in groups.
//! - [`tail`]: passes what workers record to readers, as it happens.
//! - [`history`]: reports what happened to an event at each endpoint that was considered for it.
//! - [`resend`]: sends deliveries again.
//! - [`cursor`]: writes positions in listings and searches as text.
//! - [`recover`]: sends the events that an endpoint missed.
//! - [`audit`]: checks that every delivery is accounted for.
//! - [`status`]: reads the present state of an organization's endpoints and deliveries.
//! - [`view`]: converts all of this to the JSON types of [`wire`].
//!
//! # What survives a crash
//!
//! Every result that a function has returned is in the database, or was confirmed by the broker. A requested
//! run stays requested until it is sent, by this process or another.
//!
//! # Deliberately absent
//!
//! Authentication, scopes and tenants: the caller decides who may do what. The store that the caller passes
//! knows the actor ([`store::Store::acting_as`]).

pub mod manage;
pub mod api_keys;
pub mod workers;
pub mod ping;
pub mod relay;
pub mod publish;
pub mod tail;
pub mod history;
pub mod resend;
pub mod cursor;
pub mod recover;
pub mod audit;
pub mod status;
pub mod view;
