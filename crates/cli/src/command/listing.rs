//! Listings. They are read from the store in pages and printed as a table, or as one JSON object per line.

use store::Store;
use webhook::OrganizationId;

use crate::output;

/// The number of rows to read at once.
const PAGE: u32 = 500;

/// An item of a listing, in a table of `N` columns.
pub(super) trait Listed<const N: usize> {
    /// The names of the columns.
    const HEADING: [&'static str; N];
    /// The position at which the next page begins.
    type Cursor: for<'a> From<&'a Self>;

    fn cells(&self) -> [String; N];
    fn json(&self) -> String;
}

/// Returns the cell for the organization that owns an endpoint or an API key. A platform key has none.
pub(super) fn organization(id: Option<&OrganizationId>) -> String {
    id.map_or_else(|| "(platform)".to_owned(), OrganizationId::to_string)
}

/// Prints at most `limit` items, or all if `limit` is `None`. `page` returns up to the given number of items
/// after a cursor. JSON is printed page by page. A table is held in memory until all rows are read, because
/// its width depends on its widest row. If there are no items, a note names the database, which may not be
/// the one that the user meant.
pub(super) async fn print<T: Listed<N>, const N: usize>(
    store: &Store,
    as_json: bool,
    limit: Option<u32>,
    page: impl AsyncFn(Option<&T::Cursor>, u32) -> Result<Vec<T>, store::Error>,
) -> anyhow::Result<()> {
    let (mut rows, mut after) = (Vec::new(), None);
    let mut left = limit.unwrap_or(u32::MAX);
    loop {
        // Requests one more than wanted, to find out whether there are more.
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
                output::note(&format!("there are more than {limit}: raise --limit to see more"));
            }
            return Ok(());
        }
    }
}
