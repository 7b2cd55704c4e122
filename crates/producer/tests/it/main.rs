//! Tests the producer with a real broker.

mod rig;
mod publishing;
mod outages;
