//! The journal: what is written, in whichever order, and every question.

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
