//! Standard output and standard error. Results go to standard output, everything else to standard error.

mod table;

use std::{
    borrow::Cow,
    env,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
};

use anyhow::anyhow;
use clap::ValueEnum;
use console::Color;
use serde::Serialize;

pub(crate) use table::table;

/// The separator between the columns of a table. [`painted`] also splits lines at it, to find words that are
/// alone in their column.
const GAP: &str = "  ";

/// When to use colours. The values have no help text of their own, so that the help of every command needs
/// one line for this option instead of ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    Auto,
    Always,
    Never,
}

impl ColorChoice {
    /// Applies this choice to both outputs from now on.
    pub(crate) fn apply(self) {
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let may = |is_terminal| match self {
            Self::Auto => is_terminal && !is_set("NO_COLOR") && !is_dumb,
            Self::Always => true,
            Self::Never => false,
        };
        console::set_colors_enabled(may(io::stdout().is_terminal()));
        console::set_colors_enabled_stderr(may(io::stderr().is_terminal()));
    }
}

/// Returns whether text on standard error may have colours.
pub(crate) fn is_stderr_colored() -> bool {
    console::colors_enabled_stderr()
}

/// The error for a failed write to standard output.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(crate) struct Closed(#[source] pub(crate) io::Error);

/// Turns the error of a reader that has closed the pipe, such as `head`, into success. Used by commands whose
/// exit code must not depend on whether their output is read.
pub(crate) fn unless_left(written: Result<(), Closed>) -> Result<(), Closed> {
    written.or_else(|Closed(error)| match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Closed(error)),
    })
}

/// Writes one result.
pub(crate) fn line(text: &str) -> Result<(), Closed> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", painted(&screened(text), console::colors_enabled()))
        .and_then(|()| out.flush())
        .map_err(Closed)
}

/// Writes results, one per line, and flushes once.
pub(crate) fn lines(lines: impl IntoIterator<Item = String>) -> Result<(), Closed> {
    let is_colored = console::colors_enabled();
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in lines {
        writeln!(out, "{}", painted(&screened(&line), is_colored)).map_err(Closed)?;
    }
    out.flush().map_err(Closed)
}

/// Returns the value as one JSON object on one line. Characters that change a terminal's text direction are
/// escaped, as serde escapes other control characters.
pub(crate) fn json(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("our own values have text keys and no failing fields");
    if !json.contains(is_control) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for char in json.chars() {
        if is_control(char) {
            // All of these characters have code points of at most four hexadecimal digits.
            let _ = write!(escaped, "\\u{:04x}", u32::from(char));
        } else {
            escaped.push(char);
        }
    }
    escaped
}

/// Writes what was done to one object, as JSON or as text.
pub(crate) fn said(as_json: bool, value: &impl Serialize, text: &str) -> anyhow::Result<()> {
    Ok(said_line(as_json, value, text)?)
}

/// Writes a value that is shown only once, such as a new secret. If the write fails, even because the reader
/// has closed the pipe, the error begins with `lost`, which says what was done and how to get another.
pub(crate) fn said_once(as_json: bool, value: &impl Serialize, text: &str, lost: &str) -> anyhow::Result<()> {
    said_line(as_json, value, text).map_err(|Closed(error)| anyhow!("{lost} (standard output: {error})"))
}

/// Writes one of several results, as JSON or as text.
pub(crate) fn said_line(as_json: bool, value: &impl Serialize, text: &str) -> Result<(), Closed> {
    if as_json { line(&json(value)) } else { line(text) }
}

/// Writes bytes unchanged.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Closed> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Closed)
}

/// Returns text from an external source on one line. Control characters are escaped, so that they cannot move
/// a terminal's cursor or break a row.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, is_control)
}

/// Escapes control characters in the program's own output, which may have several lines and may contain
/// external text that has not been escaped yet. Keeps newlines and tabs.
fn screened(text: &str) -> Cow<'_, str> {
    escaped(text, |char| is_control(char) && !matches!(char, '\n' | '\t'))
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().map(|char| match char {
        char if is_escaped(char) => char.escape_default().to_string(),
        char => char.to_string(),
    });
    Cow::Owned(escaped.collect())
}

/// Returns whether a character is a Unicode control character, changes the direction of text, is a space
/// without width, or separates lines.
fn is_control(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{feff}'
        )
        || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

/// Returns the text, with colours if `is_colored`. Only words that name a state and that are alone in their
/// column are coloured.
fn painted(text: &str, is_colored: bool) -> Cow<'_, str> {
    // JSON objects are read by programs.
    if text.starts_with('{') || !is_colored {
        return Cow::Borrowed(text);
    }
    let column = |column: &str| {
        let word = column.trim();
        match color(word) {
            Some(color) => {
                let styled = console::style(word).fg(color).force_styling(true);
                column.replace(word, &styled.to_string())
            }
            None => column.to_owned(),
        }
    };
    // Tables that are not written to a terminal separate their columns with tabs.
    let cells = |cells: &str| joined(cells, GAP, &column);
    let line = |line: &str| joined(line, "\t", &cells);
    Cow::Owned(joined(text, "\n", &line))
}

/// Applies `part` to each part between the separators and joins the results again.
fn joined(text: &str, separator: &str, part: &dyn Fn(&str) -> String) -> String {
    text.split(separator)
        .map(part)
        .collect::<Vec<_>>()
        .join(separator)
}

fn color(word: &str) -> Option<Color> {
    match word {
        "ok" | "OK" | "delivered" | "ready" | "enabled" | "verified" => Some(Color::Green),
        "warn" | "advice" | "unknown" | "in gap" | "retry" | "deferred" | "pending" | "degraded" => {
            Some(Color::Yellow)
        }
        "fail" | "dead" | "disabled" | "WRONG" | "TROUBLE" | "NOT READY" => Some(Color::Red),
        _ => None,
    }
}

/// Returns a number with its noun, such as `1 event` and `2 events`. The nouns are `one` and `many`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Formats the names and values of one object, one pair per line.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let lines = fields
        .iter()
        .map(|(name, value)| format!("{name:13}  {}", printable(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Writes a message that is not a result to standard error.
pub(crate) fn note(text: &str) {
    // A failed write is ignored: it does not matter whether the note is read.
    let _ = writeln!(io::stderr().lock(), "{}", screened(text));
}

/// Writes a question to standard error, without a newline after it.
pub(crate) fn ask(question: &str) {
    let mut out = io::stderr().lock();
    // If the question cannot be written, it is not answered with yes.
    let _ = write!(out, "{question}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        let counted = |count| counted(count, "delivery", "deliveries");
        assert_eq!(
            [0, 1, 2].map(counted),
            ["0 deliveries", "1 delivery", "2 deliveries"]
        );
    }

    #[test]
    fn a_text_from_outside_stays_on_its_line_and_commands_no_terminal() {
        assert_eq!(printable("söoth 1"), "söoth 1");
        assert_eq!(
            printable("a\n\tb\u{1b}[2J\u{202e}c"),
            "a\\n\\tb\\u{1b}[2J\\u{202e}c"
        );
        assert_eq!(screened("a\n\tb\u{1b}\u{200f}"), "a\n\tb\\u{1b}\\u{200f}");
        let object = json(&["\u{202e}\u{7f}\u{9b}\n", "ö"]);
        assert_eq!(object, r#"["\u202e\u007f\u009b\n","ö"]"#);
        let read: Vec<String> = serde_json::from_str(&object).unwrap();
        assert_eq!(read, ["\u{202e}\u{7f}\u{9b}\n", "ö"]);
    }

    #[test]
    fn a_word_that_is_a_column_has_a_colour_and_a_word_in_a_text_or_an_object_has_none() {
        let red = |word| format!("\u{1b}[31m{word}\u{1b}[0m");
        assert_eq!(
            painted("fail  broker  it is dead\nstate          dead", true),
            format!(
                "{}  broker  it is dead\nstate          {}",
                red("fail"),
                red("dead")
            )
        );
        assert_eq!(painted(r#"{"a":"x  dead  y"}"#, true), r#"{"a":"x  dead  y"}"#);
        assert_eq!(painted("a\tdead\tb", true), format!("a\t{}\tb", red("dead")));
        assert_eq!(painted("fail  broker", false), "fail  broker");
    }
}
