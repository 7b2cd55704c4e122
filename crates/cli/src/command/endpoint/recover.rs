//! `endpoint recover`: sends again what an endpoint missed, oldest first.
//!
//! See [`service::recover`].

use anyhow::{anyhow, bail};
use clap::{Args, ValueEnum};
use runtime::time::Moment;
use serde_json::json;
use service::{
    recover::{Count, PAGE, Search},
    resend::Which,
};
use store::{EventCursor, RecoverState, Store};
use webhook::{Endpoint, EndpointId};

use crate::{command::arguments, configuration::Configuration, database, output, resend::Sender};

use super::find;

#[derive(Debug, Args)]
pub(super) struct Recover {
    /// The endpoint's id
    id: String,
    /// Events received from this time on: how long ago, such as 8h, or a time in UTC such as
    /// 2026-11-25T01:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Moment,
    /// Events received before this time [default: now]
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// What to send
    #[arg(long, value_enum, default_value_t = State::All)]
    state: State,
    /// The maximum number per second
    #[arg(long, value_name = "N/s", default_value = "100/s", value_parser = arguments::rate)]
    rate: f64,
    /// Count only, and send nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    /// Deliveries that are dead letters
    Dead,
    /// Events that match now, but were received while the endpoint was disabled
    Missed,
    /// Both
    All,
}

pub(super) async fn run(
    recover: Recover,
    configuration: &Configuration,
    as_json: bool,
) -> anyhow::Result<()> {
    let store = database::open(&configuration.database).await?;
    let done = on_store(&recover, &store, configuration, as_json).await;
    store.close().await;
    done
}

async fn on_store(
    recover: &Recover,
    store: &Store,
    configuration: &Configuration,
    as_json: bool,
) -> anyhow::Result<()> {
    let id = EndpointId::new(recover.id.as_str());
    let now_ms = runtime::now_ms();
    let search = Search {
        endpoint: enabled(find(store, &id).await?)?,
        since_ms: recover.since.before(now_ms),
        until_ms: recover.until.map_or(now_ms, |until| until.before(now_ms)),
        state: recover.state.into(),
    };
    // Counted before anything is sent, because the user wants to know the number, and counting is cheap.
    let count = Count {
        left: store.unsent(Some(&id), None).await?,
        ..count(&search, store).await?
    };
    if recover.dry_run {
        return report(&id, count, None, as_json);
    }
    let mut sender = Sender::start(store, configuration, recover.rate).await?;
    sender.expect(count.all());
    let searched = send(&search, store, &mut sender).await;
    let (sent, is_stopped) = (sender.sent(), sender.is_stopped());
    let finished = sender.finish().await;
    searched?;
    if is_stopped {
        bail!(
            "interrupted: {sent} deliveries were sent to {id}; run the same command again to continue; if --since was a \
             duration, replace it with a time in UTC"
        );
    }
    report(&id, count, Some(sent), as_json)?;
    finished
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

fn report(id: &EndpointId, count: Count, sent: Option<u64>, as_json: bool) -> anyhow::Result<()> {
    let Count { dead, missed, left } = count;
    let json = json!({
        "endpoint_id": id,
        "dead": dead,
        "missed": missed,
        "left_by_an_earlier_run": left,
        "sent": sent.unwrap_or_default(),
        "dry_run": sent.is_none(),
    });
    let done = match sent {
        None => format!("would send {}", count.all()),
        Some(sent) => format!("sent {sent}"),
    };
    let left = if left > 0 {
        format!(", left by an earlier run {left}")
    } else {
        String::new()
    };
    let text = format!("{done}: dead {dead}, missed {missed}{left}");
    output::said(as_json, &json, &text)
}

async fn count(search: &Search, store: &Store) -> anyhow::Result<Count> {
    let (mut count, mut after) = (Count::default(), None);
    loop {
        let page = search.page(store, after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(count);
        };
        after = Some(EventCursor::from(last));
        count.add(&page);
    }
}

/// Sends everything that the search finds, after what an earlier run has requested and not sent.
async fn send(search: &Search, store: &Store, sender: &mut Sender) -> anyhow::Result<()> {
    let which = Which::Endpoint(&search.endpoint.id);
    sender.send(which).await?;
    let mut after = None;
    while !sender.is_stopped() {
        let page = search.page(store, after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(EventCursor::from(last));
        store
            .request_recoveries(&search.endpoint.id, &page, runtime::now_ms())
            .await?;
        sender.send(which).await?;
    }
    Ok(())
}

impl From<State> for RecoverState {
    fn from(state: State) -> Self {
        match state {
            State::Dead => Self::Dead,
            State::Missed => Self::Missed,
            State::All => Self::All,
        }
    }
}
