//! The journal: what became of every event, as the workers recorded it.
//!
//! The recorder folds the workers' records into [`Books`](webhook::journal::Books) and hands them to
//! [`Store::record`](crate::Store::record). Everything else here asks: one event or delivery, pages of them,
//! whether the books balance, what can be sent again, how an endpoint does. Nothing in the journal decides a
//! delivery: what is under way carries its own state over the broker.
//!
//! **Merging.** Records come in any order and more than once. Attempts, rejected messages and gaps have ids
//! of their own: the first one stays, of gaps the greatest. A delivery's row has the greatest
//! [`Standing`](webhook::journal::Standing) that was ever written, compared column by column, byte by byte;
//! an event's row is united with what comes. So any number of recorders end up with the same tables.
//!
//! **Requested runs.** To send again, a run is [requested](crate::Store::request_resends): a pending row with
//! `requested_ms`, at most one for an event and an endpoint (a unique index sees to it). Whoever publishes
//! [claims](crate::Store::claim_requested) rows for some time, publishes them with confirms and
//! [marks](crate::Store::mark_sent) them sent. After a crash the claims expire and the rest is claimed again;
//! a run of which a worker has recorded something never is.
//!
//! **Pages.** Listings go by time and id, newest first, from a cursor: what is written while somebody pages
//! disturbs no page.

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
mod overview;
mod retention;
mod clock;

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
pub use rejected::{Rejected, RejectedCursor};
pub use resend::{Claimed, Refusal, Requested};
pub use retention::Expired;
pub use state_counts::StateCounts;
pub use totals::{MINUTE_MS, Vanished};
