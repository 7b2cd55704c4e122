//! `magnetite retention`: resumes the deletion of old records, which stops while clocks disagree.

use anyhow::bail;
use clap::{Args, Subcommand};
use runtime::time;

use crate::{configuration::Configuration, database, output};

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Action {
    /// Confirm that this host's clock is right, so that recorders whose clocks agree with it resume deleting
    /// old records
    Confirm,
}

/// Stores the confirmation for the recorders.
pub(super) async fn run(arguments: Arguments, configuration: &Configuration) -> anyhow::Result<()> {
    let Action::Confirm = arguments.action;
    let store = database::open(&configuration.database).await?;
    let now_ms = runtime::now_ms();
    let confirmed = store.confirm_time(now_ms).await?;
    store.close().await;
    if let Err(doubt) = confirmed {
        bail!("{doubt}: nothing was confirmed; set the clock that is wrong, and try again");
    }
    output::line(&format!(
        "confirmed the time {}; recorders whose clocks agree with it resume deletion within a minute",
        time::second(now_ms)
    ))?;
    Ok(())
}
