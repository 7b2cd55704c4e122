//! What can be set of the API, and the bounds that cannot.

use std::time::Duration;

/// The settings of one API process. The defaults are those of the documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The largest body of a request, in bytes.
    pub body_bytes_max: usize,
    /// How many requests one key may make a second, and at once.
    pub rate_per_key: u32,
    /// How many endpoints an organization may have.
    pub endpoints_per_organization_max: u32,
    /// How long the headers of a request may take, and a connection stay open without one.
    pub idle_timeout: Duration,
    /// How long requests in flight may go on after the shutdown began.
    pub shutdown_deadline: Duration,
}

/// The most requests that are worked on at once; further ones are answered with 503. One key gets at most a
/// quarter of these, and one organization half, as of the three limits below: see
/// [`Shares`](crate::shares::Shares).
pub(crate) const IN_FLIGHT_MAX: usize = 1024;
/// The most requests whose bodies are arriving. Slow bodies leave half of the connections to other requests.
pub(crate) const ARRIVING_MAX: usize = CONNECTIONS_MAX / 2;
/// The most bytes of bodies in memory, including those of events that wait for the broker.
const BODIES_BYTES_MAX: usize = 128 * 1024 * 1024;
/// The most pings that wait for their answers, each for as long as an attempt may take.
pub(crate) const PINGS_MAX: usize = 32;
/// The most open connections; a further one takes the place of one that sends nothing.
pub(crate) const CONNECTIONS_MAX: usize = 4096;
/// How long the body of a request may take to arrive.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may take in all. Longer than what the store and the broker are given.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);

impl Config {
    /// The most bytes of bodies in memory: [`BODIES_BYTES_MAX`], or more where a body may be so large that
    /// one key's quarter could not hold it.
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
            // Longer than proxies keep connections idle (60 s in most), so that none sends a request on one
            // that is being closed.
            idle_timeout: Duration::from_secs(75),
            shutdown_deadline: Duration::from_secs(25),
        }
    }
}
