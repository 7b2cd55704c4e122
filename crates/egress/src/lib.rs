//! The way out: the only code that opens connections to addresses that customers choose.
//!
//! The worker calls [`Egress::post`] for every attempt; the API calls [`Egress::check_endpoint`] before it
//! stores an endpoint; `magnetite check` looks at the way with [`Egress::probe`] and at answers with
//! [`Egress::ask`]. All go through one [`Policy`]: nothing but public addresses, and the networks that the
//! operator allowed. There is one HTTP client in a process, so that connections are kept alive between
//! attempts.
//!
//! ```text
//! post -> policy: scheme, user info, host, IP literal        (the URL's text)
//!      -> resolver: hosts file, cache, name servers -> policy (every address)
//!      -> connect, only to what passed -> TLS -> request -> status, headers, 16 KiB of body
//! ```
//!
//! Two kinds of trouble, never mixed: what the endpoint did is an [`AttemptResult`](webhook::AttemptResult),
//! also when it did nothing at all, and spends an attempt; what this machine or its name servers did is a
//! [`Fault`], and spends none. Where the two look alike, the module `evidence` says when it is the
//! endpoint's.
//!
//! Invariants:
//! - No socket is opened to an address that [`Policy::check_addr`] has not passed. IP literals never reach a
//!   resolver, so they are judged from the parsed URL; names are judged after they were resolved, and the
//!   connection is made to the judged addresses, so a name that changes its mind in between gains nothing.
//! - No redirect is followed, no proxy is used whatever the environment says, nothing is sent twice by the
//!   client.
//! - One deadline covers everything from the lookup to the last byte of the body.
//! - What a response can cost is bounded: 16 KiB of body, about 400 KiB and 100 fields of HTTP/1 headers, 16
//!   KiB of HTTP/2 headers. More is a protocol failure. What comes before and between is bounded by the
//!   connection's meter: 2 MiB, 100 interim responses of HTTP/1, 4,096 frames of HTTP/2. More is a flood.
//! - No text made here holds a URL's path or query: they are the customer's secrets.
//!
//! Handshakes, and they alone, leave behind until when a host's certificate is valid ([`Certificates`]), for
//! whoever warns.
//!
//! Nothing here survives a crash, and nothing has to: pooled connections, TLS sessions and resolved names are
//! only caches.
//!
//! Deliberately absent: retries (the schedule's job), signing, limits per endpoint (admission's job: the
//! number of connections and lookups is bounded by the worker's slots), compression, cookies, client
//! certificates, certificate revocation. `/etc/hosts`, `/etc/resolv.conf` and the root certificates are read
//! once, at the start.

mod address;
mod policy;
mod config;
mod fault;
mod meter;
mod progress;
mod metered;
mod lookup;
mod evidence;
mod http1;
mod resolver;
mod certificates;
mod tls;
mod classify;
mod answer;
mod client;
mod probe;

pub use address::Class;
pub use certificates::{Certificate, Certificates, EXPIRES_SOON, tls_host};
pub use client::{Egress, Reply, Target, USER_AGENT};
pub use config::{Config, SetupError};
pub use fault::Fault;
pub use policy::{NOT_PUBLIC, Policy, Refusal, URL_BYTES_MAX};
pub use probe::{Handshake, Way};
