//! `endpoint recover`: sends again what an endpoint missed, oldest first.
//!
//! See [`service::recover`].

use anyhow::bail;
use clap::{Args, ValueEnum};
use runtime::time::Moment;
use serde_json::json;
use service::recover::Count;
use store::RecoverState;
use webhook::EndpointId;

use crate::{
    backend::{Backend, Recovery, Sent},
    command::arguments,
    output,
};

#[derive(Debug, Args)]
pub(in crate::command) struct Recover {
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

pub(super) async fn run(recover: Recover, backend: &Backend, as_json: bool) -> anyhow::Result<()> {
    let now_ms = runtime::now_ms();
    let recovery = Recovery {
        endpoint: EndpointId::new(recover.id),
        since_ms: recover.since.before(now_ms),
        until_ms: recover.until.map_or(now_ms, |until| until.before(now_ms)),
        state: recover.state.into(),
    };
    let id = &recovery.endpoint;
    // Counted before anything is sent, because the user wants to know the number, and counting is cheap.
    let count = backend.count_missed(&recovery).await?;
    if recover.dry_run {
        return report(id, count, None, as_json);
    }
    let Sent {
        number,
        is_stopped,
        complete,
    } = backend.recover(&recovery, count, recover.rate).await?;
    if is_stopped {
        bail!(
            "interrupted: {} sent to {id}; run the same command again to continue; if --since was a duration, replace it \
             with a time in UTC",
            output::counted(number, "delivery", "deliveries")
        );
    }
    report(id, count, Some(number), as_json)?;
    complete
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

impl From<State> for RecoverState {
    fn from(state: State) -> Self {
        match state {
            State::Dead => Self::Dead,
            State::Missed => Self::Missed,
            State::All => Self::All,
        }
    }
}
