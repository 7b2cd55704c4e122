//! HTTP for those who run Magnetite: the only crate that speaks it as a server in a role.
//!
//! So far that is [`health`]: every role serves it, an orchestrator probes it and Prometheus scrapes it. And [`ping`], which the command
//! line shares. Nothing here has state of its own, so nothing survives a crash and nothing has to.
//!
//! Invariants:
//! - A probe is answered from memory: it waits for no broker and no database, or their outage would get every
//!   replica restarted.
//! - No answer holds a secret, a URL of an endpoint or an address with credentials.
//!
//! Deliberately absent: authentication (the listener belongs on a loopback or cluster address), TLS, and any
//! knowledge of what the roles do.

pub mod health;
pub mod ping;
