//! Hosts that offer HTTP/2 and then require HTTP/1.1 (RFC 9113 section 7). These are servers that require
//! authentication by certificate or by NTLM.

use std::collections::HashSet;
use std::error::Error;
use std::iter::successors;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hyper::Uri;
use hyper::http::uri::Authority;

/// The maximum number of hosts that are remembered. Beyond it, all of them are forgotten and learned again.
const HOSTS_MAX: usize = 1024;

/// The error of a host that requires HTTP/1.1, received over HTTP/2.
#[derive(Debug, thiserror::Error)]
#[error(
    "requires HTTP/1.1, although it offers HTTP/2 (HTTP_1_1_REQUIRED): from the next attempt on, HTTP/1.1 is used"
)]
pub(crate) struct RequiresHttp1;

impl RequiresHttp1 {
    pub(crate) fn is_cause_of(error: &(dyn Error + 'static)) -> bool {
        let mut causes = successors(Some(error), |&error| error.source());
        causes.any(|cause| {
            let error = cause.downcast_ref::<h2::Error>();
            error.and_then(h2::Error::reason) == Some(h2::Reason::HTTP_1_1_REQUIRED)
        })
    }
}

/// The hosts that require HTTP/1.1, remembered for the lifetime of the process. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Http1Hosts(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whether there are any hosts. It is almost always `false`, and then no lookup is necessary.
    any: AtomicBool,
    hosts: RwLock<HashSet<Authority>>,
}

impl Http1Hosts {
    pub(crate) fn contains(&self, uri: &Uri) -> bool {
        self.0.any.load(Ordering::Relaxed)
            && uri.authority().is_some_and(|authority| {
                let hosts = self.0.hosts.read().unwrap_or_else(PoisonError::into_inner);
                hosts.contains(authority)
            })
    }

    pub(crate) fn add(&self, uri: &Uri) {
        let Some(authority) = uri.authority() else {
            return;
        };
        let mut known = self.0.hosts.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= HOSTS_MAX && !known.contains(authority) {
            known.clear();
        }
        known.insert(authority.clone());
        self.0.any.store(true, Ordering::Relaxed);
    }
}
