//! What workers record, as it happens.

mod guard;

use std::{convert::Infallible, future::ready, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, stream};
use runtime::serve::Answering;
use serde::Deserialize;
use service::tail::{Filter, Line};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use utoipa::IntoParams;
use webhook::EndpointId;

use crate::{
    caller::Caller,
    context::Context,
    extract::{Query, parameter},
    problem::{Kind, Problem},
    streams::Stream,
};

use guard::Guard;

/// How long to wait for the broker.
const PATIENCE: Duration = Duration::from_secs(3);
/// The interval of empty lines, by which the client and proxies see that the connection is alive.
const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// The interval between two parts of a stream, unless many lines wait. Lines that are recorded in between are sent
/// together, so that many streams cost little.
const PART_EVERY: Duration = Duration::from_millis(100);

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// The header with the value `no` tells nginx to pass each part of the body on at once.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The query of the stream.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::routes) struct Wanted {
    /// Only events of this type, and attempts and outcomes of such events. Leaves out those of events that were
    /// received before the stream began.
    #[serde(rename = "type")]
    #[param(schema_with = wire::schema::event_kind)]
    event_type: Option<String>,
    /// Only events that matched this endpoint, and attempts and outcomes of it.
    #[param(example = "ep_8e0d3e107685e7013e1070dba5f85cc2", nullable = false)]
    endpoint_id: Option<String>,
    /// Only attempts and outcomes with this outcome.
    #[param(schema_with = wire::schema::attempt_outcome)]
    outcome: Option<String>,
}

/// A stream that has begun.
struct Sending {
    stream: Stream,
    alive: Interval,
    /// When the next part may be sent.
    next_part: Instant,
    /// Cancelled when the stream has to end.
    end: CancellationToken,
    /// Cancels `end` when the client has closed the connection.
    _ended: DropGuard,
    /// Keeps the connection for this stream.
    _connection: Option<Arc<Answering>>,
}

/// Watch events and attempts.
///
/// Returns what workers record from now on, as it happens: one JSON object per line, and an empty line every
/// 15 s. The body ends only when the API shuts down or the key is no longer valid; after a shutdown, send the
/// request again. A client that reads too slowly loses lines, and gets a line of the kind `dropped`. Ignore
/// lines of a kind that you do not know. With a platform key and without Magnetite-Organization, returns the
/// records of all organizations.
#[utoipa::path(
    get,
    path = "/v1/tail",
    operation_id = "tailEvents",
    tag = "Events",
    security(("api_key" = ["deliveries:read"])),
    params(Wanted),
    responses((
        status = 200,
        description = "The stream.",
        body = wire::TailLine,
        content_type = "application/x-ndjson",
    )),
)]
pub(in crate::routes) async fn tail(
    State(context): State<Context>,
    caller: Caller,
    headers: HeaderMap,
    connection: Option<Extension<Arc<Answering>>>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Problem> {
    let filter = Filter {
        organization: caller.organization.clone(),
        event_type: parameter("type", wanted.event_type.as_deref())?,
        endpoint: wanted.endpoint_id.map(EndpointId::new),
        outcome: parameter("outcome", wanted.outcome.as_deref())?,
    };
    let stream = context.streams.begin(&caller, filter).ok_or_else(|| {
        Problem::new(
            Kind::Overloaded,
            "Too many streams are open. End those that are not needed, and send the request again.",
        )
        .retry_after(1)
    })?;
    let Ok(Some(first)) = timeout(PATIENCE, stream.next()).await else {
        let detail = "There is no connection to the broker. Send the request again.";
        return Err(Problem::new(Kind::BrokerUnavailable, detail).retry_after(5));
    };
    let connection = connection.map(|Extension(connection)| connection);
    let sending = Sending::new(stream, connection.clone());
    let guard = Guard {
        context,
        caller,
        headers,
        connection,
    };
    tokio::spawn(guard.run(sending.end.clone()));
    let headers = [
        (header::CONTENT_TYPE, MEDIA_TYPE),
        (BUFFERING, HeaderValue::from_static("no")),
        // The connection may be closed soon after the stream has ended.
        (header::CONNECTION, HeaderValue::from_static("close")),
    ];
    Ok((headers, sending.body(&first)).into_response())
}

impl Sending {
    fn new(stream: Stream, connection: Option<Arc<Answering>>) -> Self {
        let (now, end) = (Instant::now(), CancellationToken::new());
        let mut alive = interval_at(now + ALIVE_EVERY, ALIVE_EVERY);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            stream,
            alive,
            next_part: now + PART_EVERY,
            _ended: end.clone().drop_guard(),
            end,
            _connection: connection,
        }
    }

    /// Returns the body: the first lines, and all that follow.
    fn body(self, first: &[Arc<Line>]) -> Body {
        let following = stream::unfold(self, |mut sending| async move {
            let part = sending.next().await?;
            Some((part, sending))
        });
        let parts = stream::once(ready(encoded(first))).chain(following);
        Body::from_stream(parts.map(Ok::<_, Infallible>))
    }

    /// Returns the next part of the body; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        let (next_part, stream) = (self.next_part, &self.stream);
        let lines = async move {
            tokio::select! {
                () = sleep_until(next_part) => {}
                () = stream.many() => {}
            }
            stream.next().await
        };
        tokio::select! {
            // The stream ends even if there are always lines.
            biased;
            () = self.end.cancelled() => None,
            _ = self.alive.tick() => Some(Bytes::from_static(b"\n")),
            lines = lines => {
                self.next_part = Instant::now() + PART_EVERY;
                lines.map(|lines| encoded(&lines))
            }
        }
    }
}

fn encoded(lines: &[Arc<Line>]) -> Bytes {
    let json: String = lines.iter().map(|line| line.json.as_str()).collect();
    json.into()
}
