//! What every process of Magnetite needs, whatever its role. Names no other crate of ours.
//!
//! - [`Lasting`]: how often a condition that lasts is logged.

mod lasting;

pub use lasting::{Lasting, Report};
