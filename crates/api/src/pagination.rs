//! Pagination of listings.
//!
//! A client requests a page with `limit` and, for each page after the first, with the `cursor` that the
//! previous page returned. A cursor is a position in the listing, not a number of items, so items that are
//! added or removed in the meantime cause no other item to be repeated or skipped. Clients should treat
//! cursors as opaque, but security does not depend on that: a listing contains only the objects of the
//! organization that the request is for, whatever the cursor contains.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use service::cursor;
use utoipa::IntoParams;
use wire::Listing;

use crate::problem::Problem;

const LIMIT_MAX: u32 = 100;
const LIMIT_DEFAULT: u32 = 20;

/// The requested page.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// The maximum number of items on the page.
    #[param(minimum = 1, maximum = 100, default = 20, example = 20, nullable = false)]
    limit: Option<u32>,
    /// `next_cursor` of the previous page; omit it for the first page.
    #[param(max_length = 2304, nullable = false)]
    cursor: Option<String>,
}

impl Page {
    /// Creates a page, for listings with further parameters. The structs of parameters cannot be flattened
    /// into each other.
    pub(crate) fn new(limit: Option<u32>, cursor: Option<String>) -> Self {
        Self { limit, cursor }
    }

    /// Returns the limit, which is from 1 to 100.
    pub(crate) fn limit(&self) -> Result<u32, Problem> {
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if (1..=LIMIT_MAX).contains(&limit) {
            Ok(limit)
        } else {
            Err(Problem::parameter(
                "limit",
                format!("expected an integer from 1 to {LIMIT_MAX}"),
            ))
        }
    }

    /// Returns the position after which the page begins; `None` for the first page.
    pub(crate) fn after<C: DeserializeOwned>(&self) -> Result<Option<C>, Problem> {
        let Some(text) = self.cursor.as_deref() else {
            return Ok(None);
        };
        cursor::decode(text).map(Some).ok_or_else(|| {
            Problem::parameter(
                "cursor",
                "expected the next_cursor of the previous page, unchanged",
            )
        })
    }
}

/// Creates a page from up to `limit` + 1 rows. The additional row shows that this is not the last page.
/// `place` returns the position of a row, which becomes the cursor if the row is the last one on the page.
pub(crate) fn listing<R, C: Serialize, T>(
    mut rows: Vec<R>,
    limit: u32,
    place: impl FnOnce(&R) -> C,
    show: impl FnMut(R) -> T,
) -> Listing<T> {
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let last = rows.last().filter(|_| more);
    let next_cursor = last.map(|last| cursor::encode(&place(last)));
    Listing {
        data: rows.into_iter().map(show).collect(),
        next_cursor,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(limit: u32, cursor: Option<String>) -> Page {
        Page {
            limit: Some(limit),
            cursor,
        }
    }

    proptest! {
        #[test]
        fn pages_together_are_the_listing(ids in proptest::collection::btree_set("[a-z\"\\\\é]{1,9}", 0..40), limit in 1_u32..10) {
            let all: Vec<String> = ids.into_iter().collect();
            let (mut read, mut cursor) = (Vec::new(), None);
            loop {
                let asked = page(limit, cursor.take());
                let after: Option<String> = asked.after().unwrap();
                let rows = all.iter().filter(|id| after.as_ref().is_none_or(|after| *id > after));
                let rows: Vec<_> = rows.take(limit as usize + 1).cloned().collect();
                let listing = listing(rows, limit, String::clone, |id| id);
                prop_assert!(listing.data.len() <= limit as usize);
                read.extend(listing.data);
                match listing.next_cursor {
                    Some(next) => cursor = Some(next),
                    None => break,
                }
            }
            prop_assert_eq!(read, all);
        }

        #[test]
        fn what_is_no_cursor_is_refused(text in ".{0,4000}") {
            prop_assert!(page(1, Some(text)).after::<(String, u64)>().is_err());
        }
    }

    #[test]
    fn the_longest_position_fits_into_a_cursor() {
        let longest = (u64::MAX, "x".repeat(128), "\u{1}".repeat(255));
        let listing = listing(vec![1, 2], 1, |_| longest.clone(), |row| row);
        let next = page(1, listing.next_cursor).after::<(u64, String, String)>();
        assert_eq!(next.unwrap(), Some(longest));
    }

    #[test]
    fn a_page_has_1_to_100_things() {
        assert_eq!(Page::default().limit().unwrap(), 20);
        for limit in [1, 100] {
            assert_eq!(page(limit, None).limit().unwrap(), limit);
        }
        for limit in [0, 101] {
            assert!(page(limit, None).limit().is_err());
        }
    }
}
