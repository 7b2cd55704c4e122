//! `magnetite status`: shows the state of the system on one screen of 80 columns, and exits 1 if something
//! needs attention.
//!
//! ```text
//! look (database, broker, management API) -> Seen  -> trouble (what needs attention) -> screen | JSON
//! organization (HTTP API)                 -> State -> trouble                        -> screen | JSON
//! ```
//!
//! Over the HTTP API, it shows the state of one organization, and nothing about roles, queues or others.
//!
//! It changes nothing. It does not compare the journal's rows with each other, as `magnetite audit` does, and
//! does not check what roles need before they can start, as `magnetite doctor` does.

mod look;
mod trouble;
mod screen;
mod organization;

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::anyhow;
use clap::Args;
use client::Client;
use runtime::time::Moment;
use tokio::time::sleep;

use crate::{NoConnection, output, signals};

use super::Way;
use look::Looker;

/// The time between two screens.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Moves the cursor to the top and clears the terminal.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

#[derive(Debug, Args)]
#[command(
    after_help = "Exits 1 if something needs attention: the last lines say what is wrong and what to do. Failing endpoints are \
                  listed, but do not change the exit code, because their owners have to repair them. Over the HTTP API, shows the state of \
                  one organization, and exits 1 if its endpoints fail or its deliveries are overdue."
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

/// Reads the state as often as requested.
enum Watcher<'a> {
    System(Box<Looker<'a>>),
    Organization(Client),
}

/// What is printed.
struct Shown {
    /// The lines of the screen, or one JSON object.
    lines: Vec<String>,
    attention: Attention,
}

/// What decides the exit code.
#[derive(Clone, Copy, Default)]
struct Attention {
    /// The number of things that need attention.
    troubles: usize,
    /// Whether neither the database nor the broker was reached.
    is_cut_off: bool,
}

/// Prints one screen, or one screen after another.
pub(super) async fn run(arguments: Arguments, way: Way<'_>) -> anyhow::Result<()> {
    let stop = signals::stop_on_signal()?;
    let watcher = match way {
        Way::Direct(configuration) => Watcher::System(Box::new(Looker::open(configuration).await)),
        Way::Api(remote) => Watcher::Organization(remote.client()?),
    };
    let mut attention = Attention::default();
    loop {
        let since_ms = arguments.since.before(runtime::now_ms());
        let looking = Box::pin(watcher.look(since_ms, arguments.json));
        let Some(shown) = stop.run_until_cancelled(looking).await else {
            break;
        };
        let Shown {
            lines,
            attention: latest,
        } = shown?;
        attention = latest;
        if !arguments.json && arguments.watch && io::stdout().is_terminal() {
            output::bytes(CLEAR.as_bytes())?;
        }
        let written = output::lines(lines);
        if arguments.watch {
            written?;
        } else {
            output::unless_left(written)?;
        }
        if !arguments.watch || stop.run_until_cancelled(sleep(WATCH_EVERY)).await.is_none() {
            break;
        }
    }
    watcher.close().await;
    attention.result()
}

impl Attention {
    fn result(self) -> anyhow::Result<()> {
        let told = format!("troubles that need attention: {}", self.troubles);
        match self {
            Self { is_cut_off: true, .. } => Err(NoConnection(told).into()),
            Self { troubles: 0, .. } => Ok(()),
            _ => Err(anyhow!(told)),
        }
    }
}

impl Watcher<'_> {
    async fn look(&self, since_ms: u64, as_json: bool) -> anyhow::Result<Shown> {
        let (lines, troubles, is_cut_off) = match self {
            Self::System(looker) => {
                let seen = looker.look(since_ms).await;
                let troubles = trouble::found(&seen);
                let lines = if as_json {
                    vec![output::json(&screen::json(&seen, &troubles))]
                } else {
                    screen::lines(&seen, &troubles)
                };
                (lines, troubles, seen.database.is_err() && seen.broker.is_err())
            }
            Self::Organization(client) => {
                let state = organization::look(client, since_ms, runtime::now_ms()).await?;
                let troubles = organization::found(&state);
                let lines = if as_json {
                    vec![output::json(&organization::json(&state, &troubles))]
                } else {
                    organization::lines(&state, &troubles)
                };
                (lines, troubles, false)
            }
        };
        let troubles = troubles.len();
        Ok(Shown {
            lines,
            attention: Attention { troubles, is_cut_off },
        })
    }

    async fn close(self) {
        match self {
            Self::System(looker) => looker.close().await,
            Self::Organization(_) => {}
        }
    }
}
