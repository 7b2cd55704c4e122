//! The log of changes.

use futures_util::Stream;
use wire::{Change, Listing};

use crate::{client::Client, error::Error, operation::Operation, pages, request::Request};

/// Which changes of endpoints and API keys to list, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListChanges {
    /// The maximum number of changes on a page, from 1 to 100; `None` for 20.
    pub limit: Option<u32>,
    /// The `next_cursor` of the previous page; `None` for the first page.
    pub cursor: Option<String>,
}

/// The log of changes, which needs a key with the scope `admin`.
impl Client {
    /// Returns a page of changes.
    ///
    /// # Errors
    /// Returns an error if the API refuses the request, or is not reached.
    pub async fn list_changes(&self, which: &ListChanges) -> Result<Listing<Change>, Error> {
        pages::one(self, which.request(), which.cursor.as_deref()).await
    }

    /// Returns all changes from the page at `cursor` on. The pages are read when they are needed.
    pub fn all_changes(
        &self,
        which: ListChanges,
    ) -> impl Stream<Item = Result<Change, Error>> + Send + Unpin + use<> {
        pages::all(self, which.request(), which.cursor)
    }
}

impl ListChanges {
    fn request(&self) -> Request {
        Request::new(Operation::LIST_CHANGES).query("limit", self.limit)
    }
}
