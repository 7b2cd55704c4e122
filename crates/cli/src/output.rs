//! Standard output and error: results to the one, everything else to the other.

use std::{
    borrow::Cow,
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

/// Writes what was done to one thing: as an object or in words.
pub(crate) fn said(as_json: bool, value: &impl Serialize, text: &str) -> anyhow::Result<()> {
    Ok(said_line(as_json, value, text)?)
}

/// Writes one of several things that were found: as an object or in words.
pub(crate) fn said_line(as_json: bool, value: &impl Serialize, text: &str) -> Result<(), Closed> {
    if as_json { line(&json(value)) } else { line(text) }
}

/// Writes bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Closed> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Closed)
}

/// A text from outside, on one line: control characters are escaped, lest they move a terminal's cursor or break a row.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().map(|char| match char {
        char if is_control(char) => char.escape_default().to_string(),
        char => char.to_string(),
    });
    Cow::Owned(escaped.collect())
}

/// Those that Unicode calls so, and those that turn the direction of what follows.
fn is_control(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Names and values of one thing, one a line.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let lines = fields
        .iter()
        .map(|(name, value)| format!("{name:13}  {}", printable(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Tells the person at the terminal or in the log something that is no result.
pub(crate) fn note(text: &str) {
    // Whether anyone reads it is not our business.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a question, without a newline after it.
pub(crate) fn ask(question: &str) {
    let mut out = io::stderr().lock();
    // A question that cannot be written is not answered with yes.
    let _ = write!(out, "{question}").and_then(|()| out.flush());
}

/// Rows for people: aligned and under a heading on a terminal, tab-separated without one in a pipe.
pub(crate) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Result<(), Closed> {
    let printable = |cell: &String| printable(cell).into_owned();
    let rows: Vec<_> = rows.iter().map(|row| row.each_ref().map(printable)).collect();
    if io::stdout().is_terminal() {
        lines(aligned(heading, &rows))
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

    #[test]
    fn a_text_from_outside_stays_on_its_line_and_commands_no_terminal() {
        assert_eq!(printable("söoth 1"), "söoth 1");
        assert_eq!(
            printable("a\n\tb\u{1b}[2J\u{202e}c"),
            "a\\n\\tb\\u{1b}[2J\\u{202e}c"
        );
    }
}
