//! The connection of one program: sends it the requests of its relay, and passes its answers to the workers.
//!
//! One task serves the connection, in [`Connection::serve`]. It never waits for one thing alone: a program that reads
//! slowly, the broker and the database delay nothing but what depends on them. `outstanding`, `frame`, `pace` and `end`
//! make the decisions, without a clock.
//!
//! Whatever ends the connection, each request that was received gets an answer, so that its attempt ends at once. The
//! queue is deleted last: while it exists, no other connection receives the requests.

use std::{future::pending, time::Duration};

use axum::{
    Error,
    body::Bytes,
    extract::ws::{Message, WebSocket},
};
use broker::{RelayedRequest, Requests};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use runtime::serve::Answering;
use store::Store;
use tokio::{
    sync::mpsc::{self, Permit},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use wire::RelayRequest;

use crate::meters::{self, LATE};

use super::{
    end::End,
    frame::{self, Frame},
    lease,
    outstanding::Outstanding,
    pace::Pace,
    program::Program,
    replies::{Replies, count},
};

/// The maximum number of requests that a program is sent before it answers one.
const OUTSTANDING_MAX: usize = 64;
/// The interval of pings.
const PING_EVERY: Duration = Duration::from_secs(10);
/// How long the connection goes on if nothing arrives, not even a pong.
const SILENCE_MAX: Duration = Duration::from_secs(25);
/// How long the program may take to read a frame.
const WRITE_MAX: Duration = Duration::from_secs(20);
/// How long the last frames may take to arrive.
const CLOSE_MAX: Duration = Duration::from_millis(500);
/// How long requests are still taken from the queue when the connection has ended.
const DRAIN_MAX: Duration = Duration::from_millis(100);
/// How long it may take to answer the last requests.
const GIVE_UP_MAX: Duration = Duration::from_secs(1);

/// A connection whose requests are received.
pub(super) struct Connection {
    pub(super) requests: Requests,
    pub(super) replies: Replies,
    pub(super) store: Store,
    /// Cancelled when the program has to connect to another process.
    pub(super) stop: CancellationToken,
    pub(super) program: Program,
}

impl Connection {
    /// Serves the program until the connection ends.
    pub(super) async fn run(mut self, socket: WebSocket) {
        let _counted = Counted::new();
        let (sink, mut frames) = socket.split();
        let (out, messages) = mpsc::channel(1);
        let mut writer = tokio::spawn(write(sink, messages));
        let mut outstanding = Outstanding::default();
        let end = self.serve(&out, &mut frames, &mut outstanding).await;
        tracing::debug!(
            endpoint.id = %self.program.endpoint_id, ?end,
            "the connection of a relay's program has ended"
        );
        let replies = &mut self.replies;
        let goodbye = async {
            if let Some(frame) = end.frame() {
                // An error means that the connection was lost.
                let _ = out.send(Message::Close(Some(frame))).await;
            }
            drop(out);
            let _ = (&mut writer).await;
            // Until the program has closed the connection, too. Answers that it sends before are passed on.
            while let Some(Ok(message)) = frames.next().await {
                if let Ok(Frame::Answer { answered, .. }) = frame::read(Some(Ok(message)))
                    && let Some(reply_to) = outstanding.take(&answered.request, Instant::now())
                {
                    replies.publish(reply_to, answered.answer);
                }
            }
            if matches!(end, End::TooLarge | End::Protocol) {
                // What was not read resets the connection. The program can read the last frame before.
                pending::<()>().await;
            }
        };
        let _ = timeout(CLOSE_MAX, goodbye).await;
        writer.abort();
        give_up(self.requests, &mut self.replies, outstanding, end).await;
    }

    /// Passes requests and answers until the connection has to end.
    async fn serve(
        &mut self,
        out: &mpsc::Sender<Message>,
        frames: &mut SplitStream<WebSocket>,
        outstanding: &mut Outstanding,
    ) -> End {
        let (program, requests, replies) = (&self.program, &mut self.requests, &mut self.replies);
        // Boxed, because a query needs much space.
        let mut lease = Box::pin(lease::keep(&self.store, &program.endpoint_id, &program.key_id));
        let (mut heard, mut pace) = (Instant::now(), Pace::new(Instant::now()));
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ping_is_due = false;
        loop {
            let has_room = outstanding.len() + replies.len() < OUTSTANDING_MAX;
            let pause = pace.pause(Instant::now());
            tokio::select! {
                () = self.stop.cancelled() => return End::Restart,
                () = closed(program.answering.as_deref()) => return End::Restart,
                () = out.closed() => return End::Gone,
                end = &mut lease => return end,
                () = sleep_until(heard + SILENCE_MAX) => return End::Silent,
                _ = pings.tick() => {
                    // While there is no room for a request, nothing else notices it.
                    if !requests.is_open() {
                        return End::Restart;
                    }
                    ping_is_due = true;
                }
                // Before the next request, so that requests do not delay it without end.
                place = out.reserve(), if ping_is_due => match place {
                    Err(_) => return End::Gone,
                    Ok(place) => {
                        place.send(Message::Ping(Bytes::new()));
                        ping_is_due = false;
                    }
                },
                () = expiry(outstanding) => count(LATE, outstanding.expire(Instant::now())),
                arrived = next_frame(frames, pause) => {
                    heard = Instant::now();
                    match frame::read(arrived) {
                        Err(end) => return end,
                        Ok(Frame::Control) => pace.charge(0, heard),
                        Ok(Frame::Answer { answered, bytes }) => {
                            match outstanding.take(&answered.request, heard) {
                                Some(reply_to) => replies.publish(reply_to, answered.answer),
                                None => pace.charge(bytes, heard),
                            }
                        }
                    }
                }
                request = next_request(out, requests), if has_room && !ping_is_due => {
                    let (place, tag, request) = match request {
                        Err(end) => return end,
                        Ok(request) => request,
                    };
                    let number = outstanding.add(request.reply_to, Instant::now() + request.answer_within);
                    meters::RELAY_REQUESTS.count([]).increment(1);
                    place.send(message(number, request));
                    requests.taken(tag).await;
                }
                is_published = replies.next() => if !is_published {
                    return End::Restart;
                },
            }
        }
    }
}

/// Writes the messages in turn. Ends when the connection is lost, the program reads nothing, or there are no more
/// messages.
async fn write(mut sink: SplitSink<WebSocket, Message>, mut messages: mpsc::Receiver<Message>) {
    while let Some(message) = messages.recv().await {
        match timeout(WRITE_MAX, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_lost)) => return,
            Err(_elapsed) => {
                // This arrives if the program begins to read now.
                let last = sink.send(Message::Close(End::TooSlow.frame()));
                let _ = timeout(CLOSE_MAX, last).await;
                return;
            }
        }
    }
}

/// Waits until the connection has to be closed.
async fn closed(answering: Option<&Answering>) {
    match answering {
        Some(answering) => answering.closed().await,
        None => pending().await,
    }
}

/// Waits until a request is too old to be answered.
async fn expiry(outstanding: &Outstanding) {
    match outstanding.next_expiry() {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// Returns what arrives next, and what is read after this pause.
///
/// # Cancel safety
/// This function is cancel safe.
async fn next_frame(
    frames: &mut SplitStream<WebSocket>,
    pause: Option<Instant>,
) -> Option<Result<Message, Error>> {
    if let Some(until) = pause {
        sleep_until(until).await;
    }
    frames.next().await
}

/// Returns the next request, its number at the broker, and room to send it.
///
/// # Cancel safety
/// This function is cancel safe.
async fn next_request<'a>(
    out: &'a mpsc::Sender<Message>,
    requests: &mut Requests,
) -> Result<(Permit<'a, Message>, u64, RelayedRequest), End> {
    let place = out.reserve().await.map_err(|_| End::Gone)?;
    let (tag, request) = requests.next().await.ok_or(End::Restart)?;
    Ok((place, tag, request))
}

/// Returns the frame of a request.
fn message(number: String, request: RelayedRequest) -> Message {
    let request = RelayRequest {
        request: number,
        headers: request.headers.into_iter().collect(),
        // Every event is JSON, and therefore UTF-8.
        body: String::from_utf8_lossy(&request.body).into_owned(),
    };
    Message::text(serde_json::to_string(&request).expect("the request has text keys"))
}

/// Answers all requests that were sent and not answered, and those that still wait in the queue: as a closed connection
/// without a response, or as interrupted if this process ends the connection. Then deletes the queue.
async fn give_up(mut requests: Requests, replies: &mut Replies, outstanding: Outstanding, end: End) {
    let mut answer = |reply_to| match end {
        End::Restart => replies.interrupt(reply_to),
        _ => replies.publish(reply_to, None),
    };
    outstanding.into_all().for_each(&mut answer);
    let until = Instant::now() + DRAIN_MAX;
    while let Ok(Some((tag, request))) = timeout_at(until, requests.next()).await {
        requests.taken(tag).await;
        answer(request.reply_to);
    }
    requests.close().await;
    let _ = timeout(GIVE_UP_MAX, replies.finish()).await;
}

/// Counts a connected program until this is dropped.
struct Counted;

impl Counted {
    fn new() -> Self {
        meters::RELAYS.level([]).increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        meters::RELAYS.level([]).decrement(1.0);
    }
}
