//! Tests of the whole router, with a real SQLite database and without a broker.

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
mod status;
mod planted;
