//! The settings of the API, and its fixed limits.

use std::time::Duration;

/// The settings of one API process. The defaults are those in the documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The maximum size of a request's body, in bytes.
    pub body_bytes_max: usize,
    /// The number of requests that one key may make per second, and its maximum burst.
    pub rate_per_key: u32,
    /// The maximum number of endpoints per organization.
    pub endpoints_per_organization_max: u32,
    /// The maximum time for the headers of a request, and for which a connection may stay open without a
    /// request.
    pub idle_timeout: Duration,
    /// The maximum time for requests in flight after the shutdown has begun.
    pub shutdown_deadline: Duration,
}

/// The maximum number of requests in progress; further ones are answered with 503. One key gets at most a
/// quarter of these, and one organization half. The same holds for the four limits below; see
/// [`Shares`](crate::shares::Shares).
pub(crate) const IN_FLIGHT_MAX: usize = 1024;
/// The maximum number of requests whose bodies are arriving. Slow bodies thus leave half of the connections
/// to other requests.
pub(crate) const ARRIVING_MAX: usize = CONNECTIONS_MAX / 2;
/// The maximum size of all bodies in memory, in bytes, including those of events that wait for the broker.
const BODIES_BYTES_MAX: usize = 128 * 1024 * 1024;
/// The maximum number of pings that wait for their results, each for as long as an attempt may take.
pub(crate) const PINGS_MAX: usize = 32;
/// The maximum number of open streams of records, which need a connection each but no place among the requests in
/// progress.
pub(crate) const STREAMS_MAX: usize = 1_000;
/// The maximum number of programs that are connected to relays, with a connection each.
pub(crate) const RELAYS_MAX: usize = 1_024;
/// The maximum size of a message from a program that is connected to a relay, in bytes.
pub(crate) const RELAY_MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// The maximum number of open connections. A further one replaces the oldest one without a request, or else
/// the one that has waited longest.
pub(crate) const CONNECTIONS_MAX: usize = 4096;
/// The maximum time for the body of a request to arrive.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum duration of a request. It is longer than the timeouts of the store and the broker.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);

impl Config {
    /// Returns the maximum size of all bodies in memory, in bytes. It is [`BODIES_BYTES_MAX`], or more if the
    /// maximum size of a single body would not fit into one key's quarter of it.
    pub(crate) fn bodies_bytes_max(&self) -> usize {
        BODIES_BYTES_MAX.max(4 * self.body_bytes_max)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            body_bytes_max: 1024 * 1024,
            rate_per_key: 5_000,
            endpoints_per_organization_max: 1_000,
            // Longer than proxies keep idle connections (usually 60 s), so that no proxy sends a request on a
            // connection that is being closed.
            idle_timeout: Duration::from_secs(75),
            shutdown_deadline: Duration::from_secs(25),
        }
    }
}
