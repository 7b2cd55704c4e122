//! The journal: the history of every event, delivery and attempt, as the workers recorded it.
//!
//! The recorder folds the workers' records into [`Books`](webhook::journal::Books) and writes them with
//! [`Store::record`](crate::Store::record). The other modules query the journal: single events and
//! deliveries, pages of them, audits, runs that can be sent again, and the health of endpoints. The journal
//! never decides what happens to a delivery: a delivery in progress carries its own state in its message.
//!
//! **Merging.** Records arrive in any order and more than once. Attempts, rejected messages and gaps have
//! keys of their own: the first attempt or message with a key is kept, and of several gaps with one key the
//! greatest values are kept. The row of a delivery holds the greatest
//! [`Standing`](webhook::journal::Standing) that was ever written, compared column by column and byte by
//! byte. The row of an event is merged with each new record. Therefore any number of recorders produce the
//! same tables.
//!
//! **Requested runs.** Sending a delivery again starts with a [request](crate::Store::request_resends), which
//! inserts a pending row with `requested_ms`. A unique index allows at most one such row for each event and
//! endpoint. A publisher [claims](crate::Store::claim_requested) rows for a limited time, publishes them with
//! publisher confirms and [marks](crate::Store::mark_sent) them as sent. After a crash the claims expire and
//! the remaining rows are claimed again, except runs for which a worker has already recorded something.
//!
//! **Pages.** Listings are ordered by time and id, newest first, and continue from a cursor. Rows that are
//! written between two pages do not shift the following pages.

mod state_counts;
mod batches;
mod write;
mod events;
mod deliveries;
mod attempts;
mod rejected;
mod aside;
mod audit;
mod marks;
pub(crate) mod totals;
mod resend;
mod recover;
mod history;
mod stuck;
mod health;
mod failing;
mod activity;
mod overview;
mod retention;
mod clock;

pub use activity::{Activity, EndpointCounts};
pub use aside::SetAside;
pub use attempts::AttemptRow;
pub use audit::{Audit, AuditLimits, FINDINGS_MAX, Findings, Late, Unbalanced, Unrecorded};
pub use batches::{LOST_AFTER_MS, Lost, LostCause};
pub use clock::{CLOCK_DIFFERENCE_MAX_MS, ClockDoubt, RetentionStop, UNWATCHED_MAX_MS};
pub use deliveries::{DeliveryCursor, DeliveryFilter, DeliveryRow};
pub use events::{EventCursor, EventFilter, EventRow};
pub use failing::Failing;
pub use health::Health;
pub use marks::MARK_PREFIX;
pub use overview::{Overview, Pending};
pub use recover::{RecoverState, Recoverable};
pub use rejected::{RejectedCursor, RejectedRow};
pub use resend::{Claimed, Refusal, Requested};
pub use retention::Expired;
pub use state_counts::StateCounts;
pub use totals::{MINUTE_MS, Vanished};
