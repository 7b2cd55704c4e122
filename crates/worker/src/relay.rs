//! Attempts of relays: requests to programs that are connected to the API, instead of to a URL.
//!
//! The worker publishes the request to the relay's queue, and waits until the answer arrives in its own queue. If the
//! relay's queue does not exist, no program is connected, which is a failure like that of a refused connection. A
//! broker that does not accept the request, or from which no answers can be received, is a fault on our side.
//!
//! Requests and answers have a connection of their own, so that no other delivery ever waits for them. It is opened
//! with the first attempt of a relay.

mod failure;

use std::{
    collections::HashMap,
    pin::pin,
    slice,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use broker::{
    Config, Link, Outgoing, PublishError, Publisher, RelayedAnswer, RelayedRequest, ReplyTo, Topology,
    follow_answers,
};
use bytes::Bytes;
use egress::USER_AGENT;
use runtime::vital;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use webhook::{Answer, AttemptResult, EndpointId, RESPONSE_BODY_BYTES_MAX};

use failure::{CLOSED, CUT_SHORT, Cause, NO_ANSWER, NOT_CONNECTED, TOO_MANY, failed};

/// How long an attempt waits for the queue of answers, which the first attempt of a relay declares.
const QUEUE_MAX: Duration = Duration::from_secs(5);

/// Passes requests to relays, and receives the answers.
pub(crate) struct Relay {
    config: Config,
    topology: Topology,
    /// Cancelled when no attempt needs the connection any more.
    stop: CancellationToken,
    /// `None` before the first attempt of a relay.
    connected: OnceLock<Connected>,
    answers: Arc<Answers>,
}

/// The connection to the broker for relays.
struct Connected {
    link: Link,
    publisher: Publisher,
}

/// Where answers arrive, and what waits for them.
#[derive(Default)]
struct Answers {
    state: Mutex<State>,
    /// Whether this worker has a queue of answers.
    exists: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    /// The number of this worker's queue of answers; `None` while it does not exist.
    queue: Option<u128>,
    /// The requests that name this queue and are not answered yet, by their numbers. There are at most as many as
    /// attempts in flight.
    waiting: HashMap<u128, Waiting>,
}

struct Waiting {
    endpoint_id: EndpointId,
    /// Receives the answer; `None` if the receiver closed the connection without one.
    answer: oneshot::Sender<Option<Answer>>,
}

/// A fault on our side, because of which it is unknown how the relay would have answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(
        "the answer of a relay cannot be received: a connection to the broker was lost, or the API restarts"
    )]
    NoAnswers,
    #[error("a request to a relay was not passed on in time")]
    NotAccepted,
    #[error("cannot pass a request to a relay")]
    Publish(#[from] PublishError),
}

/// A request of an attempt.
struct Request<'a> {
    endpoint_id: &'a EndpointId,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    /// When the whole attempt ends.
    deadline: Instant,
}

/// A request that the broker has taken and that is not answered yet.
struct Pending<'a> {
    answer: oneshot::Receiver<Option<Answer>>,
    _place: Place<'a>,
}

impl Relay {
    /// Creates the relay of a worker. Its connection is closed when `stop` is cancelled.
    pub(crate) fn new(config: &Config, topology: Topology, stop: CancellationToken) -> Self {
        Self {
            config: config.clone(),
            topology,
            stop,
            connected: OnceLock::new(),
            answers: Arc::default(),
        }
    }

    /// Makes one attempt: passes a request to the program that is connected as this endpoint, and waits for its answer,
    /// for the time `patience` in all. Ends the attempt early when `ended` completes.
    ///
    /// # Errors
    /// Returns an error if something other than the endpoint has failed.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt. It is then unknown whether the program received the request.
    pub(crate) async fn attempt(
        &self,
        endpoint_id: &EndpointId,
        headers: Vec<(&'static str, String)>,
        body: Bytes,
        patience: Duration,
        ended: impl Future<Output = ()>,
    ) -> Result<AttemptResult, Fault> {
        let deadline = Instant::now() + patience;
        let request = Request {
            endpoint_id,
            headers,
            body,
            deadline,
        };
        let mut ended = pin!(ended);
        let passed = tokio::select! {
            biased;
            passed = timeout_at(deadline, self.pass(request)) => passed.map_err(|_| Fault::NotAccepted)??,
            () = ended.as_mut() => return Err(Fault::NotAccepted),
        };
        let pending = match passed {
            Ok(pending) => pending,
            Err(cause) => return Ok(failed(cause)),
        };
        tokio::select! {
            biased;
            answer = timeout_at(deadline, pending.answer) => match answer {
                Ok(Ok(Some(answer))) => Ok(AttemptResult::Answered(answer)),
                Ok(Ok(None)) => Ok(failed(CLOSED)),
                Ok(Err(_lost)) => Err(Fault::NoAnswers),
                Err(_elapsed) => Ok(failed(NO_ANSWER)),
            },
            () = ended => Ok(failed(CUT_SHORT)),
        }
    }

    /// Publishes a request. Returns the cause if the relay cannot take it.
    async fn pass(&self, request: Request<'_>) -> Result<Result<Pending<'_>, Cause>, Fault> {
        let connected = self.connected();
        self.answers.exist().await?;
        let (reply_to, pending) = self.answers.wait_for(request.endpoint_id, rand::random())?;
        let message = Outgoing::relayed(&self.topology, request.endpoint_id, request.relayed(reply_to));
        let mut published = connected.publisher.offer(slice::from_ref(&message)).await;
        match published.pop().expect("one message has one result") {
            Ok(()) => Ok(Ok(pending)),
            Err(PublishError::Unroutable { .. }) => Ok(Err(NOT_CONNECTED)),
            Err(PublishError::Nacked { .. }) => Ok(Err(TOO_MANY)),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the connection. The first call begins to connect, and to receive answers.
    fn connected(&self) -> &Connected {
        self.connected.get_or_init(|| {
            let link = Link::publishing(&self.config, "magnetite worker, relays", self.stop.clone());
            let (answers, topology, stop) = (
                Arc::clone(&self.answers),
                self.topology.clone(),
                self.stop.clone(),
            );
            let following = link.clone();
            tokio::spawn(vital("answers of relays", async move {
                let opened = |queue| answers.opened(queue);
                let answered = |answer| answers.answered(answer);
                follow_answers(&following, &topology, &stop, opened, answered).await;
            }));
            Connected {
                publisher: Publisher::new(link.clone(), &self.config),
                link,
            }
        })
    }

    /// Waits until the connection is closed, after `stop` was cancelled.
    pub(crate) async fn closed(&self) {
        if let Some(connected) = self.connected.get() {
            connected.link.closed().await;
        }
    }
}

impl Request<'_> {
    fn relayed(self, reply_to: ReplyTo) -> RelayedRequest {
        let own = [
            ("content-type", "application/json".to_owned()),
            ("user-agent", USER_AGENT.to_owned()),
        ];
        let headers = self.headers.into_iter().chain(own);
        RelayedRequest {
            reply_to,
            answer_within: self.deadline.saturating_duration_since(Instant::now()),
            headers: headers.map(|(name, value)| (name.to_owned(), value)).collect(),
            body: self.body,
        }
    }
}

impl Answers {
    /// Waits until there is a queue of answers.
    async fn exist(&self) -> Result<(), Fault> {
        let mut exists = self.exists.subscribe();
        match timeout(QUEUE_MAX, exists.wait_for(|exists| *exists)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Fault::NoAnswers),
        }
    }

    /// Notes that answers arrive in another queue from now on, or in none. Those to requests that name the former queue
    /// are lost, so the attempts that wait for them end.
    fn opened(&self, queue: Option<u128>) {
        *self.state() = State {
            queue,
            waiting: HashMap::new(),
        };
        self.exists.send_replace(queue.is_some());
    }

    /// Returns where the answer to the request with this number is to be sent, and what waits for it. The wait ends
    /// without an answer if the queue is lost.
    fn wait_for(&self, endpoint_id: &EndpointId, request: u128) -> Result<(ReplyTo, Pending<'_>), Fault> {
        let mut state = self.state();
        let reply_to = ReplyTo {
            answers: state.queue.ok_or(Fault::NoAnswers)?,
            request,
        };
        let (sender, answer) = oneshot::channel();
        let waiting = Waiting {
            endpoint_id: endpoint_id.clone(),
            answer: sender,
        };
        state.waiting.insert(request, waiting);
        let place = Place {
            answers: self,
            request,
        };
        Ok((
            reply_to,
            Pending {
                answer,
                _place: place,
            },
        ))
    }

    /// Passes an answer to the attempt that waits for it. If the API ended the connection, the attempt ends without an
    /// answer. An answer of another endpoint, and one that comes too late, are ignored.
    fn answered(&self, answered: RelayedAnswer) {
        let RelayedAnswer {
            reply_to,
            endpoint_id,
            answer,
            interrupted,
        } = answered;
        let mut state = self.state();
        let is_awaited = state
            .waiting
            .get(&reply_to.request)
            .is_some_and(|found| found.endpoint_id == endpoint_id);
        if is_awaited
            && let Some(found) = state.waiting.remove(&reply_to.request)
            && !interrupted
        {
            // An error means that the attempt has just ended.
            let _ = found.answer.send(answer.map(within_bounds));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits for its answer until this is dropped.
struct Place<'a> {
    answers: &'a Answers,
    request: u128,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.answers.state().waiting.remove(&self.request);
    }
}

/// Returns the answer with a body that is no longer than what is read of other responses.
fn within_bounds(answer: Answer) -> Answer {
    let bytes = answer.body.len().min(RESPONSE_BODY_BYTES_MAX);
    Answer {
        body: answer.body.slice(..bytes),
        ..answer
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn given(request: u128, endpoint: &str) -> RelayedAnswer {
        RelayedAnswer {
            reply_to: ReplyTo { answers: 7, request },
            endpoint_id: EndpointId::new(endpoint),
            answer: Some(Answer {
                status: 200,
                retry_after: None,
                body: Bytes::from(vec![b'x'; RESPONSE_BODY_BYTES_MAX + 1]),
            }),
            interrupted: false,
        }
    }

    #[tokio::test]
    async fn an_answer_reaches_the_request_of_its_own_endpoint_and_is_bounded() {
        let answers = Answers::default();
        answers.opened(Some(7));
        let (reply_to, mut pending) = answers.wait_for(&EndpointId::new("ep_1"), 1).unwrap();
        assert_eq!((reply_to.answers, reply_to.request), (7, 1));
        for other in [given(2, "ep_1"), given(1, "ep_2")] {
            answers.answered(other);
            assert!(pending.answer.try_recv().is_err());
        }
        answers.answered(given(1, "ep_1"));
        let answer = pending.answer.try_recv().unwrap().unwrap();
        assert_eq!(answer.body.len(), RESPONSE_BODY_BYTES_MAX);
        // One that comes twice, or too late, is ignored.
        answers.answered(given(1, "ep_1"));
        drop(pending);
        answers.answered(given(1, "ep_1"));
        assert!(answers.state().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_queue_of_answers_the_fault_is_ours_and_nothing_is_left_waiting() {
        let config = Config::new("amqp://guest:guest@127.0.0.1:1/%2f", "m").unwrap();
        let relay = Relay::new(&config, Topology::new("m", &[]), CancellationToken::new());
        let (endpoint, began) = (EndpointId::new("ep_1"), Instant::now());
        for patience in [Duration::from_secs(1), Duration::from_secs(30)] {
            let attempt = relay.attempt(&endpoint, Vec::new(), Bytes::new(), patience, pending());
            let result = attempt.await;
            assert!(
                matches!(result, Err(Fault::NoAnswers | Fault::NotAccepted)),
                "{result:?}"
            );
        }
        assert!(
            began.elapsed() < Duration::from_secs(7),
            "the second attempt waits for five seconds at most"
        );
        assert!(relay.answers.state().waiting.is_empty());
    }

    #[tokio::test]
    async fn when_the_queue_of_answers_is_lost_nothing_waits_for_what_cannot_arrive() {
        let (answers, endpoint) = (Answers::default(), EndpointId::new("ep_1"));
        answers.opened(Some(7));
        let (_, pending) = answers.wait_for(&endpoint, 1).unwrap();
        answers.opened(None);
        let Pending {
            answer,
            _place: place,
        } = pending;
        assert!(answer.await.is_err());
        assert!(answers.wait_for(&endpoint, 2).is_err());
        answers.opened(Some(8));
        drop(place);
        let (reply_to, _pending) = answers.wait_for(&endpoint, 3).unwrap();
        assert_eq!(reply_to.answers, 8);
        answers.exist().await.unwrap();
    }
}
