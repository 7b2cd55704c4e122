//! Tables.

use std::{
    borrow::Cow,
    env,
    io::{self, IsTerminal as _},
    mem,
    ops::Range,
};

use console::{Alignment, Term, measure_text_width, pad_str, truncate_str};
use runtime::time;

use super::{Closed, GAP, lines, printable};

/// Writes a table. On a terminal, columns are aligned under a heading and no line is wider than the terminal. In
/// a pipe, columns are separated by tabs and not shortened, without a heading.
pub(crate) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Result<(), Closed> {
    let printable = |cell: &String| printable(cell).into_owned();
    let rows: Vec<_> = rows.iter().map(|row| row.each_ref().map(printable)).collect();
    if io::stdout().is_terminal() {
        let now = time::second(runtime::now_ms());
        lines(aligned(heading, &rows, terminal_width(), &now))
    } else {
        lines(rows.iter().map(|row| row.join("\t")))
    }
}

/// Returns the width of the terminal in columns; if the terminal does not know its size, the width in the
/// variable COLUMNS.
fn terminal_width() -> Option<usize> {
    let size = Term::stdout().size_checked();
    size.map(|(_, columns)| columns.into()).or_else(|| {
        let columns = env::var("COLUMNS").ok()?.parse::<usize>().ok()?;
        (columns > 0).then_some(columns)
    })
}

/// Returns the lines of a table. If a row is wider than `width_max`, times are shortened, and then rows are
/// broken into several lines, so that ids stay whole. Of a cell that is wider than a line, one in the last column has
/// several lines, and any other one is shortened.
fn aligned<const N: usize>(
    heading: [&str; N],
    rows: &[[String; N]],
    width_max: Option<usize>,
    now: &str,
) -> Vec<String> {
    let width_max = width_max.unwrap_or(usize::MAX);
    let mut table = vec![heading.map(str::to_uppercase)];
    table.extend_from_slice(rows);
    if broken(&widths(&table), width_max).len() > 1 {
        for cell in table.iter_mut().flatten() {
            *cell = short_time(cell, now);
        }
    }
    let widths = widths(&table).map(|width| width.min(width_max.saturating_sub(GAP.len())));
    let parts = broken(&widths, width_max);
    let lines = |row: &[String; N]| {
        let lines = |part: &Range<usize>| {
            let (cells, widths) = (&row[part.clone()], &widths[part.clone()]);
            match (cells, widths) {
                ([cell], [width]) if part.end == N => wrapped(cell, *width, part.start > 0),
                _ => vec![line_of(cells, widths, part.start > 0)],
            }
        };
        parts.iter().flat_map(lines).collect::<Vec<_>>()
    };
    table.iter().flat_map(lines).collect()
}

/// Returns the width of each column's widest cell.
fn widths<const N: usize>(table: &[[String; N]]) -> [usize; N] {
    std::array::from_fn(|column| {
        let cells = table.iter().map(|row| measure_text_width(&row[column]));
        cells.max().unwrap_or_default()
    })
}

/// Breaks columns of these widths into lines no wider than `width_max`. All lines but the first are indented.
fn broken(widths: &[usize], width_max: usize) -> Vec<Range<usize>> {
    let (mut parts, mut first, mut used) = (Vec::new(), 0, 0);
    for (column, width) in widths.iter().enumerate() {
        // The gap before a column, or the indentation of its line.
        let width = if column == 0 { *width } else { GAP.len() + width };
        if column > first && used + width > width_max {
            parts.push(first..column);
            (first, used) = (column, 0);
        }
        used += width;
    }
    parts.push(first..widths.len());
    parts
}

fn line_of(cells: &[String], widths: &[usize], is_indented: bool) -> String {
    let cells = cells.iter().zip(widths).map(|(cell, width)| {
        let cell = shortened(cell, *width);
        pad_str(&cell, *width, Alignment::Left, None).into_owned()
    });
    indented(&cells.collect::<Vec<_>>().join(GAP), is_indented)
}

fn indented(line: &str, is_indented: bool) -> String {
    let indentation = if is_indented { GAP } else { "" };
    format!("{indentation}{line}").trim_end().to_owned()
}

/// Breaks a text into lines of at most `width` terminal columns, at spaces and after commas if possible.
fn wrapped(text: &str, width: usize, is_indented: bool) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_inclusive([' ', ',']) {
        let with_word = measure_text_width(&line) + measure_text_width(word.trim_end());
        if with_word > width && !line.is_empty() {
            lines.push(mem::take(&mut line));
        }
        line.push_str(word);
        while measure_text_width(line.trim_end()) > width {
            // At least one character, which may be wider than the line.
            let one = line.chars().next().map_or(1, char::len_utf8);
            let rest = line.split_off(truncate_str(&line, width, "").len().max(one));
            lines.push(mem::replace(&mut line, rest));
        }
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines.iter().map(|line| indented(line, is_indented)).collect()
}

/// Shortens a time to the second, and to the time of day if it is on the day of `now`; both are in RFC 3339, in
/// UTC. Returns any other text unchanged.
fn short_time(cell: &str, now: &str) -> String {
    match (humantime::parse_rfc3339(cell), cell.get(..10), cell.get(11..19)) {
        (Ok(_), Some(date), Some(time)) if now.starts_with(date) => format!("{time}Z"),
        (Ok(_), Some(date), Some(time)) => format!("{date} {time}Z"),
        _ => cell.to_owned(),
    }
}

/// Shortens a text to `width` terminal columns. A single word, such as an id or a URL, loses its middle; any
/// other text loses its end.
fn shortened(text: &str, width: usize) -> Cow<'_, str> {
    let own = measure_text_width(text);
    if own <= width {
        return Cow::Borrowed(text);
    }
    if text.contains(' ') {
        return truncate_str(text, width, "…");
    }
    let kept = width.saturating_sub(1);
    let front = truncate_str(text, kept - kept / 2, "");
    // Takes characters from the back one at a time, because wide characters occupy two terminal columns.
    let mut back = String::new();
    for char in text.chars().rev() {
        back.insert(0, char);
        if measure_text_width(&back) > kept / 2 {
            back.remove(0);
            break;
        }
    }
    Cow::Owned(format!("{front}…{back}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-30T22:33:09Z";

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["ep_1".to_owned(), "ö".to_owned()],
            ["e".to_owned(), String::new()],
        ];
        assert_eq!(
            aligned(["id", "org"], &rows, None, NOW),
            ["ID    ORG", "ep_1  ö", "e"]
        );
    }

    #[test]
    fn a_row_that_is_too_wide_has_short_times_and_then_several_lines_with_whole_ids() {
        let rows = [
            [
                "2026-11-30T22:14:05.440Z",
                "dlv_0123456789",
                "dead",
                "the answer was 500",
            ],
            [
                "2026-11-29T22:14:05Z",
                "dlv_1",
                "pending",
                "日本語日本語日本語日本語",
            ],
        ]
        .map(|row| row.map(str::to_owned));
        let table = |width| aligned(["created", "id", "state", "why"], &rows, width, NOW);
        assert_eq!(table(Some(80)), table(None));
        assert!(table(None)[1].starts_with("2026-11-30T22:14:05.440Z  dlv_0123456789  dead"));
        assert_eq!(
            table(Some(72)),
            [
                "CREATED               ID              STATE    WHY",
                "22:14:05Z             dlv_0123456789  dead     the answer was 500",
                "2026-11-29 22:14:05Z  dlv_1           pending  日本語日本語日本語日本語",
            ]
        );
        assert_eq!(
            table(Some(22)),
            [
                "CREATED",
                "  ID",
                "  STATE",
                "  WHY",
                "22:14:05Z",
                "  dlv_0123456789",
                "  dead",
                "  the answer was 500",
                "2026-11-29 22:14:05Z",
                "  dlv_1",
                "  pending",
                "  日本語日本語日本語日",
                "  本語",
            ]
        );
        let narrow = table(Some(10));
        assert!(
            narrow.iter().all(|line| measure_text_width(line) <= 10),
            "{narrow:?}"
        );
    }

    #[test]
    fn a_last_cell_that_is_wider_than_a_line_is_whole() {
        let detail = r#"{"events":["lead.completed","lead.failed"],"url_changed":true}"#;
        let rows = [["7", detail].map(str::to_owned)];
        assert_eq!(
            aligned(["number", "detail"], &rows, Some(30), NOW),
            [
                "NUMBER",
                "  DETAIL",
                "7",
                "  {\"events\":[\"lead.completed\",",
                "  \"lead.failed\"],",
                "  \"url_changed\":true}",
            ]
        );
        assert_eq!(wrapped("a bc  def", 3, false), ["a", "bc", "def"]);
        assert_eq!(wrapped("日本", 1, false), ["日", "本"]);
        assert_eq!(wrapped("", 3, true), [""]);
    }
}
