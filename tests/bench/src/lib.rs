//! What the two benchmarks share: `bench` measures the worker, and `journal_bench` the journal.
//!
//! Both publish numbered events ([`event`]), many of them at a steady pace ([`pace`]), and deliver them with
//! the built `magnetite` ([`installation`]) to a receiver, which records when each of them arrived
//! ([`receiver`]). The kernel says what each process has cost ([`process`]).
//!
//! The receiver is a process of its own: the measuring program itself, started again with different
//! arguments. The `main` of each program passes these to [`receiver::run`].

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement ends at the first surprise, and prints"
)]

pub mod event;
pub mod installation;
pub mod process;
pub mod receiver;
pub mod pace;
