//! Tests of the whole router, with a real SQLite database and without a broker.

mod bed;
mod things;
mod endpoints;
mod frame;
mod journal;
mod matrix;
mod publishing;
mod planted;
