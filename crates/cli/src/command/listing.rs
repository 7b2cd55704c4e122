//! Listings. They are printed as a table, or as one JSON object per line.

use futures_util::TryStreamExt as _;

use crate::{output, pages::Pages};

/// An item of a listing, in a table of `N` columns.
pub(super) trait Listed<const N: usize> {
    /// The names of the columns.
    const HEADING: [&'static str; N];

    fn cells(&self) -> [String; N];
    fn json(&self) -> String;
}

/// Returns the cell for the organization that owns an endpoint or an API key. A platform key has none.
pub(super) fn organization(id: Option<&str>) -> String {
    id.unwrap_or("(platform)").to_owned()
}

/// Prints at most `limit` items, or all if `limit` is `None`. JSON is printed page by page. A table is held in
/// memory until all rows are read, because its width depends on its widest row. If there are no items, a note
/// names `place`, where they were looked for and which may not be the one that the user meant.
pub(super) async fn print<T: Listed<N>, const N: usize>(
    mut pages: Pages<'_, T>,
    place: &str,
    as_json: bool,
    limit: Option<u32>,
) -> anyhow::Result<()> {
    let (mut rows, mut has_more) = (Vec::new(), false);
    let mut left = limit.map_or(usize::MAX, |limit| limit as usize);
    while !has_more && let Some(mut found) = pages.try_next().await? {
        has_more = found.len() > left;
        found.truncate(left);
        left -= found.len();
        if as_json {
            output::lines(found.iter().map(T::json))?;
        } else {
            rows.extend(found.iter().map(T::cells));
        }
    }
    if !as_json && rows.is_empty() {
        output::note(&format!("none in {place}"));
    } else if !as_json {
        output::table(T::HEADING, &rows)?;
    }
    if let (true, Some(limit)) = (has_more, limit) {
        output::note(&format!("there are more than {limit}: raise --limit to see more"));
    }
    Ok(())
}
