//! Sending again what an endpoint missed, oldest first. See [`service::recover`].

use std::collections::BTreeSet;

use anyhow::{Context as _, anyhow};
use client::RecoverEndpoint;
use service::{
    recover::{Count, PAGE, Search},
    resend::Which,
};
use store::{EventCursor, RecoverState};
use tokio::time::{Instant, sleep_until};
use webhook::{Endpoint, EndpointId};
use wire::RecoveredEndpoint;

use crate::{
    output,
    resend::{Pace, Progress, Sender, all_have_events},
    signals,
};

use super::{Api, Backend, Direct, endpoints::unknown};

/// The maximum number of deliveries in one request to the API.
const LIMIT_MAX: u32 = 1000;

/// What to send again to an endpoint.
pub(crate) struct Recovery {
    pub(crate) endpoint: EndpointId,
    /// The earliest time at which an event was received, in Unix milliseconds.
    pub(crate) since_ms: u64,
    /// The time before which an event was received, in Unix milliseconds.
    pub(crate) until_ms: u64,
    pub(crate) state: RecoverState,
}

/// The result of sending.
pub(crate) struct Sent {
    /// How many deliveries were sent.
    pub(crate) number: u64,
    /// Whether a signal ended the sending.
    pub(crate) is_stopped: bool,
    /// An error if some deliveries can never be sent, because their events are gone.
    pub(crate) complete: anyhow::Result<()>,
}

impl Backend {
    /// Counts what would be sent.
    pub(crate) async fn count_missed(&self, recovery: &Recovery) -> anyhow::Result<Count> {
        match self {
            Self::Direct(direct) => direct.count_missed(recovery).await,
            Self::Api(api) => api.count_missed(recovery).await,
        }
    }

    /// Sends everything that the endpoint missed, and what an earlier call has requested and not sent, until a
    /// signal arrives. `count` is for the progress, and `rate` is in deliveries per second.
    pub(crate) async fn recover(&self, recovery: &Recovery, count: Count, rate: f64) -> anyhow::Result<Sent> {
        match self {
            Self::Direct(direct) => direct.recover(recovery, count, rate).await,
            Self::Api(api) => api.recover(recovery, count, rate).await,
        }
    }
}

impl Direct {
    async fn search(&self, recovery: &Recovery) -> anyhow::Result<Search> {
        Ok(Search {
            endpoint: enabled(self.find(&recovery.endpoint).await?)?,
            since_ms: recovery.since_ms,
            until_ms: recovery.until_ms,
            state: recovery.state,
        })
    }

    async fn count_missed(&self, recovery: &Recovery) -> anyhow::Result<Count> {
        let search = self.search(recovery).await?;
        let left = self.store.unsent(Some(&recovery.endpoint), None).await?;
        let mut count = Count {
            left,
            ..Count::default()
        };
        let mut after = None;
        loop {
            let page = search.page(&self.store, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(count);
            };
            after = Some(EventCursor::from(last));
            count.add(&page);
        }
    }

    async fn recover(&self, recovery: &Recovery, count: Count, rate: f64) -> anyhow::Result<Sent> {
        let search = self.search(recovery).await?;
        let mut sender = Sender::start(&self.store, &self.configuration, rate).await?;
        sender.expect(count.all());
        let searched = self.send(&search, &mut sender).await;
        let (number, is_stopped) = (sender.sent(), sender.is_stopped());
        let complete = sender.finish().await;
        searched?;
        Ok(Sent {
            number,
            is_stopped,
            complete,
        })
    }

    /// Sends everything that the search finds, after what an earlier run has requested and not sent.
    async fn send(&self, search: &Search, sender: &mut Sender) -> anyhow::Result<()> {
        let which = Which::Endpoint(&search.endpoint.id);
        sender.send(which).await?;
        let mut after = None;
        while !sender.is_stopped() {
            let page = search.page(&self.store, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(EventCursor::from(last));
            self.store
                .request_recoveries(&search.endpoint.id, &page, runtime::now_ms())
                .await?;
            sender.send(which).await?;
        }
        Ok(())
    }
}

/// Each request sends, or counts, at most `limit` deliveries, and goes on where the previous one ended.
impl Api {
    async fn count_missed(&self, recovery: &Recovery) -> anyhow::Result<Count> {
        let (mut count, mut cursor) = (Count::default(), None);
        loop {
            let page = self.page(recovery, LIMIT_MAX, cursor, true).await?;
            count.dead += page.dead;
            count.missed += page.missed;
            count.left += page.left;
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(count);
            }
        }
    }

    /// A request that has begun is waited for even if a signal arrives, because the API carries it out anyway.
    async fn recover(&self, recovery: &Recovery, count: Count, rate: f64) -> anyhow::Result<Sent> {
        let (stop, progress) = (signals::stop_on_signal()?, Progress::start());
        progress.expect(count.all());
        // One request per second is enough for an even rate, and the API limits the rate of requests.
        let limit = rate.clamp(1.0, LIMIT_MAX.into()) as u32;
        let mut pace = Pace::new(rate, Instant::now());
        let (mut number, mut without_event, mut cursor) = (0, BTreeSet::new(), None);
        let is_stopped = loop {
            stop.run_until_cancelled(sleep_until(pace.next())).await;
            if stop.is_cancelled() {
                break true;
            }
            let began = Instant::now();
            let page = self.page(recovery, limit, cursor, false).await;
            let page = page.with_context(|| {
                let sent = output::counted(number, "delivery", "deliveries");
                format!("stopped: {sent} sent; run the same command again to continue")
            })?;
            pace.spend(page.sent as usize, began);
            progress.advance(page.sent);
            number += page.sent;
            without_event.extend(page.event_missing);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break false;
            }
        };
        progress.finish();
        Ok(Sent {
            number,
            is_stopped,
            complete: all_have_events(without_event.iter().map(String::as_str)),
        })
    }

    async fn page(
        &self,
        recovery: &Recovery,
        limit: u32,
        cursor: Option<String>,
        dry_run: bool,
    ) -> anyhow::Result<RecoveredEndpoint> {
        let what = RecoverEndpoint {
            since_ms: recovery.since_ms,
            until_ms: Some(recovery.until_ms),
            state: match recovery.state {
                RecoverState::Dead => client::RecoverState::Dead,
                RecoverState::Missed => client::RecoverState::Missed,
                RecoverState::All => client::RecoverState::All,
            },
            limit: Some(limit),
            cursor,
            dry_run,
        };
        let page = self
            .client
            .recover_endpoint(recovery.endpoint.as_str(), &what)
            .await;
        page.map_err(|error| unknown(error, &recovery.endpoint))
    }
}

/// Returns an error if the endpoint is disabled: anything that is sent to it would be dead-lettered at once.
fn enabled(endpoint: Endpoint) -> anyhow::Result<Endpoint> {
    match &endpoint.disabled {
        None => Ok(endpoint),
        Some(disabled) => Err(anyhow!(
            "endpoint {id} is disabled ({}): everything sent to it would be dead-lettered again; run `magnetite endpoint \
             enable {id}` first",
            disabled.reason,
            id = endpoint.id
        )),
    }
}
