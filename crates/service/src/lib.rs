//! What can be done with the system. The HTTP API and the command line are two skins over it. Names neither
//! HTTP nor a terminal.
//!
//! - [`manage`]: register an endpoint, change it, replace its secret.
//! - [`workers`]: wait until every running worker acts on a change.
//! - [`ping`]: ask an endpoint whether it answers.
//! - [`story`]: what became of an event, and of each endpoint that was considered for it.
//! - [`resend`]: send deliveries again.
//! - [`recover`]: send again what an endpoint missed.
//! - [`view`]: show all of it as the JSON types of [`wire`].
//!
//! # What survives a crash
//!
//! Everything that a function has returned: it is in the database or confirmed by the broker. A run that was
//! requested stays requested until it was sent, whoever goes on with it.
//!
//! # Deliberately absent
//!
//! Authentication, scopes and tenants: the caller decides who may do what. The store that it passes knows who
//! acts ([`store::Store::acting_as`]).

pub mod manage;
pub mod workers;
pub mod ping;
pub mod story;
pub mod resend;
pub mod recover;
pub mod view;
