//! From an event to its deliveries.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use broker::{Message, Outgoing, Source};
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::time::timeout;
use webhook::{
    Delivery, Event,
    journal::{CONSIDERED_MAX, EventRecord, Record, Verdict},
};

use crate::{
    Context,
    attempt::attempt,
    intake::Intake,
    now_ms, outcome,
    registry::{Considered, Registered},
    settlement::{Settlement, Turn},
};

/// How long the attempts of one event may keep its message unacked. An attempt that takes longer becomes the work on a message
/// of its own.
const TOGETHER_MAX: Duration = Duration::from_secs(1);

/// Makes the first attempt for every endpoint that gets this event.
///
/// The event's message is acked when its attempts have ended, and after a crash all of them are made again: an endpoint that
/// keeps them waiting would cost its healthy siblings copies. So what is likely to take long becomes a message of its own
/// before it is attempted, for any worker: everything when more than [`inline_max`](crate::Config::inline_max) endpoints
/// match, and among several those that failed or were slow last. And what does take long becomes one while it is attempted.
pub(crate) async fn event(context: &Arc<Context>, intake: &Intake, message: &Message) -> Settlement {
    let event = match message.event() {
        Ok(event) => Arc::new(event),
        Err(bad) => {
            return outcome::quarantine(context, Source::Events, message, bad.reason(), &bad.to_string())
                .into();
        }
    };
    context.pulse.steady().await;
    let received_ms = now_ms();
    let considered = context.registry.consider(&event);
    let records = records(context, &event, received_ms, &considered);
    let matches = matches(considered);
    context.meters.event(event.event_type);
    tracing::debug!(event.id = %event.id, matches = matches.len(), "event fanned out");
    if let [endpoint] = &matches[..] {
        let _begun = context.admission.begin(1).await;
        let turn = attempt(context, first(&event, endpoint), endpoint).await;
        return Settlement::from(turn).and_records(records);
    }
    let (inline, apart) = split(context, matches);
    let _begun = context.admission.begin(inline.len()).await;
    let attempts = inline
        .into_iter()
        .map(|endpoint| Pending::new(Arc::clone(context), Arc::clone(&event), endpoint));
    together(context, intake, attempts.collect())
        .await
        .and_apart(event, apart)
        .and_records(records)
}

/// The event, and every endpoint of its organization with the reason why it gets the event or not.
fn records(context: &Context, event: &Arc<Event>, received_ms: u64, considered: &Considered) -> Vec<Record> {
    if !context.config.journal {
        return Vec::new();
    }
    let record = |part: &[(Arc<Registered>, Verdict)]| {
        let verdicts = part.iter();
        Record::Event(EventRecord {
            event: Arc::clone(event),
            received_ms,
            considered: verdicts
                .map(|(registered, verdict)| (registered.endpoint.id.clone(), *verdict))
                .collect(),
        })
    };
    if considered.is_empty() {
        return vec![record(&[])];
    }
    considered.chunks(CONSIDERED_MAX).map(record).collect()
}

fn matches(considered: Considered) -> Endpoints {
    let matched = considered
        .into_iter()
        .filter(|(_, verdict)| *verdict == Verdict::Matched);
    matched.map(|(registered, _)| registered).collect()
}

/// Waits for the attempts of one event, and holds those that take long by messages of their own.
async fn together(context: &Context, intake: &Intake, mut attempts: FuturesUnordered<Pending>) -> Settlement {
    let mut settlement = Settlement::default();
    let waiting = async {
        while let Some(turn) = attempts.next().await {
            settlement.add(turn);
        }
    };
    // While shutting down, what is published into this worker's hands would find them closed.
    if timeout(TOGETHER_MAX, waiting).await.is_err() && !context.stop.is_cancelled() {
        for pending in std::mem::take(&mut attempts) {
            settlement.owe(intake.hold(pending));
        }
    }
    while let Some(turn) = attempts.next().await {
        settlement.add(turn);
    }
    settlement
}

/// A first attempt under way. If it panics, that delivery becomes a message of its own, where a panic harms no sibling.
pub(crate) struct Pending {
    event: Arc<Event>,
    endpoint: Arc<Registered>,
    attempt: Pin<Box<dyn Future<Output = Turn> + Send>>,
}

impl Pending {
    fn new(context: Arc<Context>, event: Arc<Event>, endpoint: Arc<Registered>) -> Self {
        let delivery = first(&event, &endpoint);
        let registered = Arc::clone(&endpoint);
        let attempt = Box::pin(async move {
            let due = delivery.clone();
            let attempting = AssertUnwindSafe(attempt(&context, delivery, &registered));
            let panicked = |_| Outgoing::due(&context.topology, &due).into();
            attempting.catch_unwind().await.unwrap_or_else(panicked)
        });
        Self {
            event,
            endpoint,
            attempt,
        }
    }

    pub(crate) fn delivery(&self) -> Delivery {
        first(&self.event, &self.endpoint)
    }
}

impl Future for Pending {
    type Output = Turn;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Self::Output> {
        self.attempt.as_mut().poll(context)
    }
}

type Endpoints = Vec<Arc<Registered>>;

/// Who is attempted inline, and who by a message apart.
fn split(context: &Context, matches: Endpoints) -> (Endpoints, Endpoints) {
    match matches.len() {
        0 | 1 => (matches, Vec::new()),
        many if many > context.config.inline_max => (Vec::new(), matches),
        _ => matches
            .into_iter()
            .partition(|registered| !context.admission.is_suspect(&registered.endpoint.id)),
    }
}

fn first(event: &Arc<Event>, registered: &Registered) -> Delivery {
    Delivery::first(Arc::clone(event), registered.endpoint.id.clone())
}
