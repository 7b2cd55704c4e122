//! The journal: writing in any order, and all queries.

mod samples;
mod merging;
mod events;
mod deliveries;
mod rejected;
mod audit;
mod resend;
mod recover;
mod seen;
mod totals;
mod health;
mod refused;
mod retention;
mod clock;
mod operations;
