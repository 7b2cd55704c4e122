//! A program that connects to a relay.

use std::sync::Arc;

use runtime::serve::Answering;
use webhook::{ApiKeyId, EndpointId};

use crate::shares::Share;

/// A program that connects to a relay.
pub(crate) struct Program {
    pub(crate) endpoint_id: EndpointId,
    /// The key that has opened the relay.
    pub(crate) key_id: ApiKeyId,
    /// The connection that is upgraded; `None` if the request came over none, as in tests.
    pub(crate) answering: Option<Arc<Answering>>,
    /// The program's place among the connected ones.
    pub(crate) _place: Share,
}
