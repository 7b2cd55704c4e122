//! Tests of the whole router, with a real SQLite database. Only the connections of relays need a broker.

mod bed;
mod things;
mod api_keys;
mod endpoints;
mod frame;
mod journal;
mod matrix;
mod platform;
mod publishing;
mod recover;
mod relays;
mod relay_connections;
mod status;
mod planted;
