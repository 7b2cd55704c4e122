//! The pages of a listing, which come from the database or from the HTTP API.

use anyhow::Error;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, LocalBoxStream, Stream, TryReadyChunksError},
};

use crate::remote::told;

/// The pages of a listing. Each is read when it is needed.
pub(crate) type Pages<'a, T> = LocalBoxStream<'a, Result<Vec<T>, Error>>;

/// The maximum number of rows to read from the database at once.
const ROWS_MAX: u32 = 500;
/// The maximum number of items on a page of the API.
const ITEMS_MAX: u32 = 100;

/// Reads a listing from the database.
struct Reader<P, R, C, T> {
    read: P,
    place: fn(&R) -> C,
    show: fn(R) -> T,
    /// The number of rows to read at once.
    rows: u32,
    /// The position of the last row; `None` at the beginning.
    after: Option<C>,
    is_more: bool,
}

/// Returns the pages of a listing in the database. `read` returns up to the given number of rows after a
/// position, `place` the position of a row, and `show` the item for a row. `wanted` is the number of items that
/// the caller will use, or `None` for all.
pub(crate) fn of_rows<'a, R: 'a, C: 'a, T: 'a>(
    wanted: Option<u32>,
    read: impl AsyncFn(Option<&C>, u32) -> Result<Vec<R>, store::Error> + 'a,
    place: fn(&R) -> C,
    show: fn(R) -> T,
) -> Pages<'a, T> {
    let reader = Reader {
        read,
        place,
        show,
        rows: page_size(wanted, ROWS_MAX),
        after: None,
        is_more: true,
    };
    stream::try_unfold(reader, |mut reader: Reader<_, R, C, T>| async move {
        let page = reader.next().await;
        page.map(|page| page.map(|page| (page, reader)))
    })
    .boxed_local()
}

/// Returns the pages of a listing of the API. `list` begins to read the listing, with the given number of items
/// on a page. `wanted` is as for [`of_rows`].
pub(crate) fn of_api<'a, T: 'a, S: Stream<Item = Result<T, client::Error>> + 'a>(
    wanted: Option<u32>,
    list: impl FnOnce(u32) -> S,
) -> Pages<'a, T> {
    let items = page_size(wanted, ITEMS_MAX);
    // The items of one page are ready together, so that each chunk is a page.
    list(items)
        .try_ready_chunks(items as usize)
        .map_err(|TryReadyChunksError(_, error)| told(error))
        .boxed_local()
}

/// Returns the number of items to read at once: one more than wanted, to find out whether there are more.
fn page_size(wanted: Option<u32>, max: u32) -> u32 {
    wanted.map_or(max, |wanted| wanted.saturating_add(1).min(max))
}

impl<P, R, C, T> Reader<P, R, C, T>
where
    P: AsyncFn(Option<&C>, u32) -> Result<Vec<R>, store::Error>,
{
    /// Returns the next page; `None` after the last one.
    async fn next(&mut self) -> Result<Option<Vec<T>>, Error> {
        if !self.is_more {
            return Ok(None);
        }
        let found = (self.read)(self.after.as_ref(), self.rows).await?;
        self.is_more = found.len() >= self.rows as usize;
        self.after = found.last().map(self.place);
        Ok(Some(found.into_iter().map(self.show).collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn rows_are_read_page_by_page_up_to_the_last() {
        let asked = RefCell::new(Vec::new());
        let read = async |after: Option<&u32>, rows: u32| {
            asked.borrow_mut().push((after.copied(), rows));
            let from = after.map_or(0, |after| after + 1);
            Ok::<_, store::Error>((from..7).take(rows as usize).collect::<Vec<u32>>())
        };
        let pages = of_rows(Some(2), read, |row| *row, |row: u32| row.to_string());
        let pages: Vec<Vec<String>> = pages.try_collect().await.unwrap();
        assert_eq!(pages.concat().concat(), "0123456");
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
        assert_eq!(*asked.borrow(), [(None, 3), (Some(2), 3), (Some(5), 3)]);
    }

    #[tokio::test]
    async fn what_is_ready_together_is_a_page_of_the_api() {
        let pages = of_api(Some(2), |items| {
            assert_eq!(items, 3);
            stream::iter((0..7).map(Ok))
        });
        let pages: Vec<Vec<u32>> = pages.try_collect().await.unwrap();
        assert_eq!(pages, [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
    }

    #[test]
    fn one_more_than_wanted_is_read_within_bounds() {
        for (wanted, size) in [(None, 100), (Some(1), 2), (Some(100), 100), (Some(u32::MAX), 100)] {
            assert_eq!(page_size(wanted, 100), size);
        }
    }
}
