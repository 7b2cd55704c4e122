//! Converts data from the database and from workers to the JSON types of [`wire`].
//!
//! Operators see everything. Customers see what [`ForCustomers`] returns, which contains no addresses or
//! settings of this network.

mod api_key;
mod delivery;
mod endpoint;
mod event;
mod ping;
mod status;
mod tail;
mod words;

use store::ChangeRow;
use webhook::OrganizationId;

pub use api_key::{api_key, api_key_with_text};
pub use delivery::{attempt, delivery, resent, run};
pub use endpoint::{behind, endpoint, endpoint_with_secret, failing, failing_endpoint, health};
pub use event::{event, history, states};
pub use ping::ping;
pub use status::{activity, status};
pub use tail::tail_line;

/// Types that customers can see.
pub trait ForCustomers {
    /// Returns what the organization that owns the value may see.
    #[must_use]
    fn for_customers(self) -> Self;
}

impl<T: ForCustomers> ForCustomers for Vec<T> {
    fn for_customers(self) -> Self {
        self.into_iter().map(T::for_customers).collect()
    }
}

impl<T: ForCustomers> ForCustomers for Option<T> {
    fn for_customers(self) -> Self {
        self.map(T::for_customers)
    }
}

/// Converts a change of an endpoint or an API key.
pub fn change(row: &ChangeRow) -> wire::Change {
    wire::Change {
        number: row.number,
        at_ms: row.at_ms,
        actor: row.actor.clone(),
        kind: row.kind.as_str().to_owned(),
        organization_id: row.organization_id.as_ref().map(OrganizationId::to_string),
        subject: row.subject.clone(),
        detail: serde_json::from_str(&row.detail).unwrap_or_default(),
    }
}

/// Returns `None` for an empty text.
fn said(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
