//! What workers record, as it happens.

use futures_util::stream::{self, BoxStream};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use webhook::{EventKind, journal::ThenKind};
use wire::TailLine;

use crate::{client::Client, error::Error, lines::Lines, operation::Operation, request::Request};

/// Which records to receive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TailEvents {
    /// Only events of this type, and attempts and outcomes of such events that were received after the stream
    /// began.
    pub event_type: Option<EventKind>,
    /// Only events that matched this endpoint, and attempts and outcomes of it.
    pub endpoint_id: Option<String>,
    /// Only attempts and outcomes with this outcome.
    pub outcome: Option<ThenKind>,
}

/// A line of the stream; `None` if it is of a kind that this version does not know.
struct Received(Option<TailLine>);

/// The kind of a line.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Kind {
    Watching,
    Interrupted,
    Dropped,
    Event,
    Attempt,
    Outcome,
    Gap,
    #[serde(other)]
    Unknown,
}

impl<'de> Deserialize<'de> for Received {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let line = Value::deserialize(deserializer)?;
        match TailLine::deserialize(&line) {
            Ok(line) => Ok(Self(Some(line))),
            Err(_) if matches!(Kind::deserialize(&line), Ok(Kind::Unknown)) => Ok(Self(None)),
            Err(error) => Err(D::Error::custom(error)),
        }
    }
}

/// Returns the next line of a known kind, and the lines that follow.
async fn next(mut lines: Lines<Received>) -> Result<Option<(TailLine, Lines<Received>)>, Error> {
    while let Some(received) = lines.next().await? {
        if let Received(Some(line)) = received {
            return Ok(Some((line, lines)));
        }
    }
    Ok(None)
}

/// What workers record.
impl Client {
    /// Returns a stream of what workers record from now on. Its first line is [`TailLine::Watching`].
    ///
    /// The stream ends when the API shuts down, and with an error if the connection breaks or is silent for 45 s.
    /// It can then be opened again; what workers record in between is not received. If the lines are not taken in
    /// time, some are lost, and [`TailLine::Dropped`] has their number. Lines of a kind that this version does not
    /// know are left out.
    ///
    /// # Errors
    /// Returns an error if the API refuses the request, or is not reached.
    pub async fn tail_events(
        &self,
        which: &TailEvents,
    ) -> Result<BoxStream<'static, Result<TailLine, Error>>, Error> {
        let request = Request::new(Operation::TAIL_EVENTS)
            .query("type", which.event_type)
            .query("endpoint_id", which.endpoint_id.as_deref())
            .query("outcome", which.outcome);
        let lines = self.open(&request).await?;
        Ok(Box::pin(stream::try_unfold(lines, next)))
    }
}
