//! A progress bar, for a user at a terminal.

use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// A bar on standard error if that is a terminal; otherwise hidden.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(crate) fn start() -> Self {
        if !io::stderr().is_terminal() {
            return Self {
                bar: ProgressBar::hidden(),
            };
        }
        let template = "{bar:40} {pos} of {len} sent  {elapsed}, {eta} to go";
        let style = ProgressStyle::with_template(template).expect("the template is a constant");
        Self {
            bar: ProgressBar::new(0).with_style(style),
        }
    }

    pub(crate) fn expect(&self, more: u64) {
        self.bar.inc_length(more);
    }

    pub(crate) fn advance(&self, sent: u64) {
        self.bar.inc(sent);
    }

    /// Writes a note without disturbing the bar.
    pub(crate) fn note(&self, text: &str) {
        self.bar.suspend(|| output::note(text));
    }

    pub(crate) fn finish(&self) {
        self.bar.finish();
    }
}
