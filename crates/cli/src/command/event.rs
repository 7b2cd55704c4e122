//! `magnetite event`: what happened to events.

mod list;
mod show;
mod history;
mod tail;

use clap::{Args, Subcommand};

use crate::{configuration::Configuration, database};

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(super) struct Arguments {
    /// Print one JSON object per line
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List events, newest first
    List(list::List),
    /// Show one event: for every endpoint of its organization whether it received the event or why not, each
    /// attempt, and what comes next
    Show(show::Show),
    /// Print events, attempts and outcomes as workers record them
    Tail(tail::Tail),
}

/// Reads the journal, or follows the workers' records.
pub(super) async fn run(arguments: Arguments, configuration: &Configuration) -> anyhow::Result<()> {
    let Arguments { json, action } = arguments;
    if let Action::Tail(tail) = action {
        return tail::run(tail, configuration, json).await;
    }
    let store = database::open(&configuration.database).await?;
    let done = match action {
        Action::List(list) => list::run(list, &store, json).await,
        Action::Show(show) => show::run(show, &store, json).await,
        Action::Tail(_) => unreachable!("`tail` is handled above"),
    };
    store.close().await;
    done
}
