//! Listings of several pages, as one stream.

use std::vec;

use futures_util::{Stream, stream};
use serde::de::DeserializeOwned;
use wire::Listing;

use crate::{client::Client, error::Error, received::Received, request::Request};

/// The maximum number of empty pages that a stream reads in a row. A listing with more may have no end.
const EMPTY_PAGES_MAX: u32 = 1000;

/// Reads a listing page by page, each when it is needed.
struct Reader<T> {
    client: Client,
    /// The request for the first page, without a cursor.
    request: Request,
    /// What is left of the page that was read last.
    items: vec::IntoIter<T>,
    cursor: Option<String>,
    /// Whether the page at `cursor` is still to be read.
    is_more: bool,
    /// The number of empty pages that were read last, in a row.
    empty_pages: u32,
}

/// Returns the items of a listing, beginning with the page at `cursor`. The stream ends after the last page,
/// and after an error.
pub(crate) fn all<T: DeserializeOwned + Send + 'static>(
    client: &Client,
    request: Request,
    cursor: Option<String>,
) -> impl Stream<Item = Result<T, Error>> + Send + Unpin + use<T> {
    let reader = Reader {
        client: client.clone(),
        request,
        items: Vec::new().into_iter(),
        cursor,
        is_more: true,
        empty_pages: 0,
    };
    Box::pin(stream::try_unfold(reader, |mut reader: Reader<T>| async move {
        let item = reader.next().await;
        item.map(|item| item.map(|item| (item, reader)))
    }))
}

/// Returns one page of a listing.
pub(crate) async fn one<T: DeserializeOwned>(
    client: &Client,
    request: Request,
    cursor: Option<&str>,
) -> Result<Listing<T>, Error> {
    let (page, _) = read(client, request, cursor).await?;
    Ok(page)
}

/// Returns a page with the answer that contains it.
async fn read<T: DeserializeOwned>(
    client: &Client,
    request: Request,
    cursor: Option<&str>,
) -> Result<(Listing<T>, Received), Error> {
    let asked = request.query("cursor", cursor);
    let received = client.send(&asked).await?;
    let page: Listing<T> = received.json()?;
    // With such a page, a stream would never end.
    if cursor.is_some() && page.next_cursor.as_deref() == cursor {
        return Err(received.unreadable("its next page is the same page"));
    }
    Ok((page, received))
}

impl<T: DeserializeOwned> Reader<T> {
    async fn next(&mut self) -> Result<Option<T>, Error> {
        loop {
            if let Some(item) = self.items.next() {
                return Ok(Some(item));
            }
            if !self.is_more {
                return Ok(None);
            }
            let (page, received) = read(&self.client, self.request.clone(), self.cursor.as_deref()).await?;
            self.is_more = page.next_cursor.is_some();
            self.empty_pages = if page.data.is_empty() {
                self.empty_pages + 1
            } else {
                0
            };
            if self.is_more && self.empty_pages > EMPTY_PAGES_MAX {
                let reason = format!("the page is empty, as are the {EMPTY_PAGES_MAX} before it");
                return Err(received.unreadable(reason));
            }
            self.cursor = page.next_cursor;
            self.items = page.data.into_iter();
        }
    }
}
