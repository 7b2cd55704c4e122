//! The HTTP client for webhook deliveries. It is the only code that opens connections to addresses that
//! customers choose.
//!
//! The worker calls [`Egress::post`] for every attempt. The API calls [`Egress::check_endpoint`] before it
//! stores an endpoint. `magnetite check` inspects the network path with [`Egress::probe`] and responses with
//! [`Egress::ask`]. All of them apply one [`Policy`]: only public addresses, and the networks that the
//! operator allowed. A process has one HTTP client, so that connections are kept alive between attempts.
//!
//! ```text
//! post -> policy: scheme, user info, host, IP literal        (the URL's text)
//!      -> resolver: hosts file, cache, name servers -> policy (every address)
//!      -> connect, only to addresses that passed -> TLS -> request -> status, headers, 16 KiB of body
//! ```
//!
//! Two kinds of failure are never mixed. A failure of the endpoint, including a missing response, is an
//! [`AttemptResult`](webhook::AttemptResult) and spends an attempt. A failure of this machine or its name
//! servers is a [`Fault`] and spends no attempt. Where the two look alike, the module `evidence` decides
//! whether the endpoint has failed.
//!
//! Invariants:
//! - No socket is opened to an address that [`Policy::check_addr`] has not accepted. IP literals are never
//!   passed to a resolver, so they are checked in the parsed URL. Names are checked after they are resolved,
//!   and the connection is made to the checked addresses, so changing a name's addresses in between has no
//!   effect.
//! - The client follows no redirects, uses no proxy whatever the environment says, and sends nothing twice.
//! - One deadline covers everything from the lookup to the last byte of the body.
//! - The cost of a response is bounded: 16 KiB of body, about 400 KiB and 100 fields of HTTP/1 headers, 16
//!   KiB of HTTP/2 headers. Larger headers are a protocol failure. Bytes before and between responses are
//!   bounded by the connection's meter: 2 MiB, 100 interim responses of HTTP/1, 4,096 frames of HTTP/2.
//!   Exceeding that is a flood.
//! - No text created here contains a URL's path or query, because they are the customer's secrets.
//!
//! Only handshakes leave something behind: the expiry of each host's certificate ([`Certificates`]), for
//! warnings about certificates that expire soon.
//!
//! No state survives a crash, and none has to: pooled connections, TLS sessions and resolved names are only
//! caches.
//!
//! Deliberately absent: retries (done by the retry schedule), signing, limits per endpoint (done by
//! admission; the worker's slots bound the number of connections and lookups), compression, cookies, client
//! certificates, certificate revocation. `/etc/hosts`, `/etc/resolv.conf` and the root certificates are read
//! only at the start.

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
pub use probe::{Handshake, NetworkPath};
pub use tls::NOT_TLS;
