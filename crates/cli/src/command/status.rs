//! `magnetite status`: shows the state of the system on one screen of 80 columns, and exits 1 if something
//! needs attention.
//!
//! ```text
//! look (database, broker, management API) -> Seen -> trouble (what needs attention) -> screen | JSON
//! ```
//!
//! It changes nothing. It does not compare the journal's rows with each other, as `magnetite audit` does, and
//! does not check what roles need before they can start, as `magnetite doctor` does.

mod look;
mod trouble;
mod screen;

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::bail;
use clap::Args;
use runtime::time::Moment;
use tokio::time::sleep;

use crate::{configuration::Configuration, output, signals};

use look::Looker;

/// The time between two screens.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Moves the cursor to the top and clears the terminal.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

#[derive(Debug, Args)]
#[command(
    after_help = "Exits 1 if something needs attention: the last lines say what is wrong and what to do. Failing endpoints are \
                  listed, but do not change the exit code, because their owners have to repair them."
)]
pub(super) struct Arguments {
    /// Show a new screen every two seconds until Ctrl-C; the last one decides the exit code
    #[arg(long)]
    watch: bool,
    /// Count gaps, rejected messages and dead deliveries from this time on: how long ago, or a time in UTC
    #[arg(long, value_name = "TIME", default_value = "1h")]
    since: Moment,
    /// Print one JSON object; with --watch, one object per line
    #[arg(long)]
    json: bool,
}

/// Prints one screen, or one screen after another.
pub(super) async fn run(arguments: Arguments, configuration: &Configuration) -> anyhow::Result<()> {
    let stop = signals::stop_on_signal()?;
    let looker = Looker::open(configuration).await;
    let mut count = 0;
    loop {
        let since_ms = arguments.since.before(runtime::now_ms());
        let looking = Box::pin(looker.look(since_ms));
        let Some(seen) = stop.run_until_cancelled(looking).await else {
            break;
        };
        let troubles = trouble::found(&seen);
        count = troubles.len();
        let written = if arguments.json {
            output::line(&output::json(&screen::json(&seen, &troubles)))
        } else {
            if arguments.watch && io::stdout().is_terminal() {
                output::bytes(CLEAR.as_bytes())?;
            }
            output::lines(screen::lines(&seen, &troubles))
        };
        if arguments.watch {
            written?;
        } else {
            output::unless_left(written)?;
        }
        if !arguments.watch || stop.run_until_cancelled(sleep(WATCH_EVERY)).await.is_none() {
            break;
        }
    }
    looker.close().await;
    if count > 0 {
        bail!("troubles that need attention: {count}");
    }
    Ok(())
}
