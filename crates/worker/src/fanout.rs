//! Fans an event out to its deliveries.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

use broker::{Message, Outgoing};
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use store::Position;
use webhook::{
    Delivery, EndpointId, Event,
    journal::{CONSIDERED_MAX, EventRecord, Record, Seen, Verdict},
};

use crate::{
    Context,
    admission::{Begun, Slowness},
    attempt::attempt,
    job::Job,
    now_ms, outcome,
    registry::{Considered, Registered},
    work::Effects,
};

/// Makes the first attempt for every endpoint that matches this event.
///
/// The event's message is acknowledged when these attempts have ended. After a crash all of them are made
/// again, so a slow endpoint would cause duplicate requests to its healthy siblings, and would occupy the
/// worker's prefetch. Therefore a delivery that is likely to take long is published as a separate message
/// before its attempt, for any worker. This applies:
/// - to all deliveries, when more than [`inline_max`](crate::Config::inline_max) endpoints match;
/// - to deliveries whose endpoint failed or was slow last, when several endpoints match;
/// - to deliveries that may not begin because attempts of their organization hang.
///
/// A delivery whose attempt does last longer than a second is moved to a held message during the attempt.
pub(crate) async fn event(context: &Arc<Context>, job: &mut Job<'_>, message: &Message) {
    let event = match message.event() {
        Ok(event) => Arc::new(event),
        Err(bad) => {
            let (source, detail) = (job.source(), bad.to_string());
            let rejected = outcome::quarantine(context, source, message, bad.reason(), &detail);
            return job.processed.add_publish(rejected);
        }
    };
    context.pulse.steady().await;
    let received_ms = now_ms();
    let considered = context.registry.consider(&event);
    let records = records(context, &event, received_ms, &considered);
    let matches = matches(considered);
    context.meters.event(event.event_type);
    tracing::debug!(event.id = %event.id, matches = matches.len(), "event fanned out");
    let (mut inline, mut apart) = split(context, matches);
    let may_refuse = || context.publishing.is_writable();
    let begin = context
        .admission
        .begin(&event.organization_id, inline.len(), may_refuse);
    let Some(begun) = begin.await else {
        apart.append(&mut inline);
        job.processed.add_apart(event, apart);
        return job.processed.add_records(records);
    };
    if begun.has_waited && inline.len() > 1 {
        let (still, hanging) = split(context, inline);
        inline = still;
        apart.extend(hanging);
    }
    if let ([endpoint], []) = (&inline[..], &apart[..]) {
        return alone(context, job, &event, endpoint, begun, records).await;
    }
    let attempts = inline
        .into_iter()
        .map(|endpoint| Pending::new(Arc::clone(context), Arc::clone(&event), endpoint));
    job.processed.add_records(records);
    together(context, job, begun, attempts.collect()).await;
    job.processed.add_apart(event, apart);
}

/// Returns the records of the event: the endpoints that match it, and the registry's position.
///
/// With that position, the endpoints' history explains why the other endpoints do not match. An endpoint
/// whose history does not explain it is listed as well.
fn records(context: &Context, event: &Arc<Event>, received_ms: u64, considered: &Considered) -> Vec<Record> {
    if !context.config.journal {
        return Vec::new();
    }
    let Position {
        version,
        change,
        stamp,
    } = considered.position;
    let record = |part: &[(EndpointId, Verdict)]| {
        Record::Event(EventRecord {
            event: Arc::clone(event),
            received_ms,
            considered: part.iter().cloned().collect(),
            seen: Some(Seen {
                version,
                change,
                stamp,
            }),
        })
    };
    let is_named = |(registered, verdict): &&(Arc<Registered>, Verdict)| {
        *verdict == Verdict::Matched || !registered.is_told_by_history()
    };
    let named: Vec<_> = considered
        .endpoints
        .iter()
        .filter(is_named)
        .map(|(registered, verdict)| (registered.endpoint.id.clone(), *verdict))
        .collect();
    if named.is_empty() {
        return vec![record(&[])];
    }
    named.chunks(CONSIDERED_MAX).map(record).collect()
}

fn matches(considered: Considered) -> Endpoints {
    let matched = considered
        .endpoints
        .into_iter()
        .filter(|(_, verdict)| *verdict == Verdict::Matched);
    matched.map(|(registered, _)| registered).collect()
}

/// Makes the only attempt of an event that has a single delivery.
async fn alone(
    context: &Context,
    job: &mut Job<'_>,
    event: &Arc<Event>,
    endpoint: &Arc<Registered>,
    begun: Begun<'_>,
    mut records: Vec<Record>,
) {
    let slowness = Slowness::default();
    let attempting = attempt(context, first(event, endpoint), endpoint, &slowness);
    let mut attempting = std::pin::pin!(attempting);
    let ended = until_slow(attempting.as_mut(), &slowness).await;
    drop(begun);
    let effects = match ended {
        Some(effects) => effects,
        None => job.hold(first(event, endpoint), &mut records, attempting).await,
    };
    // Records of one message have the order of what happened. Those of a held message may precede them.
    job.processed.add_records(records);
    job.processed.add(effects);
}

/// Waits for the first attempts of one event, and moves each attempt that becomes slow to a held message.
async fn together(
    context: &Context,
    job: &mut Job<'_>,
    mut begun: Begun<'_>,
    mut attempts: FuturesUnordered<Pending>,
) {
    let mut slow = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(progress) = attempts.next() => match progress {
                Ok(effects) => job.processed.add(effects),
                Err(pending) => {
                    begun.give_one_back();
                    slow.push(pending);
                }
            },
            Some(progress) = slow.next() => match progress {
                Ok(effects) => job.processed.add(effects),
                Err(pending) => slow.push(pending),
            },
            () = context.may_hold(), if !slow.is_empty() => {
                for pending in std::mem::take(&mut slow) {
                    if let Some((delivery, attempt)) = pending.into_parts() {
                        job.hold_apart(&delivery, attempt);
                    }
                }
            }
            else => return,
        }
    }
}

/// Waits until the attempt ends. Returns `None` once, when the attempt has been in flight for a second.
pub(crate) async fn until_slow(
    mut attempting: Pin<&mut impl Future<Output = Effects>>,
    slowness: &Slowness,
) -> Option<Effects> {
    std::future::poll_fn(|context| match attempting.as_mut().poll(context) {
        Poll::Ready(effects) => Poll::Ready(Some(effects)),
        // The attempt becomes slow only inside its own poll, which has just happened.
        Poll::Pending if slowness.has_begun() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// A first attempt in progress. If it panics, the delivery is published as a separate message, where a panic
/// does not affect sibling deliveries.
///
/// As a future it resolves to the attempt's result, or to itself when the attempt has been in flight for a
/// second.
pub(crate) struct Pending(Option<UnderWay>);

struct UnderWay {
    event: Arc<Event>,
    endpoint: Arc<Registered>,
    slowness: Arc<Slowness>,
    attempt: Pin<Box<dyn Future<Output = Effects> + Send>>,
}

impl Pending {
    fn new(context: Arc<Context>, event: Arc<Event>, endpoint: Arc<Registered>) -> Self {
        let delivery = first(&event, &endpoint);
        let (registered, slowness) = (Arc::clone(&endpoint), Arc::new(Slowness::default()));
        let told = Arc::clone(&slowness);
        let attempt = Box::pin(async move {
            let due = delivery.clone();
            let attempting = AssertUnwindSafe(attempt(&context, delivery, &registered, &told));
            let panicked = |_| Outgoing::due(&context.topology, &due).into();
            attempting.catch_unwind().await.unwrap_or_else(panicked)
        });
        Self(Some(UnderWay {
            event,
            endpoint,
            slowness,
            attempt,
        }))
    }

    /// Returns the delivery and a future that resolves to the attempt's result.
    pub(crate) fn into_parts(self) -> Option<(Delivery, impl Future<Output = Effects> + Send + 'static)> {
        let UnderWay {
            event,
            endpoint,
            attempt,
            ..
        } = self.0?;
        Some((first(&event, &endpoint), attempt))
    }
}

impl Future for Pending {
    type Output = Result<Effects, Self>;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Self::Output> {
        let under_way = self.0.as_mut().expect("a completed attempt is not polled again");
        match under_way.attempt.as_mut().poll(context) {
            Poll::Ready(effects) => Poll::Ready(Ok(effects)),
            Poll::Pending if under_way.slowness.has_begun() => Poll::Ready(Err(Self(self.0.take()))),
            Poll::Pending => Poll::Pending,
        }
    }
}

type Endpoints = Vec<Arc<Registered>>;

/// Splits the matching endpoints into those that are attempted inline and those that get a separate message.
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
