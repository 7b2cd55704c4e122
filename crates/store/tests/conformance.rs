//! Conformance tests of the store. Every test runs on SQLite and on PostgreSQL, each time on a database of
//! its own.
//!
//! `MAGNETITE_TEST_POSTGRES_URL` is the URL of a PostgreSQL superuser; `tests/run.sh` starts a server and
//! sets it.

#![allow(
    clippy::unwrap_used,
    reason = "the test functions are called by the ones that carry the attribute"
)]

mod conformance {
    pub(crate) mod bed;
    mod api_keys;
    mod changes;
    mod deletion;
    mod endpoints;
    mod journal;
    mod limits;
    mod outages;
    mod registry;
    mod relays;
    mod roles;
    mod installation;
    mod schema;
    mod secrets;
    mod sharing;
    mod stuck;
}
