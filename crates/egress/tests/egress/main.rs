//! Tests with real sockets on the loopback network, which the tests' policy allows.

mod support;

mod certificates;
mod expiry;
mod floods;
mod names;
mod sockets;
mod urls;
