//! Tests what users do and what may go wrong, with processes as they run in production. Each module covers
//! one subject. All are in one binary, because linking forty would take minutes.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends at the first surprise and prints its figures"
)]

mod acted;
mod api;
mod api_keys;
mod bounds;
mod broker_faults;
mod check;
mod cluster;
mod commands;
mod confirms;
mod contract;
mod database;
mod doctor;
mod expiry;
mod fairness;
mod fan_out;
mod full_disk;
mod hostile;
mod http_client;
mod journal;
mod kills;
mod lasting;
mod links;
mod logs;
mod malformed;
mod metrics;
mod neighbours;
mod openapi;
mod our_faults;
mod outages;
mod pgbouncer;
mod ping;
mod publishers;
mod readiness;
mod receivers;
mod relays;
mod remote;
mod restored;
mod retries;
mod sabotage;
mod secrets;
mod shutdown;
mod soak;
mod ssrf;
mod status;
mod tls;
mod tools;
