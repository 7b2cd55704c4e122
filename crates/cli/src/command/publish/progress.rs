//! A progress bar, for a user at a terminal who sees neither the ids nor a log.

use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// A bar on standard error, if that is a terminal and standard output is not; otherwise hidden.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Starts the bar. `bytes` is the size of the input, if known.
    pub(super) fn start(bytes: Option<u64>) -> Self {
        let wanted = io::stderr().is_terminal() && !io::stdout().is_terminal();
        let (bar, template) = match bytes {
            _ if !wanted => {
                return Self {
                    bar: ProgressBar::hidden(),
                };
            }
            Some(bytes) => (
                ProgressBar::new(bytes),
                "{bar:40} {percent}%  {msg}  {elapsed}, {eta} to go",
            ),
            None => (ProgressBar::new_spinner(), "{spinner} {msg}  {elapsed}"),
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the templates are constants"));
        Self { bar }
    }

    pub(super) fn advance(&mut self, bytes: u64, published: u64) {
        self.bar.inc(bytes);
        self.bar
            .set_message(output::counted(published, "event", "events"));
    }

    /// Writes a note without disturbing the bar.
    pub(super) fn note(&self, text: &str) {
        self.bar.suspend(|| output::note(text));
    }

    pub(super) fn finish(&self) {
        self.bar.finish();
    }
}
