//! `delivery resend`.

use anyhow::bail;
use serde_json::json;
use service::resend::{self, Which};
use store::{Refusal, Requested, Store};
use webhook::DeliveryId;

use crate::{command::arguments, configuration::Configuration, output, resend::Sender};

pub(super) async fn run(
    ids: Vec<String>,
    store: &Store,
    configuration: &Configuration,
    as_json: bool,
) -> anyhow::Result<()> {
    let ids: Vec<DeliveryId> = ids.into_iter().map(DeliveryId::new).collect();
    // The broker is connected first: without it, nothing is requested either.
    let mut sender = Sender::start(store, configuration, arguments::DEFAULT_RATE).await?;
    let (mut runs, mut refused) = (Vec::new(), 0);
    let requested = resend::request(store, &ids, configuration.late(), runtime::now_ms()).await?;
    for (asked, requested) in ids.iter().zip(requested) {
        match requested {
            Requested::New(run) | Requested::Open(run) => runs.push((asked, run)),
            Requested::Refused(refusal) => {
                output::note(&format!("{asked}: {refusal}{}", next(refusal)));
                refused += 1;
            }
        }
    }
    let wanted: Vec<DeliveryId> = runs.iter().map(|(_, run)| run.clone()).collect();
    sender.expect(wanted.len() as u64);
    if !wanted.is_empty() {
        sender.send(Which::These(&wanted)).await?;
    }
    let (sent, is_stopped) = (sender.sent(), sender.is_stopped());
    sender.finish().await?;
    if is_stopped && sent < wanted.len() as u64 {
        bail!(
            "interrupted: {sent} of {} deliveries were sent; run the same command again to continue",
            wanted.len()
        );
    }
    output::lines(runs.iter().map(|(asked, run)| {
        if as_json {
            output::json(&json!({ "id": run, "resend_of": asked }))
        } else {
            run.to_string()
        }
    }))?;
    if refused > 0 {
        bail!("deliveries refused: {refused}, see above; sent: {sent}");
    }
    Ok(())
}

fn next(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Unknown => "; `magnetite delivery list` lists the recorded deliveries",
        Refusal::StillPending => "; `magnetite delivery show` shows what comes next",
        Refusal::EventMissing => "; publish it again (`magnetite publish`)",
        Refusal::Ping => "; `magnetite endpoint ping` sends a new one",
    }
}
