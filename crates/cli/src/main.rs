//! `magnetite`: the one binary, with every role and every command.
//!
//! `up` and `worker` are roles: they run until SIGTERM or SIGINT, finish what is in flight, and end.
//! Everything else is a command: it does one thing and ends.
//!
//! Scripts rely on this:
//! - Standard output carries results alone, one a line, and with `--json` one object a line. Logs, notes,
//!   progress and errors go to standard error; progress only to a terminal.
//! - Exit codes: 0 done, 1 failed, 2 usage, 64 bad configuration. An error says what to do next.
//! - Nothing is opened before the configuration was read and checked.
//! - No password, no secret and no path or query of an endpoint's URL is in an error or a log. `endpoint
//!   create` prints a new secret, once.
//!
//! Nothing is kept in memory that anyone would miss: a command that was killed can be repeated.

mod configuration;
mod time;
mod limits;
mod meters;
mod signals;
mod output;
mod broker_link;
mod database;
mod command;

use std::{error::Error, io, panic, process::ExitCode, time::Duration};

use clap::Parser as _;
use runtime::logs;

use command::{Arguments, NotKnownYet};
use configuration::InvalidSettings;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code of a bad configuration: `EX_USAGE` of sysexits.h, apart from clap's 2 for bad arguments.
const EXIT_CONFIGURATION: u8 = 64;
const EXIT_USAGE: u8 = 2;
/// Exit code of an audit that does not know yet.
const EXIT_NOT_KNOWN_YET: u8 = 3;

/// What a command was asked for does not make sense, in a way that clap cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// How long a terminal that takes nothing is waited for at the end.
const LAST_NOTE_MAX: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = panic::catch_unwind(|| start(arguments));
    logs::end();
    match done {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => exit_code(&error),
        Err(panicked) => panic::resume_unwind(panicked),
    }
}

fn start(arguments: Arguments) -> anyhow::Result<()> {
    // An error says that there is a provider already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(command::run(arguments));
    // A read of standard input cannot be cancelled, and must not keep the process.
    runtime.shutdown_timeout(Duration::ZERO);
    done
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_closed_pipe = |cause: &(dyn Error + 'static)| {
        let closed = cause.downcast_ref::<output::Closed>();
        closed.is_some_and(|closed| closed.0.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(is_closed_pipe) {
        // Whoever reads us, such as head, has seen enough.
        return ExitCode::SUCCESS;
    }
    let note = format!("magnetite: {error:#}");
    logs::within(LAST_NOTE_MAX, move || output::note(&note));
    if error.chain().any(<dyn Error>::is::<InvalidSettings>) {
        ExitCode::from(EXIT_CONFIGURATION)
    } else if error.chain().any(<dyn Error>::is::<Usage>) {
        ExitCode::from(EXIT_USAGE)
    } else if error.chain().any(<dyn Error>::is::<NotKnownYet>) {
        ExitCode::from(EXIT_NOT_KNOWN_YET)
    } else {
        ExitCode::FAILURE
    }
}
