//! The ways in which a relay fails to answer.

use webhook::{AttemptResult, Failure, FailureKind, Phase};

/// A way in which a relay fails to answer.
pub(super) type Cause = (Phase, FailureKind, &'static str);

pub(super) const NOT_CONNECTED: Cause = (
    Phase::Connect,
    FailureKind::ConnectionRefused,
    "the program that receives the events over the API is not connected",
);
pub(super) const TOO_MANY: Cause = (
    Phase::Connect,
    FailureKind::ConnectionRefused,
    "the program that receives the events over the API does not keep up: too many requests wait for it",
);
pub(super) const CLOSED: Cause = (
    Phase::Response,
    FailureKind::ConnectionReset,
    "the program that receives the events over the API closed the connection without an answer",
);
pub(super) const CUT_SHORT: Cause = (
    Phase::Response,
    FailureKind::CutShort,
    "the program that receives the events over the API has not answered; the attempt was ended early because its \
     organization had the most slow attempts in flight",
);
pub(super) const NO_ANSWER: Cause = (
    Phase::Response,
    FailureKind::Timeout,
    "the program that receives the events over the API did not answer in time",
);

/// Returns the result of an attempt that failed in this way.
pub(super) fn failed((phase, kind, detail): Cause) -> AttemptResult {
    AttemptResult::Failed(Failure {
        phase,
        kind,
        detail: detail.to_owned(),
    })
}
