//! Failures of this machine that prevent an attempt.

use std::error::Error;
use std::io;

/// A failure of our own. It says nothing about the endpoint, and must not spend one of the endpoint's
/// attempts.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No name server answered, none could be asked, or they answer `SERVFAIL`, and there is no evidence that
    /// they answer queries for other names.
    #[error("no name server gave an answer for {host}")]
    Resolver {
        /// The name that was looked up.
        host: String,
        /// The error of the lookup.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// File descriptors, local ports or memory ran out, or the local firewall refuses the connection.
    #[error("this machine cannot open a connection to {host}")]
    Socket {
        /// The endpoint's host.
        host: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The routing table has no route to the address, and there is no evidence that it has routes to other
    /// addresses.
    #[error("this machine has no route to {host}")]
    NoRoute {
        /// The endpoint's host.
        host: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A header that the caller passed cannot be sent.
    #[error("the header {name:?} cannot be sent: its value has characters that HTTP does not allow")]
    Header {
        /// The header's name.
        name: &'static str,
    },
}
