//! `magnetite`: the binary with every role and every command.
//!
//! `up`, `worker`, `recorder` and `api` run roles: they run until a SIGTERM, SIGINT or SIGHUP, finish what is
//! in flight, and exit. Every other subcommand is a command: it does one thing and exits.
//!
//! Scripts rely on the following:
//! - Standard output carries only results, one per line; with `--json`, one JSON object per line. Logs,
//!   notes, progress and errors go to standard error. Progress is written only to a terminal.
//! - Exit codes: 0 done, 1 failed, 2 usage, 3 not known yet (`audit`), 64 bad configuration. An error message
//!   says what to do next.
//! - Nothing is opened before the configuration has been read and checked.
//! - Errors and logs contain no password, no secret, and no path or query of an endpoint's URL. A command
//!   that creates a secret or a key prints it, once.
//!
//! A command keeps no state in memory that would be lost if it is killed: it can be run again.

mod configuration;
mod limits;
mod meters;
mod signals;
mod output;
mod broker_link;
mod database;
mod resend;
mod profiles;
mod remote;
mod pages;
mod backend;
mod command;

use std::{error::Error, io, panic, process::ExitCode, time::Duration};

use clap::Parser as _;
use runtime::logs;

use command::{Arguments, NotKnownYet};
use configuration::InvalidSettings;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The exit code for a bad configuration: `EX_USAGE` of sysexits.h, distinct from clap's 2 for bad arguments.
const EXIT_CONFIGURATION: u8 = 64;
const EXIT_USAGE: u8 = 2;
/// The exit code of an audit whose result is not known yet.
const EXIT_NOT_KNOWN_YET: u8 = 3;

/// An error in the arguments that clap cannot detect.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// The error of a command that has not reached the database or the broker.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoConnection(String);

/// The maximum time to wait at the end for a terminal that accepts no output.
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
    // An error means that a provider is installed already, which is sufficient.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(command::run(arguments));
    // A read of standard input cannot be cancelled and must not keep the process running.
    runtime.shutdown_timeout(Duration::ZERO);
    done
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_closed_pipe = |cause: &(dyn Error + 'static)| {
        let closed = cause.downcast_ref::<output::Closed>();
        closed.is_some_and(|closed| closed.0.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(is_closed_pipe) {
        // The reader of standard output, such as `head`, has closed the pipe: it needs no more output.
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
