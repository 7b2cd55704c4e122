//! The state that all requests share.

use std::{ops::Deref, sync::Arc};

use axum::body::Bytes;
use egress::Egress;
use service::{publish::Publishing, resend::Resending};
use store::{Actor, Store};

use crate::{
    Config, caller::Caller, key_cache::KeyCache, operations::Operations, relays::Relays, shares::Shares,
    streams::Streams,
};

/// The shared state. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) config: Config,
    /// The store for reading. For writes, use [`Context::store_for`].
    pub(crate) store: Store,
    pub(crate) egress: Egress,
    pub(crate) publishing: Publishing,
    pub(crate) resending: Resending,
    pub(crate) keys: KeyCache,
    pub(crate) operations: Operations,
    /// The OpenAPI document.
    pub(crate) document: Bytes,
    /// One unit for each request whose body is arriving.
    pub(crate) arriving: Shares,
    /// One unit for each byte of a body in memory.
    pub(crate) body_bytes: Shares,
    /// One unit for each request in progress.
    pub(crate) slots: Shares,
    /// One unit for each ping that waits for its result.
    pub(crate) pings: Shares,
    pub(crate) streams: Arc<Streams>,
    pub(crate) relays: Arc<Relays>,
}

impl Context {
    pub(crate) fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    /// Returns the store for writing, which records changes as made by the caller's key.
    pub(crate) fn store_for(&self, caller: &Caller) -> Store {
        self.store.acting_as(Actor::ApiKey(caller.key.id.clone()))
    }
}

impl Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
