//! What workers record, as it happens.

use futures_util::stream::{self, BoxStream};
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

/// What workers record.
impl Client {
    /// Returns a stream of what workers record from now on. Its first line is [`TailLine::Watching`].
    ///
    /// The stream ends when the API shuts down, and with an error if the connection breaks or is silent for 45 s.
    /// It can then be opened again; what workers record in between is not received. If the lines are not taken in
    /// time, some are lost, and [`TailLine::Dropped`] has their number.
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
        let items = stream::try_unfold(lines, |mut lines: Lines<TailLine>| async move {
            let line = lines.next().await;
            line.map(|line| line.map(|line| (line, lines)))
        });
        Ok(Box::pin(items))
    }
}
