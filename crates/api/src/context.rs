//! What every request shares.

use std::{ops::Deref, sync::Arc};

use axum::body::Bytes;
use egress::Egress;
use store::Store;

use crate::{
    Config, auth::Operations, keys::Keys, publishing::Publishing, resending::Resending, shares::Shares,
};

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) config: Config,
    /// For reading. Who writes takes [`Caller::store`](crate::auth::Caller::store).
    pub(crate) store: Store,
    pub(crate) egress: Egress,
    pub(crate) publishing: Publishing,
    pub(crate) resending: Resending,
    pub(crate) keys: Keys,
    pub(crate) operations: Operations,
    /// The OpenAPI document.
    pub(crate) document: Bytes,
    /// A unit for each request whose body is arriving.
    pub(crate) arriving: Shares,
    /// A unit for each byte of a body in memory.
    pub(crate) body_bytes: Shares,
    /// A unit for each request that is worked on.
    pub(crate) slots: Shares,
    /// A unit for each ping that waits for its answer.
    pub(crate) pings: Shares,
}

impl Context {
    pub(crate) fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }
}

impl Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
