//! What every request shares.

use std::{ops::Deref, sync::Arc};

use axum::body::Bytes;
use egress::Egress;
use store::{Actor, Store};

use crate::{
    Config, caller::Caller, keys::Keys, operations::Operations, publishing::Publishing, resending::Resending,
    shares::Shares,
};

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) config: Config,
    /// For reading. Writes take [`Context::store_for`].
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

    /// The database, which logs the caller's changes as the caller's.
    pub(crate) fn store_for(&self, caller: &Caller) -> Store {
        self.store.acting_as(Actor::ApiKey(caller.key.clone()))
    }
}

impl Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
