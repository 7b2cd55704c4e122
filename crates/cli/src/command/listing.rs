//! Listings: read from the store in pages, printed as a table or as one JSON object a line.

use store::Store;

use crate::output;

/// How many rows are read at once.
const PAGE: u32 = 500;

/// Something that is listed, in a table of `N` columns.
pub(super) trait Listed<const N: usize> {
    /// The names of the columns.
    const HEADING: [&'static str; N];
    /// Where the next page begins.
    type Cursor: for<'a> From<&'a Self>;

    fn cells(&self) -> [String; N];
    fn json(&self) -> String;
}

/// Prints at most `limit` of what `page` returns when it is asked for so many after a row; without a limit
/// all. JSON is printed page by page. A table is as wide as its widest row, so it is held until all are
/// there. Where there is nothing, the note names the database, which may be another than was meant.
pub(super) async fn print<T: Listed<N>, const N: usize>(
    store: &Store,
    as_json: bool,
    limit: Option<u32>,
    page: impl AsyncFn(Option<&T::Cursor>, u32) -> Result<Vec<T>, store::Error>,
) -> anyhow::Result<()> {
    let (mut rows, mut after) = (Vec::new(), None);
    let mut left = limit.unwrap_or(u32::MAX);
    loop {
        // One more than is wanted tells whether there are more.
        let wanted = left.min(PAGE);
        let mut found = page(after.as_ref(), wanted.saturating_add(1)).await?;
        let has_more = found.len() > wanted as usize;
        found.truncate(wanted as usize);
        left -= found.len() as u32;
        after = found.last().map(T::Cursor::from);
        if as_json {
            output::lines(found.iter().map(T::json))?;
        } else {
            rows.extend(found.iter().map(T::cells));
        }
        if !has_more || left == 0 {
            if !as_json && rows.is_empty() {
                output::note(&format!("none in {}", store.address()));
            } else if !as_json {
                output::table(T::HEADING, &rows)?;
            }
            if let (true, Some(limit)) = (has_more, limit) {
                output::note(&format!(
                    "there are more than {limit}: --limit shows more of them"
                ));
            }
            return Ok(());
        }
    }
}
