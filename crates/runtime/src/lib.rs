//! What every process of Magnetite needs, whatever its role. Names no other crate of ours.
//!
//! - [`Lasting`]: how often a condition that lasts is logged.
//! - [`logs`]: log lines, none of which is worth waiting for.
//! - [`vital`]: tasks whose panic ends the process.
//!
//! Invariants: nothing that is logged blocks or fails a task, whatever standard error is; and no process goes on without a task that it
//! needs.

mod lasting;
pub mod logs;
mod vital;

pub use lasting::{Lasting, Report};
pub use vital::vital;
