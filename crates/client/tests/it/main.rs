//! Tests the client with a server that answers as the test specifies.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod server;
mod sending;
mod hostile;
mod repeating;
mod relays;
