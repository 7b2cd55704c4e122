//! Standard output and error: results to the one, everything else to the other.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
};

use serde::Serialize;

/// Standard output takes nothing any more.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(crate) struct Closed(#[source] pub(crate) io::Error);

/// Writes one result.
pub(crate) fn line(text: &str) -> Result<(), Closed> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Closed)
}

/// Writes results, one a line, with one flush.
pub(crate) fn lines(lines: impl IntoIterator<Item = String>) -> Result<(), Closed> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in lines {
        writeln!(out, "{line}").map_err(Closed)?;
    }
    out.flush().map_err(Closed)
}

/// One object on one line.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("our own values have text keys and no failing fields")
}

/// Tells the person at the terminal or in the log something that is no result.
pub(crate) fn note(text: &str) {
    // Whether anyone reads it is not our business.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Rows for people: aligned and under a heading on a terminal, tab-separated without one in a pipe.
pub(crate) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Result<(), Closed> {
    if io::stdout().is_terminal() {
        lines(aligned(heading, rows))
    } else {
        lines(rows.iter().map(|row| row.join("\t")))
    }
}

fn aligned<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let chars = |text: &str| text.chars().count();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| chars(&row[column]));
        cells.chain([chars(heading[column])]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |cells: &[String; N]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        line.trim_end().to_owned()
    };
    let heading = line(&heading.map(str::to_uppercase));
    std::iter::once(heading).chain(rows.iter().map(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["ep_1".to_owned(), "ö".to_owned()],
            ["e".to_owned(), String::new()],
        ];
        assert_eq!(aligned(["id", "org"], &rows), ["ID    ORG", "ep_1  ö", "e"]);
    }
}
