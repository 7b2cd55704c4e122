//! `magnetite event`: what happened to events.

mod list;
mod show;
mod history;
pub(super) mod tail;

use clap::Subcommand;

use crate::backend::Backend;

use super::arguments;

pub(super) type Arguments = arguments::Actions<Action>;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// List events, newest first
    List(list::List),
    /// Show one event: for every endpoint of its organization whether it received the event or why not, each
    /// attempt, and what comes next
    Show(show::Show),
    /// Print events, attempts and outcomes as workers record them
    Tail(tail::Tail),
}

/// Reads the journal.
pub(super) async fn run(arguments: Arguments, backend: &Backend) -> anyhow::Result<()> {
    let Arguments { json, action } = arguments;
    match action {
        Action::List(list) => list::run(list, backend, json).await,
        Action::Show(show) => show::run(show, backend, json).await,
        Action::Tail(_) => unreachable!("`tail` needs no database and runs without a backend"),
    }
}
