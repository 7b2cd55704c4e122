//! Problems for the errors of publishing and sending again.

use service::{
    publish,
    resend::{self, CLAIM},
};

use super::{Kind, Problem};

impl From<publish::Error> for Problem {
    fn from(error: publish::Error) -> Self {
        Self::new(
            Kind::BrokerUnavailable,
            "The broker has not confirmed every event. Send the same request again; each event keeps its id. An event that the broker already has may be delivered twice, with the same webhook-id.",
        )
        .retry_after(error.retry_after().as_secs())
        .because(&error)
    }
}

impl From<resend::NotReady> for Problem {
    fn from(_: resend::NotReady) -> Self {
        Self::new(
            Kind::BrokerUnavailable,
            "Nothing was sent. Send the request again.",
        )
        .retry_after(5)
    }
}

/// Returns the problem for deliveries that are not known to be sent. When the claims of other processes
/// expire, these deliveries have been sent or can be claimed again.
pub(crate) fn unsent() -> Problem {
    Problem::new(
        Kind::BrokerUnavailable,
        "It is not known whether everything was sent. Send the request again: it sends what is not known to be sent. A few deliveries may be sent twice, with the same webhook-id.",
    )
    .retry_after(CLAIM.as_secs())
}

impl From<resend::Error> for Problem {
    fn from(error: resend::Error) -> Self {
        match error {
            resend::Error::Store(error) => error.into(),
            resend::Error::Publish { .. } => unsent().because(&error),
            resend::Error::Unmarked { .. } => Self::new(
                Kind::DatabaseUnavailable,
                "It could not be recorded which deliveries were sent. Send the request again: a few may be sent twice, with the same webhook-id.",
            )
            .retry_after(CLAIM.as_secs())
            .because(&error),
        }
    }
}
