//! Tests the journal: its contents are correct, it reports what it cannot know, and everything that failed
//! can be sent again.

mod gaps;
mod dropped;
mod unknown;
mod recorder;
mod audits;
mod story;
mod again;
mod refused;
mod retention;
mod recover;
mod health;
mod http;

use std::time::Duration;

const LONG: Duration = Duration::from_mins(3);
