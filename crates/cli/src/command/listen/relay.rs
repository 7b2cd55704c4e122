//! Receives the requests of a relay over the HTTP API, instead of on a port.
//!
//! The relay is opened for this command, and deleted when the command ends. When the connection is lost, the command
//! connects again. The requests that are made meanwhile fail, and workers repeat them. If the relay has ended
//! meanwhile, because the machine was suspended for example, the command opens another one.

use std::{mem, slice, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use client::{
    Client, Endpoint, OpenRelay, RelayAnswer, RelayAnswers, RelayClosed, RelayConnection, RelayRequest,
};
use hyper::{
    HeaderMap, Method,
    header::{HeaderName, HeaderValue},
};
use signature::{Secret, Verifier};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use webhook::{RELAY_URL, Subscription};

use crate::{
    output,
    remote::{Remote, told},
};

use super::{
    Receiver,
    answer::Answer,
    request::{Given, Request},
};

/// The wait before the command connects for the second time, before it is shortened at random. It doubles with each
/// further time.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The maximum wait, unless the API asks for a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A connection that lasted this long was a good one: the pauses begin anew after it.
const LASTING: Duration = Duration::from_secs(30);
/// The maximum wait that the API can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);
/// The maximum number of requests that are forwarded and answered at once. The API sends no more without an answer.
const IN_PROGRESS_MAX: usize = 64;
/// The maximum time for what is in progress when the command ends.
const GRACE: Duration = Duration::from_secs(5);
/// The maximum time for deleting the relay when the command ends.
const DELETE_MAX: Duration = Duration::from_secs(10);
/// The status that replaces one of an application which is none of HTTP, such as 999.
const BAD_GATEWAY: u16 = 502;
/// The maximum length of `Retry-After`, in bytes.
const RETRY_AFTER_BYTES_MAX: usize = 128;

/// The relay of this command.
pub(super) struct Relay {
    client: Client,
    /// The scheme, host and port of the API.
    origin: String,
    new: OpenRelay,
    /// The request that opens a relay. It goes on when the command ends, so that the relay can be deleted.
    opening: JoinSet<Result<Endpoint, client::Error>>,
    /// The relay; `None` until it is open.
    open: Option<Open>,
    /// The id of the relay that has ended and that `open` replaces; `None` when that is connected.
    former: Option<String>,
    /// The kind of the last failure that the user was told of, since the relay was connected; `None` if there is none.
    outage: Option<Kind>,
    /// The number of tries to connect that have failed, or whose connection was lost soon, since a connection lasted.
    tries: u32,
    connection: Option<RelayConnection>,
    /// The requests that are being answered.
    answering: JoinSet<()>,
}

/// An open relay.
struct Open {
    /// The id of its endpoint.
    id: String,
    organization: String,
    secret: Secret,
    verifier: Arc<Verifier>,
    /// Whether it was connected before.
    was_connected: bool,
    /// Whether a try to connect to it has failed, so that it may have ended meanwhile.
    has_failed: bool,
}

/// What distinguishes failures of which the user is told separately: the variant, the HTTP status, and whether the
/// certificate is the reason.
type Kind = (mem::Discriminant<client::Error>, Option<u16>, bool);

/// Why a relay is not connected.
enum NotConnected {
    /// The API refused a request, or was not reached.
    Request(client::Error),
    /// No further try can help.
    Final(anyhow::Error),
}

impl From<client::Error> for NotConnected {
    fn from(error: client::Error) -> Self {
        Self::Request(error)
    }
}

impl From<anyhow::Error> for NotConnected {
    fn from(error: anyhow::Error) -> Self {
        Self::Final(error)
    }
}

impl NotConnected {
    /// Returns the error that ends the command.
    fn told(self) -> anyhow::Error {
        match self {
            Self::Request(error) => told(error),
            Self::Final(error) => error,
        }
    }

    /// Returns the kind of the failure; `None` if it is not one of a request.
    fn kind(&self) -> Option<Kind> {
        let Self::Request(error) = self else {
            return None;
        };
        let status = match error {
            client::Error::Api { problem, .. } => Some(problem.status),
            client::Error::Unexpected { status, .. } => Some(*status),
            _ => None,
        };
        Some((mem::discriminant(error), status, error.is_certificate_invalid()))
    }

    /// Returns the reason in a few words, for a failure after which the command tries again.
    fn brief(&self) -> String {
        match self {
            Self::Request(error) => match error.problem() {
                Some(problem) => format!("{} ({})", output::printable(&problem.title), problem.status),
                None => error.to_string(),
            },
            Self::Final(error) => error.to_string(),
        }
    }
}

impl Relay {
    /// Prepares a relay for these events.
    ///
    /// # Errors
    /// Returns an error if the API cannot be used with what is set.
    pub(super) fn new(
        api: &Remote,
        events: Option<&Subscription>,
        project_id: Option<String>,
    ) -> anyhow::Result<Self> {
        let patterns = |events: &Subscription| events.patterns().iter().map(ToString::to_string).collect();
        Ok(Self {
            client: api.client()?,
            origin: api.origin(),
            new: OpenRelay {
                events: events.map(patterns),
                project_id,
            },
            opening: JoinSet::new(),
            open: None,
            former: None,
            outage: None,
            tries: 0,
            connection: None,
            answering: JoinSet::new(),
        })
    }

    /// Opens the relay, and passes its requests to the receiver and the answers back until the receiver is done. Deletes
    /// the relay.
    ///
    /// # Errors
    /// Returns an error if the relay cannot be opened, or has ended although it was connected.
    pub(super) async fn run(mut self, receiver: &Arc<Receiver>) -> anyhow::Result<()> {
        let receiving = receiver.done.run_until_cancelled(self.receive(receiver)).await;
        if receiving.is_none() {
            receiver.tell_end();
        }
        self.end().await;
        receiving.unwrap_or(Ok(()))
    }

    /// Receives requests, and connects again whenever the connection is lost. Returns only an error.
    async fn receive(&mut self, receiver: &Arc<Receiver>) -> anyhow::Result<()> {
        self.open().await.map_err(NotConnected::told)?;
        loop {
            self.connect(receiver.forward.is_some()).await?;
            let connected = Instant::now();
            let closed = self.converse(receiver).await;
            self.connection = None;
            let reason = match closed {
                Some(closed) if !closed.is_transient() => return Err(self.told(closed)),
                Some(closed) => format!(" ({})", why(&closed)),
                None => String::new(),
            };
            output::note(&format!(
                "the connection to the API was lost{reason}; connecting again; requests that fail in the meantime are repeated"
            ));
            if connected.elapsed() >= LASTING {
                self.tries = 0;
            }
            sleep(backoff(self.tries, rand::random())).await;
            self.tries = self.tries.saturating_add(1);
        }
    }

    /// Opens a relay, instead of the former one.
    async fn open(&mut self) -> Result<(), NotConnected> {
        let (client, new) = (self.client.clone(), self.new.clone());
        self.opening.spawn(async move { client.open_relay(&new).await });
        let opened = self.opening.join_next().await.context("nothing was requested")?;
        let endpoint = opened.context("the request failed")??;
        let secret = endpoint.secret.map(|secret| secret.0).unwrap_or_default();
        let secret = match Secret::parse(&secret) {
            Ok(secret) => secret,
            Err(error) => {
                delete(&self.client, &endpoint.id).await;
                let error = anyhow!(error).context("the API named no valid secret of the new endpoint");
                return Err(NotConnected::Final(error));
            }
        };
        let former = self.open.replace(Open {
            id: endpoint.id,
            organization: endpoint.organization_id,
            verifier: Arc::new(Verifier::new(slice::from_ref(&secret))),
            secret,
            was_connected: false,
            has_failed: false,
        });
        self.former = former.map(|former| former.id);
        Ok(())
    }

    /// Connects to the relay, and tries again while that may help. If the relay has ended since it was connected, opens
    /// another one.
    async fn connect(&mut self, forwards: bool) -> anyhow::Result<()> {
        loop {
            let reason = match self.try_to_connect(forwards).await {
                Ok(true) => return Ok(()),
                // A relay was opened, and is to be connected.
                Ok(false) => continue,
                Err(reason) => reason,
            };
            // A relay that replaces another one continues it.
            let was_connected =
                self.former.is_some() || self.open.as_ref().is_some_and(|open| open.was_connected);
            let Some(wait) = pause(&reason, was_connected, self.tries, rand::random()) else {
                return Err(reason.told());
            };
            if let Some(open) = &mut self.open {
                open.has_failed = true;
            }
            let kind = reason.kind();
            if self.outage != kind {
                output::note(&format!(
                    "cannot receive events yet: {}; trying again",
                    reason.brief()
                ));
                self.outage = kind;
            }
            sleep(wait).await;
            self.tries = self.tries.saturating_add(1);
        }
    }

    /// Connects to the relay, or opens another one if it has ended. Returns whether it is connected.
    async fn try_to_connect(&mut self, forwards: bool) -> Result<bool, NotConnected> {
        let open = self.open.as_mut().context("no relay is open")?;
        let error = match self.client.connect_relay(&open.id).await {
            Ok(connection) => {
                self.connection = Some(connection);
                let again = mem::replace(&mut open.was_connected, true);
                self.greet(again, forwards);
                return Ok(true);
            }
            Err(error) => error,
        };
        let name = error.problem().map(client::Problem::name);
        // After a failed try, the relay may have ended in the meantime although it was never connected.
        match (name, open.was_connected || open.has_failed) {
            (Some("not-found" | "conflict"), true) => {
                self.open().await?;
                Ok(false)
            }
            (Some("not-found" | "conflict"), false) => Err(NotConnected::Final(ended(&open.id))),
            _ => Err(NotConnected::Request(error)),
        }
    }

    /// Says what is received now. `again` says that the relay was connected before, and `forwards` that an application
    /// verifies the requests as well. The last line says that the relay is ready.
    fn greet(&mut self, again: bool, forwards: bool) {
        self.outage = None;
        let (Some(open), former) = (&self.open, self.former.take()) else {
            return;
        };
        let receiving = format!(
            "receiving the events of {} from {}, as endpoint {}",
            open.organization, self.origin, open.id
        );
        if forwards && !again {
            let (secret, is_new) = (open.secret.expose(), former.is_some());
            let which = if is_new {
                "another secret, which the application needs now:"
            } else {
                "the secret"
            };
            output::note(&format!("the requests are signed with {which} {secret}"));
        }
        match former {
            _ if again => output::note("connected again"),
            Some(former) => output::note(&format!(
                "endpoint {former} has ended in the meantime, and events that were published since then were not received; \
                 {receiving}"
            )),
            None => output::note(&receiving),
        }
    }

    /// Passes requests to the receiver until the connection ends. Returns the reason; `None` if it was closed normally.
    async fn converse(&mut self, receiver: &Arc<Receiver>) -> Option<RelayClosed> {
        let (connection, open) = (self.connection.as_mut()?, self.open.as_ref()?);
        loop {
            let request = match connection.next().await {
                Ok(request) => request?,
                Err(closed) => return Some(closed),
            };
            while self.answering.len() >= IN_PROGRESS_MAX {
                self.answering.join_next().await;
            }
            while self.answering.try_join_next().is_some() {}
            let (receiver, verifier) = (Arc::clone(receiver), Arc::clone(&open.verifier));
            let answers = connection.answers();
            self.answering
                .spawn(async move { answer(&receiver, &verifier, &answers, request).await });
        }
    }

    /// Returns the error for a connection that ended although it was not lost.
    fn told(&self, closed: RelayClosed) -> anyhow::Error {
        match closed {
            RelayClosed::Ended { .. } => ended(self.open.as_ref().map_or("", |open| open.id.as_str())),
            RelayClosed::KeyInvalid { .. } => anyhow!(
                "the API key is no longer valid, because it was revoked or has expired; use another one, with `magnetite login` or in \
                 MAGNETITE_API_KEY"
            ),
            closed => closed.into(),
        }
    }

    /// Sends the answers that are in progress, closes the connection, and deletes the relay.
    async fn end(mut self) {
        let answered = async { while self.answering.join_next().await.is_some() {} };
        let _ = timeout(GRACE, answered).await;
        let _ = timeout(GRACE, self.answering.shutdown()).await;
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
        let opened = timeout(GRACE, self.opening.join_next()).await;
        let opened = match opened {
            Ok(Some(Ok(Ok(endpoint)))) => Some(endpoint.id),
            _ => None,
        };
        let open = self.open.take().map(|open| open.id);
        for id in open.into_iter().chain(opened) {
            delete(&self.client, &id).await;
        }
    }
}

/// Deletes the endpoint of a relay.
async fn delete(client: &Client, id: &str) {
    let error = match timeout(DELETE_MAX, client.delete_endpoint(id, None)).await {
        Ok(Ok(_)) => return,
        Ok(Err(error))
            if matches!(
                error.problem().map(|problem| problem.status),
                Some(401 | 403 | 404)
            ) =>
        {
            // It has ended already, or the key is not valid any more.
            tracing::debug!(%error, "cannot delete the relay");
            return;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {DELETE_MAX:?}"),
    };
    output::note(&format!(
        "endpoint {id} was not deleted ({error}); it ends by itself in about a minute"
    ));
}

/// Returns why a connection was lost, without advice: the command connects again by itself.
fn why(closed: &RelayClosed) -> String {
    match closed {
        RelayClosed::Restart { reason } | RelayClosed::TooSlow { reason } => reason.clone(),
        RelayClosed::Silent { after } => format!("the API was silent for {after:?}"),
        RelayClosed::Lost { source } => source.to_string(),
        closed => closed.to_string(),
    }
}

/// Returns the error for a relay that was deleted or replaced.
fn ended(id: &str) -> anyhow::Error {
    anyhow!(
        "endpoint {id} has ended: it was deleted, or another `magnetite listen` with the same API key has replaced it; to run \
         several at a time, use a key for each"
    )
}

/// Returns how long to wait before the next try to connect; `None` if it would fail as well. `tries` is the number of
/// tries that have failed before, and `random` is from 0 to 1.
///
/// If the relay was connected before, only the API itself can end the tries: any other failure may be that of a network
/// to which the computer has moved.
fn pause(reason: &NotConnected, was_connected: bool, tries: u32, random: f64) -> Option<Duration> {
    let NotConnected::Request(error) = reason else {
        return None;
    };
    let is_refusal = |problem: &client::Problem| {
        matches!(problem.status, 401 | 403 | 422 | 426) || problem.name() == "too-many-endpoints"
    };
    let is_final = if was_connected {
        error.problem().is_some_and(is_refusal)
    } else {
        !error.is_transient()
    };
    let asked = error.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX);
    (!is_final).then(|| backoff(tries, random).max(asked))
}

fn backoff(tries: u32, random: f64) -> Duration {
    let full = PAUSE_FIRST.saturating_mul(2_u32.saturating_pow(tries));
    full.min(PAUSE_MAX).mul_f64(1.0 - random / 2.0)
}

/// Answers one request, unless `--fail` leaves it hanging.
async fn answer(receiver: &Receiver, verifier: &Verifier, answers: &RelayAnswers, request: RelayRequest) {
    let received = Request {
        method: Method::POST,
        path: RELAY_URL.to_owned(),
        headers: headers(&request),
        body: request.body.into(),
    };
    let given = receiver.answer(verifier, received, Ok(())).await;
    let Some(answer) = relayed(request.request, given) else {
        return;
    };
    if let Err(error) = answers.answer(&answer).await {
        // The loss of the connection is told, and the request is repeated.
        tracing::debug!(%error, "an answer was not sent");
    }
}

fn headers(request: &RelayRequest) -> HeaderMap {
    let header = |(name, value): (&String, &String)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    };
    request.headers.iter().filter_map(header).collect()
}

/// Returns the answer for the API; `None` if none is given.
fn relayed(request: String, given: Given) -> Option<RelayAnswer> {
    let status = match given.answer {
        Answer::Hang => return None,
        Answer::Drop => None,
        Answer::Status(status) if (200..=599).contains(&status.as_u16()) => Some(status.as_u16()),
        Answer::Status(_) => Some(BAD_GATEWAY),
    };
    let fits = |text: &String| text.len() <= RETRY_AFTER_BYTES_MAX && !text.contains(char::is_control);
    Some(RelayAnswer {
        request,
        status,
        retry_after: given.retry_after.filter(fits),
        body: String::from_utf8_lossy(&given.body).into_owned(),
    })
}

#[cfg(test)]
mod tests;
