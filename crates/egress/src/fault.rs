//! What keeps this machine from making an attempt.

use std::error::Error;
use std::io;

/// Our own trouble: it says nothing about the endpoint, and must not spend one of its attempts.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No name server answered, or none could be asked, or they answer `SERVFAIL`, and there is no evidence
    /// that they do answer about other names.
    #[error("no name server gives an answer about {host}")]
    Resolver {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// File descriptors, local ports or memory ran out, or the local firewall objects.
    #[error("this machine cannot open a connection to {host}")]
    Socket {
        /// The endpoint's host.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The routing table has no way to the address, and there is no evidence that it has one to others.
    #[error("this machine has no route to {host}")]
    NoRoute {
        /// The endpoint's host.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A header that was passed in cannot be sent.
    #[error("the header {name:?} cannot be sent: its value has characters that HTTP does not allow")]
    Header {
        /// Its name.
        name: &'static str,
    },
}
