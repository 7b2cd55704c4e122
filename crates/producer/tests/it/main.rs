//! The producer against a real broker.

mod rig;
mod publishing;
mod outages;
